//! Windows over an image of any size: where they lie, how much each of their pixels counts, and how a window is turned.

/// Flips and turns of a square, the first of which changes nothing.
pub const TRANSFORMS: usize = 8;

/// The windows of one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Windows {
    /// Side of a window.
    pub side: usize,
    /// First rows and columns, in the image's coordinates.
    pub corners: Vec<[usize; 2]>,
    /// Weight of each row, and of each column, of a window.
    pub weights: Vec<f32>,
}

impl Windows {
    /// Windows of `side` px that overlap by at least `overlap_px`, the last of each row and column shifted inside. A
    /// window's weight falls off from its middle as a Gaussian of an eighth of its side, to no less than a hundredth:
    /// what lies at its border has seen the least around it.
    ///
    /// # Panics
    /// Where the overlap is not less than the side.
    pub fn over(height: usize, width: usize, side: usize, overlap_px: usize) -> Self {
        assert!(overlap_px < side, "{overlap_px} px of {side}");
        let step = side - overlap_px;
        let columns = starts(width, side, step);
        let corners = starts(height, side, step)
            .into_iter()
            .flat_map(|top| columns.iter().map(move |left| [top, *left]));
        let middle = (side as f32 - 1.0) / 2.0;
        let sigma = side as f32 / 8.0;
        let weight = |at: usize| (-0.5 * ((at as f32 - middle) / sigma).powi(2)).exp().max(0.01);
        Self { side, corners: corners.collect(), weights: (0..side).map(weight).collect() }
    }
}

fn starts(length: usize, side: usize, step: usize) -> Vec<usize> {
    let last = length.saturating_sub(side);
    let mut starts: Vec<usize> = (0..last).step_by(step).collect();
    starts.push(last);
    starts
}

/// The pixel of an image that stands at `at`, beyond its end mirrored about the outermost pixels: a b c | b a b c ...
pub fn reflected(at: usize, length: usize) -> usize {
    if at < length {
        return at;
    }
    let period = (2 * (length - 1)).max(1);
    let folded = at % period;
    folded.min(period - folded).min(length - 1)
}

/// The pixel of a window that stands at (row, column) of its turned form: bit 2 of `transform` transposes, bit 0 and bit 1
/// mirror rows and columns. Each pixel has one place in either form.
pub fn turned(transform: usize, side: usize, row: usize, column: usize) -> [usize; 2] {
    let [row, column] = if transform & 4 > 0 { [column, row] } else { [row, column] };
    let mirrored = |at: usize, is: bool| if is { side - 1 - at } else { at };
    [mirrored(row, transform & 1 > 0), mirrored(column, transform & 2 > 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_the_image_and_lie_inside_it() {
        for (length, side, overlap) in [(100, 32, 16), (32, 32, 8), (20, 32, 16), (33, 32, 31), (500, 48, 0)]
        {
            let starts = starts(length, side, side - overlap);
            let mut covered = vec![false; length];
            for start in &starts {
                assert!(*start == 0 || start + side <= length, "{starts:?}");
                covered.iter_mut().skip(*start).take(side).for_each(|c| *c = true);
            }
            assert!(covered.iter().all(|c| *c), "{length} {side} {overlap}: {starts:?}");
            assert!(starts.windows(2).all(|pair| pair[0] < pair[1] && pair[0] + side - overlap >= pair[1]));
        }
    }

    #[test]
    fn reflection_is_numpys() {
        // numpy.pad([0, 1, 2], (0, 8), mode="reflect")
        let expected = [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2];
        assert_eq!((0..11).map(|at| reflected(at, 3)).collect::<Vec<_>>(), expected);
        assert!((0..9).all(|at| reflected(at, 1) == 0));
    }

    #[test]
    fn the_transforms_are_eight_different_ones() {
        let form = |t: usize| (0..9).map(|at| turned(t, 3, at / 3, at % 3)).collect::<Vec<_>>();
        let all: std::collections::BTreeSet<_> = (0..TRANSFORMS).map(form).collect();
        assert_eq!(all.len(), TRANSFORMS);
        assert_eq!(form(0), (0..9).map(|at| [at / 3, at % 3]).collect::<Vec<_>>());
    }
}
