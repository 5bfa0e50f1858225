//! Scores by pixel.

/// Smoothing of the pipeline's metrics.
const SMOOTH: f64 = 1e-6;

/// Pixels by what they are and what they were taken for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PixelScores {
    /// Rosette pixels that were found.
    pub hits: u64,
    /// Other pixels taken for rosette.
    pub false_alarms: u64,
    /// Rosette pixels that were not found.
    pub misses: u64,
}

impl PixelScores {
    /// Counts an image at a threshold: probabilities above it are predicted.
    pub fn count(probability: &[f32], target: &[u8], threshold: f64) -> Self {
        let mut scores = Self::default();
        for (p, t) in probability.iter().zip(target) {
            match (f64::from(*p) > threshold, *t > 0) {
                (true, true) => scores.hits += 1,
                (true, false) => scores.false_alarms += 1,
                (false, true) => scores.misses += 1,
                (false, false) => {}
            }
        }
        scores
    }

    /// The counts of several images together.
    pub fn pooled<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        all.fold(Self::default(), |a, b| Self {
            hits: a.hits + b.hits,
            false_alarms: a.false_alarms + b.false_alarms,
            misses: a.misses + b.misses,
        })
    }

    fn share(part: f64, whole: f64) -> f64 {
        (part + SMOOTH) / (whole + SMOOTH)
    }

    /// Intersection over union.
    pub fn iou(&self) -> f64 {
        Self::share(self.hits as f64, (self.hits + self.false_alarms + self.misses) as f64)
    }

    /// F1, the Dice coefficient.
    pub fn f1(&self) -> f64 {
        let twice = 2.0 * self.hits as f64;
        Self::share(twice, twice + (self.false_alarms + self.misses) as f64)
    }

    /// Share of what was predicted that is right.
    pub fn precision(&self) -> f64 {
        Self::share(self.hits as f64, (self.hits + self.false_alarms) as f64)
    }

    /// Share of the rosettes' pixels that was found.
    pub fn recall(&self) -> f64 {
        Self::share(self.hits as f64, (self.hits + self.misses) as f64)
    }
}

/// Average precision: the sum over thresholds of precision times the gain in recall, as scikit-learn's
/// `average_precision_score` has it, exactly; none where no pixel is a rosette's.
pub fn average_precision(probability: &[f32], target: &[u8]) -> Option<f64> {
    let positives = target.iter().filter(|t| **t > 0).count();
    if positives == 0 {
        return None;
    }
    let mut order: Vec<u32> = (0..probability.len() as u32).collect();
    order.sort_unstable_by(|a, b| probability[*b as usize].total_cmp(&probability[*a as usize]));
    let (mut hits, mut before, mut sum) = (0_usize, 0_usize, 0.0);
    for (place, at) in order.iter().enumerate() {
        hits += usize::from(target[*at as usize] > 0);
        let is_last =
            order.get(place + 1).is_none_or(|next| probability[*next as usize] != probability[*at as usize]);
        if is_last {
            sum += (hits - before) as f64 / positives as f64 * hits as f64 / (place + 1) as f64;
            before = hits;
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_relative_eq;

    #[test]
    fn average_precision_is_scikit_learns() {
        // sklearn.metrics.average_precision_score of 1.2.1
        let target = [0, 0, 1, 1, 0, 1, 0, 1];
        let probability = [0.1, 0.4, 0.35, 0.8, 0.35, 0.9, 0.0, 0.35];
        assert_relative_eq!(
            average_precision(&probability, &target).unwrap(),
            0.8333333333333333,
            epsilon = 1e-12
        );
        assert_eq!(average_precision(&[0.5, 0.5], &[0, 0]), None);
        assert_eq!(average_precision(&[0.9, 0.5], &[1, 0]), Some(1.0));
    }

    #[test]
    fn counts_are_those_of_the_pixels() {
        let scores = PixelScores::count(&[0.9, 0.5, 0.6, 0.1], &[1, 1, 0, 0], 0.5);
        assert_eq!(scores, PixelScores { hits: 1, false_alarms: 1, misses: 1 });
        assert_relative_eq!(scores.f1(), 0.5, epsilon = 1e-6);
        assert_relative_eq!(scores.iou(), 1.0 / 3.0, epsilon = 1e-6);
        assert_eq!(PixelScores::default().f1(), 1.0);
    }
}
