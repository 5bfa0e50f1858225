//! The learning rate's schedule and early stopping, as PyTorch and the pipeline have them.

use serde::{Deserialize, Serialize};

use super::checkpoint::exact;

/// `torch.optim.lr_scheduler.ReduceLROnPlateau(mode="min", factor=0.5, threshold=1e-4)`: halves the learning rate after
/// more than `patience` epochs without a loss that is lower by 0.01 %.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plateau {
    #[serde(with = "exact")]
    learning_rate: f64,
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

    /// A schedule that starts at a learning rate.
    pub fn new(learning_rate: f64, patience: usize) -> Self {
        Self { learning_rate, patience, best: f64::INFINITY, bad_epochs: 0 }
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
            let reduced = self.learning_rate * Self::FACTOR;
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
        let mut plateau = Plateau::new(1.0, 2);
        for (loss, rate) in losses.into_iter().zip(expected) {
            plateau.step(loss);
            assert_eq!(plateau.learning_rate(), rate, "after {loss}");
        }
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
