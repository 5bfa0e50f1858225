//! Which dispatches are submitted together.

use std::ops::Range;

use super::device::Limits;

/// Dispatches encoded into one submission to a GPU: few enough that it starts while the rest is still encoded.
const MOST_DISPATCHES: usize = 48;

/// Dispatches that take so many operations each, as ranges of what is submitted together, in order: at most
/// [`Limits::submission_operations`], unless one alone takes more.
pub(super) fn cut(operations: &[u64], limits: Limits) -> Vec<Range<usize>> {
    // A submission to Mesa's software adapter waits for the one before to end, and both threads sleep and wake for it.
    // There all goes at once, encoded while the step before still runs.
    let most = if limits.software { usize::MAX } else { MOST_DISPATCHES };
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut sum = 0_u64;
    for (place, operations) in operations.iter().enumerate() {
        sum = sum.saturating_add(*operations);
        match ranges.last_mut() {
            Some(open) if open.len() < most && sum <= limits.submission_operations => open.end = place + 1,
            _ => {
                sum = *operations;
                ranges.push(place..place + 1);
            }
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths of what is submitted to a device that takes so many operations at once.
    fn lengths(operations: &[u64], submission_operations: u64, software: bool) -> Vec<usize> {
        let ranges = cut(operations, Limits { submission_operations, software, ..Limits::WEBGPU });
        let covered: Vec<usize> = ranges.iter().cloned().flatten().collect();
        assert_eq!(covered, (0..operations.len()).collect::<Vec<_>>(), "each once, in order");
        ranges.iter().map(ExactSizeIterator::len).collect()
    }

    #[test]
    fn a_submission_ends_before_it_takes_too_long_or_too_much_encoding() {
        assert_eq!(lengths(&[1; 100], 1000, false), [48, 48, 4]);
        assert_eq!(lengths(&[30, 30, 30, 30, 30], 100, false), [3, 2]);
        assert_eq!(lengths(&[10, 500, 10, 10], 100, false), [1, 1, 2], "a long one goes alone");
        assert_eq!(lengths(&[u64::MAX, u64::MAX, 1], 100, false), [1, 1, 1]);
        assert_eq!(lengths(&[], 100, false), [0; 0]);
    }

    #[test]
    fn all_goes_at_once_to_a_software_adapter() {
        assert_eq!(lengths(&[1 << 40; 500], u64::MAX, true), [500]);
    }
}
