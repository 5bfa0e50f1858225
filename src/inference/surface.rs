//! Scores by outline: how far apart those of truth and prediction are, in pixels.

/// Outlines this far apart count as the same for the surface Dice.
const TOLERANCE_PX: f64 = 2.0;

/// Distances between the outlines of two masks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SurfaceScores {
    /// 95th percentile of the distances from either outline to the other, the larger of the two.
    pub hausdorff95: f64,
    /// Share of both outlines that lies within 2 px of the other (Nikolov et al. 2018).
    pub surface_dice: f64,
}

/// Compares two masks [height * width]; none where one is empty and the other is not, or both are.
pub fn surface_scores(a: &[bool], b: &[bool], height: usize, width: usize) -> Option<SurfaceScores> {
    let outlines = [outline(a, height, width), outline(b, height, width)];
    if outlines.iter().any(|outline| outline.iter().all(|on| !on)) {
        return None;
    }
    let distances = [0, 1].map(|from: usize| {
        let to = distance_to(&outlines[1 - from], height, width);
        let mut found: Vec<f64> =
            outlines[from].iter().zip(&to).filter(|(on, _)| **on).map(|(_, d)| *d).collect();
        found.sort_unstable_by(f64::total_cmp);
        found
    });
    let percentile = |sorted: &[f64]| {
        // Linear between neighbours, as numpy's.
        let at = 0.95 * (sorted.len() - 1) as f64;
        let (low, part) = (at.floor() as usize, at.fract());
        sorted[low] + part * (sorted[(low + 1).min(sorted.len() - 1)] - sorted[low])
    };
    let near = distances.iter().flatten().filter(|d| **d <= TOLERANCE_PX).count();
    let all = distances.iter().map(Vec::len).sum::<usize>();
    Some(SurfaceScores {
        hausdorff95: percentile(&distances[0]).max(percentile(&distances[1])),
        surface_dice: near as f64 / all as f64,
    })
}

/// Pixels of a mask with one outside it, or the image's border, among their four neighbours.
fn outline(mask: &[bool], height: usize, width: usize) -> Vec<bool> {
    let inside = |row: usize, column: usize| row < height && column < width && mask[row * width + column];
    (0..mask.len())
        .map(|at| {
            let (row, column) = (at / width, at % width);
            let around = [
                inside(row.wrapping_sub(1), column),
                inside(row + 1, column),
                inside(row, column.wrapping_sub(1)),
                inside(row, column + 1),
            ];
            mask[at] && around.contains(&false)
        })
        .collect()
}

/// Euclidean distance from each pixel to the nearest set one, exactly, in time linear in the pixels (Felzenszwalb and
/// Huttenlocher 2012); infinite where none is set.
pub fn distance_to(set: &[bool], height: usize, width: usize) -> Vec<f64> {
    let mut squared: Vec<f64> = set.iter().map(|on| if *on { 0.0 } else { f64::INFINITY }).collect();
    let mut line = vec![0.0; height.max(width)];
    for column in 0..width {
        (0..height).for_each(|row| line[row] = squared[row * width + column]);
        let along = lower_envelope(&line[..height]);
        (0..height).for_each(|row| squared[row * width + column] = along[row]);
    }
    for row in squared.chunks_exact_mut(width) {
        row.copy_from_slice(&lower_envelope(row));
    }
    squared.into_iter().map(f64::sqrt).collect()
}

/// min over q of (p - q)^2 + f(q), for every p.
fn lower_envelope(f: &[f64]) -> Vec<f64> {
    // Parabolas that are lowest somewhere, and where each begins to be.
    let mut parabolas: Vec<(usize, f64)> = Vec::new();
    for q in (0..f.len()).filter(|q| f[*q].is_finite()) {
        let height = |at: usize| f[at] + (at * at) as f64;
        let mut start = f64::NEG_INFINITY;
        while let Some((last, from)) = parabolas.last() {
            start = (height(q) - height(*last)) / (2.0 * (q - last) as f64);
            if start > *from {
                break;
            }
            parabolas.pop();
            start = f64::NEG_INFINITY;
        }
        parabolas.push((q, start));
    }
    let mut lowest = 0;
    let at = |p: usize| {
        while lowest + 1 < parabolas.len() && parabolas[lowest + 1].1 < p as f64 {
            lowest += 1;
        }
        let (q, _) = parabolas.get(lowest)?;
        Some(f[*q] + (p as f64 - *q as f64).powi(2))
    };
    (0..f.len()).map(at).map(|d| d.unwrap_or(f64::INFINITY)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn distances_are_those_of_the_definition(height in 1usize..14, width in 1usize..14, bits in any::<u64>()) {
            let set: Vec<bool> = (0..height * width).map(|at| bits.rotate_left(at as u32 * 7) & 3 == 0).collect();
            let found = distance_to(&set, height, width);
            for at in 0..set.len() {
                let far = |other: usize| {
                    let rows = (at / width).abs_diff(other / width) as f64;
                    rows.hypot((at % width).abs_diff(other % width) as f64)
                };
                let nearest = (0..set.len()).filter(|o| set[*o]).map(far).fold(f64::INFINITY, f64::min);
                prop_assert!(found[at] == nearest || (found[at] - nearest).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn squares_that_are_shifted_are_as_far_apart() {
        let square = |left: usize| -> Vec<bool> {
            (0..400).map(|at| (5..15).contains(&(at / 20)) && (left..left + 8).contains(&(at % 20))).collect()
        };
        let same = surface_scores(&square(4), &square(4), 20, 20).unwrap();
        assert_eq!((same.hausdorff95, same.surface_dice), (0.0, 1.0));
        let apart = surface_scores(&square(4), &square(9), 20, 20).unwrap();
        assert_eq!(apart.hausdorff95, 5.0);
        assert!(apart.surface_dice < 0.7);
        assert_eq!(surface_scores(&[false; 4], &[true; 4], 2, 2), None);
    }
}
