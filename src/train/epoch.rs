//! One epoch: its training patches, and the validation after it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::checkpoint::exact;
use super::metrics::{Metrics, Tally};
use super::session::{PendingStep, Session, StepResult};
use super::stop;
use crate::config::Experiment;
use crate::data::loader::{Dataset, PatchPlan, ValBatches};
use crate::error::Result;
use crate::ops::loss_scale::LEAST;
use crate::ops::segmentation_loss::SUMS;

/// What the training patches of an epoch came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Mean loss over the patches.
    #[serde(with = "exact")]
    pub loss: f64,
    /// Patches.
    pub patches: usize,
    /// Patches with a rosette in them.
    pub with_rosettes: usize,
    /// Their pixels in rosettes.
    #[serde(with = "exact")]
    pub rosette_pixels: f64,
    /// All of their pixels.
    #[serde(with = "exact")]
    pub pixels: f64,
    /// Steps that loss scaling skipped.
    pub skipped: u64,
    /// Steps whose gradients were measured.
    pub measured: u64,
    /// Their mean norm.
    #[serde(with = "exact")]
    pub norm: f64,
    /// Seconds that steps waited for their patches, but for the first.
    #[serde(with = "exact")]
    pub waited: f64,
}

impl Trained {
    /// Adds a step.
    pub fn add(&mut self, step: &StepResult, skipped: bool) {
        let sums: &[[f32; SUMS]] = &step.sums;
        let patches = (self.patches + sums.len()) as f64;
        self.loss += (f64::from(step.loss) - self.loss) * sums.len() as f64 / patches;
        self.patches += sums.len();
        self.with_rosettes += sums.iter().filter(|s| s[3] > 0.0).count();
        self.rosette_pixels += sums.iter().map(|s| f64::from(s[3])).sum::<f64>();
        self.pixels += sums.iter().map(|s| f64::from(s[7])).sum::<f64>();
        self.skipped += u64::from(skipped);
        if let Some(norm) = step.norm {
            self.measured += 1;
            self.norm += (f64::from(norm) - self.norm) / self.measured as f64;
        }
    }
}

/// What is wrong with a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In words.
    pub what: String,
    /// It is one of the gradients, to which every batch of the step has added.
    pub is_of_step: bool,
}

/// What is wrong with a batch, where something is; `skipped_before` steps were skipped before it.
pub fn diagnose(step: &StepResult, skipped_before: f32) -> Option<Fault> {
    if !step.loss.is_finite() {
        return Some(Fault { what: format!("the loss is {}", step.loss), is_of_step: false });
    }
    let of_step = |what| Some(Fault { what, is_of_step: true });
    // With loss scaling an overflow is no more than a step to skip.
    if let Some(norm) = step.norm.filter(|norm| step.scaling.is_none() && !norm.is_finite()) {
        return of_step(format!("the norm of the gradients is {norm}"));
    }
    let scaling = step.scaling.filter(|s| s.scale <= LEAST && s.skipped_steps > skipped_before)?;
    of_step(format!("gradients overflow f16 even where the loss is scaled by {}", scaling.scale))
}

/// What the patches of an epoch are made of.
pub fn patch_plan(experiment: &Experiment, epoch: usize) -> PatchPlan {
    let training = &experiment.training;
    PatchPlan {
        patch_px: experiment.model.patch_size,
        batch_size: training.batch_size,
        patches_per_sample: training.patches_per_sample,
        foreground_share: training.foreground_share,
        augmentation: training.augmentation.clone(),
        seed: u64::from(training.seed),
        epoch: epoch as u64,
    }
}

/// Every validation image in full with the running statistics, or with the averaged weights; none where a signal cut it short.
///
/// # Errors
/// Where the device was lost.
pub fn validate(session: &mut Session, dataset: &Arc<Dataset>, batch_size: usize) -> Result<Option<Metrics>> {
    let mut tally = Tally::new(dataset.samples().len());
    let at_once = batch_size.min(session.most_patches());
    let mut before: Option<(PendingStep, Vec<usize>)> = None;
    let batches = ValBatches::start(dataset.clone(), session.settings().patch_px, at_once);
    // The next batch goes to the device while that works on the one before.
    for batch in batches.map(Some).chain([None]) {
        let next = match batch {
            Some(batch) => Some((session.start_evaluation(&batch.x, &batch.y, false)?, batch.samples)),
            None => None,
        };
        if let Some((pending, samples)) = std::mem::replace(&mut before, next) {
            let result = session.finish(pending)?;
            samples.iter().zip(&result.sums).for_each(|(sample, sums)| tally.add(*sample, sums));
        }
        if stop::is_requested() {
            return Ok(None);
        }
    }
    Ok(Some(tally.metrics(&session.settings().loss)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The batch after it was blamed, once the weights were no numbers any more.
    #[test]
    fn gradients_that_are_no_numbers_are_found_with_the_batch_that_has_them() {
        let step = |loss: f32, norm: Option<f32>| StepResult {
            loss,
            sums: Vec::new(),
            logits: None,
            scaling: None,
            norm,
        };
        assert_eq!(diagnose(&step(0.5, Some(2.0)), 0.0), None);
        assert_eq!(diagnose(&step(0.5, None), 0.0), None);
        assert!(diagnose(&step(f32::NAN, Some(f32::NAN)), 0.0).is_some_and(|fault| !fault.is_of_step));
        for norm in [f32::NAN, f32::INFINITY] {
            let fault = diagnose(&step(0.5, Some(norm)), 0.0).expect("a fault");
            assert!(fault.what.contains("gradients") && fault.is_of_step, "{fault:?}");
        }
    }
}
