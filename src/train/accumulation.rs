//! How batches make optimiser steps: one each, or several; each whole, or in micro-batches where memory is short.
//!
//! The gradient of a step is the mean over its batches, as in a PyTorch loop that divides each loss by their number; the
//! last step of an epoch may have fewer, and then divides by fewer. Micro-batches count by their patches, so that a batch
//! in parts has the gradient of the whole one but for batch normalisation, which sees the parts one by one, and for pixels
//! that are ignored. Running statistics move with every part.

use super::session::{PendingStep, Place, Session, StepResult};
use crate::error::Result;
use crate::ops::warp::Patch;

/// How an epoch's batches make steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accumulation {
    /// Batches a step.
    pub batches_per_step: usize,
    /// Patches on the device at once.
    pub most_patches: usize,
    /// Batches an epoch.
    pub batches: usize,
}

/// A batch that was submitted: its parts, with the share of its patches that each has.
pub struct PendingBatch(Vec<(PendingStep, f64)>);

impl Accumulation {
    /// Steps an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.batches.div_ceil(self.batches_per_step)
    }

    /// The step, from 0, that batch number `batch`, from 0, of an epoch belongs to.
    pub fn step_of(&self, batch: usize) -> usize {
        batch / self.batches_per_step
    }

    /// Whether a batch, from 0, of an epoch is the first of its step.
    pub fn opens(&self, batch: usize) -> bool {
        batch.is_multiple_of(self.batches_per_step)
    }

    /// Steps of an epoch that are done after its first `batches`; the last may have fewer batches.
    pub fn steps_done(&self, batches: usize) -> usize {
        if batches == self.batches { self.steps_per_epoch() } else { self.step_of(batches) }
    }

    /// The same in words, with the batches that a step in progress has had.
    pub fn done_in_words(&self, batches: usize) -> String {
        let steps = self.steps_done(batches);
        match batches.saturating_sub(steps * self.batches_per_step) {
            0 => format!("{steps} steps"),
            more => format!("{steps} steps and {more} of {} batches", self.batches_per_step),
        }
    }

    /// A batch's place in its step.
    fn place(&self, batch: usize) -> Place {
        let first = self.step_of(batch) * self.batches_per_step;
        let count = self.batches_per_step.min(self.batches - first);
        Place { weight: 1.0 / count as f32, opens: batch == first, closes: batch + 1 == first + count }
    }

    /// A part's place in its step: `parts` are the sizes of all parts of its batch.
    fn place_of_part(&self, batch: usize, parts: &[usize], part: usize) -> Place {
        let place = self.place(batch);
        let patches: usize = parts.iter().sum();
        Place {
            weight: place.weight * (parts[part] as f32 / patches as f32),
            opens: place.opens && part == 0,
            closes: place.closes && part + 1 == parts.len(),
        }
    }

    /// Submits batch number `batch` of an epoch, and the optimiser after the last of a step.
    ///
    /// # Errors
    /// Where the device lacks memory for the program.
    pub fn start(
        &self,
        session: &mut Session,
        patches: &[Patch],
        batch: usize,
        learning_rate: f64,
    ) -> Result<PendingBatch> {
        if !session.settings().accumulates {
            return Ok(PendingBatch(vec![(session.start_patch_step(patches, learning_rate)?, 1.0)]));
        }
        let sizes = parts(patches.len(), self.most_patches);
        let mut pending = Vec::with_capacity(sizes.len());
        let mut left = patches;
        for (part, size) in sizes.iter().enumerate() {
            let (now, later) = left.split_at(*size);
            let place = self.place_of_part(batch, &sizes, part);
            let started = session.start_micro_batch(now, place, learning_rate)?;
            pending.push((started, *size as f64 / patches.len() as f64));
            left = later;
        }
        Ok(PendingBatch(pending))
    }
}

impl PendingBatch {
    /// Waits for the result: the loss is the mean over patches.
    ///
    /// # Errors
    /// Where the device was lost.
    pub fn finish(self, session: &Session) -> Result<StepResult> {
        let mut parts = Vec::with_capacity(self.0.len());
        for (pending, share) in self.0 {
            parts.push((session.finish(pending)?, share));
        }
        let (mut whole, _) = parts.pop().expect("a batch has parts");
        if !parts.is_empty() {
            let last = (f64::from(whole.loss), 1.0 - parts.iter().map(|(_, share)| share).sum::<f64>());
            let losses = parts.iter().map(|(part, share)| (f64::from(part.loss), *share)).chain([last]);
            whole.loss = losses.map(|(loss, share)| loss * share).sum::<f64>() as f32;
            let sums = parts.into_iter().flat_map(|(part, _)| part.sums);
            whole.sums = sums.chain(std::mem::take(&mut whole.sums)).collect();
        }
        Ok(whole)
    }
}

/// The sizes of as few parts as keep to `most` each, as even as can be, larger ones first: few sizes are few programs.
pub fn parts(patches: usize, most: usize) -> Vec<usize> {
    let count = patches.div_ceil(most).max(1);
    (0..count).map(|part| patches / count + usize::from(part < patches % count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weights_of_a_step_add_up_to_one_and_a_short_last_step_divides_by_fewer() {
        let accumulation = Accumulation { batches_per_step: 3, most_patches: 4, batches: 8 };
        assert_eq!(accumulation.steps_per_epoch(), 3);
        let places: Vec<Place> = (0..8).map(|batch| accumulation.place(batch)).collect();
        let weights: Vec<f32> = places.iter().map(|place| place.weight).collect();
        let third = 1.0 / 3.0;
        assert_eq!(weights, [third, third, third, third, third, third, 0.5, 0.5]);
        let marks = |of: fn(&Place) -> bool| places.iter().map(of).collect::<Vec<_>>();
        assert_eq!(marks(|p| p.opens), [true, false, false, true, false, false, true, false]);
        assert_eq!(marks(|p| p.closes), [false, false, true, false, false, true, false, true]);
    }

    /// Batches were told as steps.
    #[test]
    fn steps_are_those_of_the_optimiser() {
        let accumulation = Accumulation { batches_per_step: 3, most_patches: 4, batches: 8 };
        let done: Vec<usize> = (0..=8).map(|batches| accumulation.steps_done(batches)).collect();
        assert_eq!(done, [0, 0, 0, 1, 1, 1, 2, 2, 3]);
        assert_eq!(accumulation.done_in_words(6), "2 steps");
        assert_eq!(accumulation.done_in_words(7), "2 steps and 1 of 3 batches");
        assert_eq!(accumulation.done_in_words(8), "3 steps");
        let single = Accumulation { batches_per_step: 1, ..accumulation };
        assert_eq!((single.steps_done(5), single.done_in_words(8)), (5, "8 steps".into()));
    }

    #[test]
    fn parts_of_a_batch_count_by_their_patches() {
        let accumulation = Accumulation { batches_per_step: 2, most_patches: 2, batches: 2 };
        let sizes = parts(5, 2);
        assert_eq!(sizes, [2, 2, 1]);
        let places: Vec<Place> = (0..3).map(|part| accumulation.place_of_part(1, &sizes, part)).collect();
        assert_eq!(places.iter().map(|p| p.weight).collect::<Vec<_>>(), [0.2, 0.2, 0.1]);
        assert!(places.iter().all(|p| !p.opens) && places[2].closes && !places[1].closes);
        assert!(
            accumulation.place_of_part(0, &sizes, 0).opens
                && !accumulation.place_of_part(0, &sizes, 2).closes
        );
    }

    #[test]
    fn parts_are_few_and_even() {
        assert_eq!(parts(8, 8), [8]);
        assert_eq!(parts(8, 7), [4, 4]);
        assert_eq!(parts(8, 3), [3, 3, 2]);
        assert_eq!(parts(3, 1), [1, 1, 1]);
    }
}
