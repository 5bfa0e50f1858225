//! Scores over all thresholds at once.

use super::scores::PixelScores;

/// Thresholds from 0.01 to 0.99.
const STEPS: usize = 99;

/// Pixels of several images by probability, added up.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Pixels above exactly so many thresholds: rosettes' and others.
    rosette: Vec<u64>,
    other: Vec<u64>,
}

/// What a threshold comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SweepRow {
    /// Probabilities above it are predicted.
    pub threshold: f64,
    /// Pooled over all pixels.
    pub scores: PixelScores,
}

impl Default for Sweep {
    fn default() -> Self {
        Self { rosette: vec![0; STEPS + 1], other: vec![0; STEPS + 1] }
    }
}

fn threshold(step: usize) -> f64 {
    (step + 1) as f64 / (STEPS + 1) as f64
}

impl Sweep {
    /// Adds an image.
    pub fn add(&mut self, probability: &[f32], target: &[u8]) {
        for (p, t) in probability.iter().zip(target) {
            let p = f64::from(*p);
            // A guess, mended: the thresholds themselves decide.
            let mut above = ((p * (STEPS + 1) as f64) as usize).min(STEPS);
            while above > 0 && p <= threshold(above - 1) {
                above -= 1;
            }
            while above < STEPS && p > threshold(above) {
                above += 1;
            }
            if *t > 0 { self.rosette[above] += 1 } else { self.other[above] += 1 }
        }
    }

    /// Pixels of rosettes in all images.
    pub fn rosette_pixels(&self) -> u64 {
        self.rosette.iter().sum()
    }

    /// Every threshold with its pooled scores.
    pub fn rows(&self) -> Vec<SweepRow> {
        let above = |counts: &[u64], step: usize| counts[step + 1..].iter().sum::<u64>();
        let rosettes = self.rosette_pixels();
        (0..STEPS)
            .map(|step| {
                let hits = above(&self.rosette, step);
                let false_alarms = above(&self.other, step);
                let scores = PixelScores { hits, false_alarms, misses: rosettes - hits };
                SweepRow { threshold: threshold(step), scores }
            })
            .collect()
    }

    /// The threshold of the highest F1; of equal ones the middle one.
    pub fn best(&self) -> SweepRow {
        let rows = self.rows();
        let highest = rows.iter().map(|row| row.scores.f1()).fold(f64::NEG_INFINITY, f64::max);
        let best: Vec<&SweepRow> = rows.iter().filter(|row| row.scores.f1() == highest).collect();
        *best[best.len() / 2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_counts_at_each_threshold() {
        let probability: Vec<f32> = (0..=1000).map(|i| i as f32 / 1000.0).collect();
        let target: Vec<u8> = (0..=1000).map(|i| u8::from(i > 400 && i % 3 > 0)).collect();
        let mut sweep = Sweep::default();
        sweep.add(&probability[..500], &target[..500]);
        sweep.add(&probability[500..], &target[500..]);
        for row in sweep.rows() {
            assert_eq!(
                row.scores,
                PixelScores::count(&probability, &target, row.threshold),
                "{}",
                row.threshold
            );
        }
        assert_eq!(sweep.best().threshold, 0.4);
    }
}
