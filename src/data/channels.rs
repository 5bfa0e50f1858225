//! The network's input planes, made from a sample once: cell boundaries, cells and, where wanted, intensity.

use crate::data::sample::Sample;

/// Added to the maximum that intensities are divided by, as the pipeline does.
const INTENSITY_EPSILON: f32 = 1e-8;

/// A sample ready to cut patches from. All planes are row-major [height, width].
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The sample's name.
    pub name: String,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channel 0 [height, width]: 1 at the boundaries between labels, else 0.
    pub boundary: Vec<u8>,
    /// Channel 1 [height, width]: 1 in cells, else 0.
    pub cells: Vec<u8>,
    /// Channel 2 [height, width], where it is used: intensity, at most 1 unless it was stored so.
    pub intensity: Option<Vec<f32>>,
    /// The target [height, width]: 1 in rosettes, else 0.
    pub target: Vec<u8>,
    /// Indices into the planes where `target` is 1, ascending.
    pub rosette_pixels: Vec<u32>,
}

impl Prepared {
    /// Makes the planes of `sample`; its labels are not kept.
    ///
    /// # Panics
    /// Where the image has more pixels than `u32` counts: [`crate::data::hdf5`] reads none so large.
    pub fn new(sample: Sample) -> Self {
        u32::try_from(sample.target.len()).expect("an image has less than 2^32 pixels");
        let rosette_pixels = (0u32..).zip(&sample.target).filter(|&(_, &t)| t > 0).map(|(i, _)| i).collect();
        Self {
            boundary: boundaries(&sample.labels, sample.height, sample.width),
            cells: sample.labels.iter().map(|&label| u8::from(label > 0)).collect(),
            intensity: sample.intensity.map(normalise),
            name: sample.name,
            height: sample.height,
            width: sample.width,
            target: sample.target,
            rosette_pixels,
        }
    }

    /// How many input channels there are: 2, or 3 with intensity.
    pub fn channels(&self) -> usize {
        2 + usize::from(self.intensity.is_some())
    }
}

/// Where a pixel's label differs from that of one of its four neighbours: 1, else 0. `labels` and the result are
/// [height, width]; what lies outside the image counts for nothing. Follows skimage's
/// `find_boundaries(labels, mode="thick")`, bit for bit.
pub fn boundaries(labels: &[u32], height: usize, width: usize) -> Vec<u8> {
    let mut out = vec![0; labels.len()];
    let mut mark = |a: usize, b: usize| {
        if labels[a] != labels[b] {
            out[a] = 1;
            out[b] = 1;
        }
    };
    for y in 0..height {
        for at in y * width..(y + 1) * width {
            if at + 1 < (y + 1) * width {
                mark(at, at + 1);
            }
            if y + 1 < height {
                mark(at, at + width);
            }
        }
    }
    out
}

/// Divides by the maximum where that exceeds 1: camera counts come out in 0..=1, what is normalised already stays.
fn normalise(mut intensity: Vec<f32>) -> Vec<f32> {
    let max = intensity.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max > 1.0 {
        intensity.iter_mut().for_each(|v| *v /= max + INTENSITY_EPSILON);
    }
    intensity
}

#[cfg(test)]
mod tests {
    use super::normalise;

    #[test]
    fn intensity_is_divided_only_above_one() {
        assert_eq!(normalise(vec![0.0, 0.25, 1.0]), [0.0, 0.25, 1.0]);
        assert_eq!(normalise(vec![0.0, 0.25, 0.5]), [0.0, 0.25, 0.5]);
        assert_eq!(normalise(vec![0.0, 1.0, 4.0]), [0.0, 0.25, 1.0]);
        assert_eq!(normalise(vec![-2.0, 2.0]), [-1.0, 1.0]);
    }
}
