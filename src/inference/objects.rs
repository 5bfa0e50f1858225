//! Scores by rosette: found or missed.

use std::collections::HashMap;

/// Rosettes of truth and prediction.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ObjectScores {
    /// Rosettes that a predicted one overlaps by more than half of their union.
    pub found: usize,
    /// Predicted ones that do not overlap any so.
    pub false_alarms: usize,
    /// Rosettes that none overlaps so.
    pub missed: usize,
    /// Sum of the found ones' intersections over union.
    pub iou_sum: f64,
}

impl ObjectScores {
    /// Those of several images together.
    pub fn pooled<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        all.fold(Self::default(), |a, b| Self {
            found: a.found + b.found,
            false_alarms: a.false_alarms + b.false_alarms,
            missed: a.missed + b.missed,
            iou_sum: a.iou_sum + b.iou_sum,
        })
    }

    fn share(part: f64, whole: f64) -> f64 {
        if whole == 0.0 { 1.0 } else { part / whole }
    }

    /// Share of the predicted rosettes that are there.
    pub fn precision(&self) -> f64 {
        Self::share(self.found as f64, (self.found + self.false_alarms) as f64)
    }

    /// Share of the rosettes that were found.
    pub fn recall(&self) -> f64 {
        Self::share(self.found as f64, (self.found + self.missed) as f64)
    }

    fn half_errors(&self) -> f64 {
        self.found as f64 + 0.5 * (self.false_alarms + self.missed) as f64
    }

    /// F1 of rosettes.
    pub fn f1(&self) -> f64 {
        Self::share(self.found as f64, self.half_errors())
    }

    /// Panoptic quality (Kirillov et al. 2019): F1 times the mean intersection over union of what was found.
    pub fn panoptic_quality(&self) -> f64 {
        Self::share(self.iou_sum, self.half_errors())
    }
}

/// Numbers the 8-connected parts of a mask [height * width] from 1; 0 elsewhere.
pub fn components(mask: &[bool], height: usize, width: usize) -> Vec<u32> {
    let mut labels = vec![0; mask.len()];
    let (mut count, mut stack) = (0, Vec::new());
    for start in 0..mask.len() {
        if !mask[start] || labels[start] > 0 {
            continue;
        }
        count += 1;
        labels[start] = count;
        stack.push(start);
        while let Some(at) = stack.pop() {
            let (row, column) = (at / width, at % width);
            for y in row.saturating_sub(1)..(row + 2).min(height) {
                for x in column.saturating_sub(1)..(column + 2).min(width) {
                    let next = y * width + x;
                    if mask[next] && labels[next] == 0 {
                        labels[next] = count;
                        stack.push(next);
                    }
                }
            }
        }
    }
    labels
}

/// Sets the pixels of instances that have fewer than `min_px` to 0.
pub fn drop_small(labels: &mut [u32], min_px: usize) {
    let mut sizes: HashMap<u32, usize> = HashMap::new();
    labels.iter().for_each(|label| *sizes.entry(*label).or_default() += 1);
    labels.iter_mut().filter(|label| sizes[*label] < min_px).for_each(|label| *label = 0);
}

/// Matches instances by an intersection over union above one half, which at most one pair of each can have.
pub fn match_objects(predicted: &[u32], truth: &[u32]) -> ObjectScores {
    let mut sizes: [HashMap<u32, usize>; 2] = Default::default();
    let mut shared: HashMap<(u32, u32), usize> = HashMap::new();
    for (&p, &t) in predicted.iter().zip(truth) {
        for (label, sizes) in [p, t].into_iter().zip(&mut sizes) {
            if label > 0 {
                *sizes.entry(label).or_default() += 1;
            }
        }
        if p > 0 && t > 0 {
            *shared.entry((p, t)).or_default() += 1;
        }
    }
    let mut scores = ObjectScores::default();
    let mut pairs: Vec<_> = shared.into_iter().collect();
    // In an order of their own, so that the sum of floats is the same every time.
    pairs.sort_unstable();
    for ((p, t), both) in pairs {
        let iou = both as f64 / (sizes[0][&p] + sizes[1][&t] - both) as f64;
        if iou > 0.5 {
            scores.found += 1;
            scores.iou_sum += iou;
        }
    }
    scores.false_alarms = sizes[0].len() - scores.found;
    scores.missed = sizes[1].len() - scores.found;
    scores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners_connect() {
        let mask: Vec<bool> = "1.1.1.1.1..1....".chars().map(|c| c == '1').collect();
        // 1.1.
        // 1.1.
        // 1..1
        // ....
        assert_eq!(components(&mask, 4, 4), [1, 0, 2, 0, 1, 0, 2, 0, 1, 0, 0, 2, 0, 0, 0, 0]);
    }

    #[test]
    fn instances_below_the_smallest_size_go() {
        let labels = [0, 7, 7, 7, 2, 2, 0, 9];
        for (min_px, kept) in
            [(0, labels), (1, labels), (2, [0, 7, 7, 7, 2, 2, 0, 0]), (3, [0, 7, 7, 7, 0, 0, 0, 0])]
        {
            let mut found = labels;
            drop_small(&mut found, min_px);
            assert_eq!(found, kept, "{min_px} px");
        }
    }

    #[test]
    fn a_rosette_is_found_where_more_than_half_of_the_union_is_shared() {
        // Found with 3 of 4; touched with 1 of 3; missed; a false alarm.
        let truth = [1, 1, 1, 0, 2, 2, 0, 3, 0, 0];
        let predicted = [5, 5, 5, 5, 0, 6, 6, 0, 0, 7];
        let scores = match_objects(&predicted, &truth);
        assert_eq!((scores.found, scores.false_alarms, scores.missed), (1, 2, 2));
        assert_eq!((scores.iou_sum, scores.f1(), scores.panoptic_quality()), (0.75, 1.0 / 3.0, 0.25));
        assert_eq!(match_objects(&[0; 3], &[0; 3]).f1(), 1.0);
    }
}
