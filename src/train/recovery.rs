//! How a training is saved, goes on, and goes back where it diverged.

use std::time::Instant;

use super::checkpoint::{Checkpoint, State};
use super::keeper::Keeper;
use super::kept;
use super::run::TrainRun;
use super::stop;
use super::training::Training;
use crate::error::{Error, Result};
use crate::report::{Event, MetricsLog};

/// So often the learning rate is halved where training diverges.
const MOST_HALVINGS: usize = 3;

impl Training<'_> {
    pub(super) fn resume(&mut self, found: Checkpoint) -> Result<()> {
        let State { epoch, batch, .. } = found.state;
        let said =
            format!("going on in epoch {epoch} after {} of it", self.accumulation.done_in_words(batch));
        tracing::info!("{said}");
        self.progress.message(&said);
        self.progress.event(&Event::Resumed { epoch, step: self.accumulation.steps_done(batch) });
        self.restore(found)
    }

    pub(super) fn restore(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let State { steps, batches, .. } = checkpoint.state;
        self.session.restore(&checkpoint.buffers, steps, batches)?;
        self.skipped = checkpoint.buffers["loss scaling"][2];
        self.state = checkpoint.state;
        self.step_samples.clear();
        self.metrics = MetricsLog::resume(&self.run.output_dir.join("metrics.csv"), &self.state.history)?;
        Ok(())
    }

    /// Begins to write a checkpoint, once the one before is on the disk.
    pub(super) fn save(&mut self) -> Result<()> {
        self.settle_checkpoint()?;
        let started = Instant::now();
        (self.state.steps, self.state.batches) = (self.session.steps(), self.session.batches());
        let buffers = self.session.buffers()?;
        if buffers["weights"].iter().any(|w| !w.is_finite()) {
            // The next loss will tell, and the epoch starts again from the checkpoint that is there.
            return Ok(());
        }
        // It speaks of them.
        self.settle_weights()?;
        self.keeper.write(Checkpoint { state: self.state.clone(), buffers }, started);
        Ok(())
    }

    /// Tells of what has been written meanwhile, or could not be.
    pub(super) fn settle_done(&mut self) -> Result<()> {
        if self.best_weights.is_done() {
            self.settle_weights()?;
        }
        if self.keeper.is_done() {
            self.settle_checkpoint()?;
        }
        Ok(())
    }

    /// Waits for a checkpoint that is being written, and tells of it.
    pub(super) fn settle_checkpoint(&mut self) -> Result<()> {
        if let Some((epoch, batch)) = self.keeper.settle()? {
            self.progress.event(&Event::Checkpoint { epoch, step: self.accumulation.steps_done(batch) });
        }
        Ok(())
    }

    /// Waits for the best weights that are being written, and tells of them.
    pub(super) fn settle_weights(&mut self) -> Result<()> {
        if let Some((epoch, sha256)) = self.best_weights.settle()? {
            self.progress.event(&Event::Weights { epoch, sha256: &sha256 });
            self.state.best_sha256 = Some(sha256);
        }
        Ok(())
    }

    pub(super) fn leave_if_told(&mut self) -> Result<()> {
        if !stop::is_requested() {
            return Ok(());
        }
        self.settle_checkpoint()?;
        Err(Error::Stopped(format!(
            "stopped by a signal in epoch {} and saved: the same command goes on from there",
            self.state.epoch
        )))
    }

    /// Goes back to where the epoch started, or before, and takes that epoch at half the learning rate.
    pub(super) fn halve(&mut self, what: &str) -> Result<()> {
        let (epoch, mut halvings) = (self.state.epoch, self.state.halvings.clone());
        if halvings.len() == MOST_HALVINGS {
            return Err(Error::failure(format!(
                "the training diverged again after {MOST_HALVINGS} halvings of the learning rate: {what}; \
                 set a smaller learning_rate, and look at these samples with `rosette preview`"
            )));
        }
        halvings.push(epoch);
        let said =
            format!("the training diverged: {what}; epoch {epoch} starts again at half the learning rate");
        tracing::warn!("{said}");
        self.settle_checkpoint()?;
        self.settle_weights()?;
        let checkpoint = self.keeper.before(epoch)?;
        self.restore(checkpoint)?;
        self.shown.rewind(self.state.epoch)?;
        self.state.halvings = halvings;
        // It may go on in an epoch before, at the rate of that one.
        let next = State { epoch, ..self.state.clone() };
        self.progress.event(&Event::RolledBack {
            epoch,
            halvings: self.state.halvings.len(),
            learning_rate: next.learning_rate(&self.schedule, 0),
            reason: what,
        });
        self.save()
    }
}

/// The checkpoint to go on from, where the weights are there that it speaks of.
pub(super) fn going_on(run: &TrainRun, keeper: &mut Keeper) -> Result<Option<Checkpoint>> {
    let Some(found) = (if run.restart { None } else { keeper.find() }) else { return Ok(None) };
    if kept::is_at_hand(&run.output_dir, &found.state)? {
        return Ok(Some(found));
    }
    tracing::warn!(
        "the best weights of the unfinished training in {} are gone or another's: it starts anew",
        run.output_dir.display()
    );
    Ok(None)
}
