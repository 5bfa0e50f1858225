//! The learning rate's schedule and early stopping, as PyTorch and the pipeline have them.

use serde::{Deserialize, Serialize};

use super::checkpoint::exact;
use crate::config::{Scheduler, TrainingConfig};

/// The learning rate of every optimiser step: a rise over the first steps, then one of four ways on.
///
/// The rise is `torch.optim.lr_scheduler.LinearLR(start_factor=1 / (w + 1), total_iters=w)` over w steps. What follows
/// counts from its end: `CosineAnnealingLR(T_max=n, eta_min=min_learning_rate)`, or `PolynomialLR(total_iters=n,
/// power=poly_power)` above `min_learning_rate`, over the n steps that are left of `num_epochs`; both are taken step by
/// step. [`Plateau`] goes by epochs.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    scheduler: Scheduler,
    learning_rate: f64,
    least: f64,
    power: f64,
    steps_per_epoch: usize,
    warmup_steps: usize,
    steps: usize,
}

impl Schedule {
    /// The schedule of a training with so many optimiser steps an epoch.
    pub fn new(training: &TrainingConfig, steps_per_epoch: usize) -> Self {
        Self {
            scheduler: training.scheduler,
            learning_rate: training.learning_rate,
            least: training.min_learning_rate,
            power: training.poly_power,
            steps_per_epoch,
            warmup_steps: (training.warmup_epochs * steps_per_epoch as f64).round() as usize,
            steps: training.num_epochs * steps_per_epoch,
        }
    }

    /// The number, from 0, of an epoch's last step.
    pub fn last_step(&self) -> usize {
        self.steps_per_epoch.saturating_sub(1)
    }

    /// The learning rate of step number `step`, from 0, of an epoch, counted from 1.
    pub fn learning_rate(&self, plateau: &Plateau, epoch: usize, step: usize) -> f64 {
        let at = (epoch - 1) * self.steps_per_epoch + step;
        if at < self.warmup_steps {
            return self.learning_rate * (at + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        let left = (self.steps.saturating_sub(self.warmup_steps)).max(1);
        let done = ((at - self.warmup_steps) as f64 / left as f64).min(1.0);
        let above = |share: f64| self.least + (self.learning_rate - self.least) * share;
        match self.scheduler {
            Scheduler::Plateau => plateau.learning_rate(),
            Scheduler::Cosine => above((1.0 + (std::f64::consts::PI * done).cos()) / 2.0),
            Scheduler::Poly => above((1.0 - done).powf(self.power)),
            Scheduler::Constant => self.learning_rate,
        }
    }
}

/// `torch.optim.lr_scheduler.ReduceLROnPlateau(mode="min", factor=0.5, threshold=1e-4, min_lr=least)`: halves the learning rate after
/// more than `patience` epochs without a loss that is lower by 0.01 %.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    #[serde(with = "exact")]
    learning_rate: f64,
    #[serde(with = "exact")]
    least: f64,
    patience: usize,
    #[serde(with = "exact")]
    best: f64,
    bad_epochs: usize,
}

impl Plateau {
    const FACTOR: f64 = 0.5;
    const THRESHOLD: f64 = 1e-4;
    /// Smaller changes of the learning rate are not made.
    const LEAST_CHANGE: f64 = 1e-8;

    /// A schedule that starts at a learning rate and does not go below `least`.
    pub fn new(learning_rate: f64, least: f64, patience: usize) -> Self {
        Self { learning_rate, least, patience, best: f64::INFINITY, bad_epochs: 0 }
    }

    /// The learning rate of the next epoch.
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    /// Takes an epoch's validation loss.
    pub fn step(&mut self, loss: f64) {
        if loss < self.best * (1.0 - Self::THRESHOLD) {
            self.best = loss;
            self.bad_epochs = 0;
        } else {
            self.bad_epochs += 1;
        }
        if self.bad_epochs > self.patience {
            self.bad_epochs = 0;
            let reduced = (self.learning_rate * Self::FACTOR).max(self.least);
            if self.learning_rate - reduced > Self::LEAST_CHANGE {
                self.learning_rate = reduced;
            }
        }
    }
}

/// Ends a training after `patience` epochs without a new lowest validation loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlyStopping {
    patience: usize,
    #[serde(with = "exact")]
    best: f64,
    bad_epochs: usize,
}

impl EarlyStopping {
    /// Nothing seen yet.
    pub fn new(patience: usize) -> Self {
        Self { patience, best: f64::INFINITY, bad_epochs: 0 }
    }

    /// Takes an epoch's validation loss; true where it is the lowest so far.
    pub fn step(&mut self, loss: f64) -> bool {
        let is_best = loss < self.best;
        if is_best {
            self.best = loss;
            self.bad_epochs = 0;
        } else {
            self.bad_epochs += 1;
        }
        is_best
    }

    /// It is time to end.
    pub fn should_stop(&self) -> bool {
        self.bad_epochs >= self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Learning rates after each loss, from PyTorch 1.13 with patience 2 and these losses.
    #[test]
    fn plateau_follows_pytorch() {
        let losses = [1.0, 0.9, 0.9, 0.89995, 0.9, 0.9, 0.9, 0.9, 0.5, 0.6, 0.6, 0.6, 0.6];
        let expected = [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.125, 0.125];
        let mut plateau = Plateau::new(1.0, 0.0, 2);
        for (loss, rate) in losses.into_iter().zip(expected) {
            plateau.step(loss);
            assert_eq!(plateau.learning_rate(), rate, "after {loss}");
        }
    }

    #[test]
    fn plateau_ends_at_the_least_rate() {
        // PyTorch 1.13: ReduceLROnPlateau(factor=0.5, patience=1, min_lr=0.3) from 1.0, the loss 1.0 each time.
        let mut plateau = Plateau::new(1.0, 0.3, 1);
        for rate in [1.0, 1.0, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3] {
            plateau.step(1.0);
            assert_eq!(plateau.learning_rate(), rate);
        }
    }

    /// The rates of the first eight steps, two an epoch, of a training from 0.01.
    fn rates(settings: TrainingConfig) -> Vec<f64> {
        let settings = TrainingConfig { learning_rate: 0.01, num_epochs: 4, ..settings };
        let (schedule, plateau) = (Schedule::new(&settings, 2), Plateau::new(0.01, 0.0, 9));
        (0..8).map(|at| schedule.learning_rate(&plateau, 1 + at / 2, at % 2)).collect()
    }

    fn assert_close(found: &[f64], expected: [f64; 8]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15, "{found} instead of {expected}");
        }
    }

    /// PyTorch 1.13: CosineAnnealingLR(T_max=8, eta_min=1e-4), a step a time.
    #[test]
    fn cosine_follows_pytorch() {
        let settings = TrainingConfig {
            scheduler: Scheduler::Cosine,
            min_learning_rate: 1e-4,
            ..TrainingConfig::default()
        };
        let expected = [
            0.01,
            0.009_623_203_685_930_87,
            0.008_550_178_566_873_41,
            0.006_944_282_990_207_195,
            0.005_05,
            0.003_155_717_009_792_806,
            0.001_549_821_433_126_590_2,
            0.000_476_796_314_069_130_7,
        ];
        assert_close(&rates(settings), expected);
    }

    /// PyTorch 1.13: SequentialLR([LinearLR(1 / 4, 1, 3), CosineAnnealingLR(T_max=5)], [3]).
    #[test]
    fn warmup_follows_pytorch_and_may_end_within_an_epoch() {
        let settings =
            TrainingConfig { scheduler: Scheduler::Cosine, warmup_epochs: 1.5, ..TrainingConfig::default() };
        let expected = [
            0.0025,
            0.005,
            0.0075,
            0.01,
            0.009_045_084_971_874_737,
            0.006_545_084_971_874_737,
            0.003_454_915_028_125_263,
            0.000_954_915_028_125_263,
        ];
        assert_close(&rates(settings), expected);
        let constant = TrainingConfig {
            scheduler: Scheduler::Constant,
            warmup_epochs: 1.5,
            ..TrainingConfig::default()
        };
        assert_close(&rates(constant), [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01, 0.01, 0.01]);
    }

    /// PyTorch 1.13: PolynomialLR(total_iters=8, power=0.9).
    #[test]
    fn poly_follows_pytorch() {
        let settings = TrainingConfig { scheduler: Scheduler::Poly, ..TrainingConfig::default() };
        let expected = [
            0.01,
            0.008_867_623_542_572_074,
            0.007_718_895_067_235_704,
            0.006_550_764_934_180_986,
            0.005_358_867_312_681_466,
            0.004_136_453_446_582_762,
            0.002_871_745_887_492_587,
            0.001_538_930_516_681_114_7,
        ];
        assert_close(&rates(settings), expected);
    }

    #[test]
    fn plateau_takes_over_after_the_warmup() {
        let settings = TrainingConfig { warmup_epochs: 1.0, ..TrainingConfig::default() };
        let schedule = Schedule::new(&settings, 3);
        let plateau = Plateau::new(5e-4, 0.0, 9);
        let rate = |epoch, step| schedule.learning_rate(&plateau, epoch, step);
        assert_eq!([rate(1, 0), rate(1, 2), rate(2, 0)], [0.001 / 4.0, 0.001 * 3.0 / 4.0, 5e-4]);
    }

    #[test]
    fn early_stopping_counts_epochs_without_a_new_best() {
        let mut stopping = EarlyStopping::new(2);
        assert!(stopping.step(1.0));
        assert!(!stopping.step(1.0));
        assert!(!stopping.should_stop());
        assert!(stopping.step(0.9));
        assert!(!stopping.step(f64::NAN));
        assert!(!stopping.step(0.95));
        assert!(stopping.should_stop());
    }
}
