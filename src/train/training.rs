//! A training in progress: the loop one can read.

use std::time::Instant;

use sha2::{Digest, Sha256};

use super::accumulation::{Accumulation, PendingBatch};
use super::checkpoint::State;
use super::diary::{log_costs, log_epoch, log_start};
use super::epoch::{Fault, diagnose, patch_plan, validate};
use super::fit::Fit;
use super::keeper::Keeper;
use super::kept::{self, BestWeights};
use super::loaded::Loaded;
use super::recovery::going_on;
use super::run::{Outcome, Sets, TrainRun, WEIGHTS};
use super::schedule::{EarlyStopping, Plateau, Schedule};
use super::session::Session;
use super::shown::Shown;
use super::start::{given_weights, identity, keep_older_weights};
use super::stop;
use super::tuning;
use super::weights::load_weights;
use crate::data::loader::{Dataset, TrainBatches};
use crate::error::{Error, Result};
use crate::files;
use crate::report::{BestEpoch, EpochRow, Event, MetricsLog, MicroBatch, Progress, RunRecord, events};

/// A training in progress.
pub(super) struct Training<'a> {
    pub(super) run: &'a TrainRun,
    pub(super) session: Session,
    sets: Sets,
    /// Batches that the running statistics had seen before it.
    tracked: u64,
    pub(super) state: State,
    pub(super) keeper: Keeper,
    pub(super) best_weights: BestWeights,
    record: RunRecord,
    pub(super) progress: Progress,
    pub(super) metrics: MetricsLog,
    pub(super) schedule: Schedule,
    pub(super) accumulation: Accumulation,
    pub(super) shown: Shown,
    /// Steps that loss scaling has skipped.
    pub(super) skipped: f32,
    /// The samples of the step in progress.
    pub(super) step_samples: Vec<usize>,
}

/// How an epoch's training patches ended.
enum Ended {
    Whole,
    /// With what is wrong.
    Diverged(String),
}

/// A batch under way, with its samples.
type Started = (PendingBatch, Vec<usize>);

impl<'a> Training<'a> {
    /// Goes on from the last checkpoint, or starts.
    pub(super) fn start(run: &'a TrainRun, loaded: Loaded, tracked: u64) -> Result<Self> {
        let Loaded { session, sets, fit } = loaded;
        let training = &run.experiment.training;
        let (parameters, device) =
            (session.net().parameter_count() as u64, session.gpu().summary().to_string());
        let mut record = RunRecord::new(&run.experiment, parameters, &device);
        describe(&mut record, run, &fit, &sets);
        let progress = Progress::new(run.mode, training.num_epochs).of(&run.label());
        progress.message(&log_start(run, &record, &sets));
        if fit.is_cut() {
            tracing::warn!("{fit}");
        }
        progress.event(&started(run, &record));
        if let Some(MicroBatch { patches, planned_bytes, reason, .. }) = &record.micro_batch {
            let (patches, planned_bytes) = (*patches, *planned_bytes);
            progress.event(&Event::MicroBatch { patches, planned_bytes, reason });
        }
        let accumulation = Accumulation {
            batches_per_step: training.accumulation,
            most_patches: fit.most_patches,
            batches: TrainBatches::batches_per_epoch(
                sets.train.samples().len(),
                &patch_plan(&run.experiment, 1),
            ),
        };
        let schedule = Schedule::new(training, accumulation.steps_per_epoch());
        let identity = identity(run, &sets, &fit)?;
        let mut keeper = Keeper::new(&run.output_dir, identity.clone(), run.checkpoint_every);
        let found = going_on(run, &mut keeper)?;
        let metrics_path = run.output_dir.join("metrics.csv");
        let plateau = Plateau::new(training.learning_rate, training.min_learning_rate, training.patience / 2);
        let fresh = State::new(plateau, EarlyStopping::new(training.patience));
        let metrics = match &found {
            Some(found) => MetricsLog::resume(&metrics_path, &found.state.history)?,
            None => {
                keeper.clear();
                kept::forget(&run.output_dir);
                keep_older_weights(&run.output_dir)?;
                MetricsLog::create(&metrics_path)?
            }
        };
        record.data_sha256 = Some(identity.data);
        record.initial_sha256 = identity.initial;
        record.precision_used = session.settings().element.word().into();
        if found.is_some() {
            record.keep_start(&run.output_dir.join("config.json"));
        }
        record.write(&run.output_dir.join("config.json"))?;
        let from = found.as_ref().map_or(1, |found| found.state.epoch);
        let shown = Shown::start(&run.output_dir, &training.report, from)?;
        let skipped = 0.0;
        let state = fresh;
        let mut this = Self {
            run,
            session,
            sets,
            tracked,
            state,
            keeper,
            best_weights: BestWeights::new(&run.output_dir),
            record,
            progress,
            metrics,
            schedule,
            accumulation,
            shown,
            skipped,
            step_samples: Vec::new(),
        };
        match found {
            Some(found) => this.resume(found)?,
            None => {
                this.measure_given()?;
                this.state.history = this.metrics.text();
                this.save()?;
            }
        }
        Ok(this)
    }

    /// What the weights are worth that the training was given, before the first step moves them.
    fn measure_given(&mut self) -> Result<()> {
        let Some(path) = &self.run.init_weights else { return Ok(()) };
        let Some(given) = given_weights(self.run, path, &mut self.session, &self.sets.val)? else {
            return Ok(());
        };
        let said = given.to_string();
        tracing::info!("{said}");
        self.progress.message(&said);
        self.record.init_weights = Some(given);
        self.record.write(&self.run.output_dir.join("config.json"))
    }

    /// Trains what is left, and writes what comes at the end.
    pub(super) fn finish(mut self) -> Result<Outcome> {
        while !self.is_over() {
            let diverged = match self.train_epoch()? {
                Ended::Diverged(what) => Some(what),
                Ended::Whole => self.end_epoch()?,
            };
            if let Some(what) = diverged {
                self.halve(&what)?;
            } else {
                self.shown.refresh(&self.record, self.metrics.rows(), false)?;
            }
        }
        self.settle_weights()?;
        let best = self.state.best.clone();
        let best = best.ok_or_else(|| Error::failure("the validation loss was never a number"))?;
        let (tensors, _) = load_weights(&self.run.output_dir.join(WEIGHTS), self.session.net())?;
        self.session.set_tensors(&tensors);
        self.record.epochs_trained = self.metrics.rows().len();
        let last = self.record.epochs_trained;
        self.shown.finish(&self.run.experiment, &mut self.session, &self.sets.val, last)?;
        self.record.best = Some(best.clone());
        let weights = files::read_bytes(&self.run.output_dir.join(WEIGHTS))?;
        self.record.weights_sha256 = Some(files::hex(&Sha256::digest(weights)));
        self.shown.refresh(&self.record, self.metrics.rows(), true)?;
        self.record.write(&self.run.output_dir.join("config.json"))?;
        if let Err(error) = self.settle_checkpoint() {
            tracing::warn!("a checkpoint was not written, which nobody needs any more: {error}");
        }
        self.keeper.clear();
        tuning::forget(&self.run.output_dir);
        // Gone where nothing was ever trained better; else it is the weights' second name.
        kept::forget(&self.run.output_dir);
        tracing::info!(
            "best epoch {}: validation loss {:.4}, F1 {:.4}",
            best.epoch,
            best.val_loss,
            best.val_f1
        );
        log_costs(self.keeper.spent, self.shown.spent, self.metrics.rows());
        let output_dir = self.run.output_dir.clone();
        let epochs_trained = self.record.epochs_trained;
        self.progress.event(&Event::Finished { best: &best, epochs_trained, output_dir: &output_dir });
        Ok(Outcome { best, epochs: self.record.epochs_trained, output_dir })
    }

    fn is_over(&self) -> bool {
        self.state.epoch > self.run.experiment.training.num_epochs || self.state.stopping.should_stop()
    }

    /// What is left of the epoch's training patches. Losses are read a step late, so that the device never waits for the
    /// host.
    fn train_epoch(&mut self) -> Result<Ended> {
        let plan = patch_plan(&self.run.experiment, self.state.epoch);
        let accumulation = self.accumulation;
        self.progress.epoch_started(self.state.epoch, accumulation.steps_per_epoch());
        let mut next = self.state.batch;
        let mut clock = Instant::now();
        let mut before: Option<Started> = None;
        let (train, residency) = (self.sets.train.clone(), self.sets.residency.clone());
        let mut batches = TrainBatches::start(train, residency, plan, self.state.batch);
        loop {
            let waiting = Instant::now();
            let Some(batch) = batches.next() else { break };
            // The first batch of an epoch has nothing to hide behind.
            if before.is_some() {
                self.state.trained.waited += waiting.elapsed().as_secs_f64();
            }
            batch.uploads.iter().for_each(|upload| self.session.upload(upload));
            let learning_rate = self.state.learning_rate(&self.schedule, accumulation.step_of(next));
            let started = accumulation.start(&mut self.session, &batch.patches, next, learning_rate)?;
            next += 1;
            if let Some(what) = self.settle(before.replace((started, batch.samples)), &mut clock)? {
                return Ok(Ended::Diverged(what));
            }
            self.settle_done()?;
            if stop::is_requested() || self.keeper.is_due() {
                if let Some(what) = self.settle(before.take(), &mut clock)? {
                    return Ok(Ended::Diverged(what));
                }
                self.save()?;
                self.leave_if_told()?;
            }
        }
        Ok(self.settle(before.take(), &mut clock)?.map_or(Ended::Whole, Ended::Diverged))
    }

    /// Takes the result of a step, where there is one; what is wrong with it, where something is.
    fn settle(&mut self, step: Option<Started>, clock: &mut Instant) -> Result<Option<String>> {
        let Some((pending, samples)) = step else { return Ok(None) };
        let result = pending.finish(&self.session)?;
        if self.accumulation.opens(self.state.batch) {
            self.step_samples.clear();
        }
        self.state.batch += 1;
        self.step_samples.extend(&samples);
        if let Some(fault) = diagnose(&result, self.skipped) {
            return Ok(Some(self.told(&fault, &samples)));
        }
        let skipped = result.scaling.map_or(self.skipped, |scaling| scaling.skipped_steps);
        self.state.trained.add(&result, skipped > self.skipped);
        self.skipped = skipped;
        self.state.seconds += clock.elapsed().as_secs_f64();
        *clock = Instant::now();
        let trained = &self.state.trained;
        let done = self.accumulation.steps_done(self.state.batch);
        self.progress.step(done, trained.loss, trained.patches as f64 / self.state.seconds);
        Ok(None)
    }

    /// What is wrong, with the last batch and its samples, or with all of its step.
    fn told(&self, fault: &Fault, samples: &[usize]) -> String {
        let (epoch, batch) = (self.state.epoch, self.state.batch);
        let first = self.accumulation.step_of(batch - 1) * self.accumulation.batches_per_step + 1;
        let (batches, samples) = match fault.is_of_step && first < batch {
            true => (format!("batches {first} to {batch}"), self.step_samples.as_slice()),
            false => (format!("batch {batch}"), samples),
        };
        let all = self.sets.train.samples();
        let names: Vec<&str> = samples.iter().map(|sample| all[*sample].name.as_str()).collect();
        format!("epoch {epoch}, {batches} ({}): {}", names.join(", "), fault.what)
    }

    /// Validates, keeps the weights where they are the best, and writes the epoch down; what is wrong, where the
    /// validation loss is no number.
    fn end_epoch(&mut self) -> Result<Option<String>> {
        let training = &self.run.experiment.training;
        self.progress.validation_started();
        let started = Instant::now();
        let Some(metrics) = validate(&mut self.session, &self.sets.val, training.batch_size)? else {
            self.save()?;
            return self.leave_if_told().map(|()| None);
        };
        if !metrics.loss.is_finite() {
            return Ok(Some(format!("epoch {}: the validation loss is {}", self.state.epoch, metrics.loss)));
        }
        let trained = self.state.trained;
        let state = &mut self.state;
        let row = EpochRow {
            epoch: state.epoch,
            train_loss: trained.loss,
            val_loss: metrics.loss,
            val_iou: metrics.iou,
            val_f1: metrics.f1,
            val_precision: metrics.precision,
            val_recall: metrics.recall,
            learning_rate: state.learning_rate(&self.schedule, self.schedule.last_step()),
            skipped_steps: trained.skipped,
            seconds: state.seconds + started.elapsed().as_secs_f64(),
            patches_per_second: trained.patches as f64 / state.seconds,
        };
        let is_best = state.stopping.step(row.val_loss);
        state.plateau.step(row.val_loss);
        if is_best {
            let tracked = self.tracked + self.session.batches();
            self.settle_weights()?;
            // Weights without a checkpoint would be taken for those of another training, by whoever finds them. And two at once
            // take twice the memory.
            self.settle_checkpoint()?;
            self.best_weights.write(row.epoch, self.session.evaluated()?, tracked);
            self.state.best = Some(BestEpoch::from(&row));
        }
        self.progress.epoch_finished(&row, is_best);
        log_epoch(&row, &metrics, &trained, is_best);
        self.metrics.push(row)?;
        self.shown.epoch(&self.run.experiment, &mut self.session, &self.sets.val, &row, &self.progress)?;
        self.state = State {
            epoch: self.state.epoch + 1,
            batch: 0,
            trained: Default::default(),
            seconds: 0.0,
            history: self.metrics.text(),
            ..self.state.clone()
        };
        self.settle_done()?;
        if !self.is_over() && (self.keeper.is_due_after_epoch() || stop::is_requested()) {
            self.save()?;
            self.leave_if_told()?;
        }
        Ok(None)
    }
}

/// What the record holds besides the settings.
fn describe(record: &mut RunRecord, run: &TrainRun, fit: &Fit, sets: &Sets) {
    let names = |set: &Dataset| set.samples().iter().map(|sample| sample.name.clone()).collect();
    record.settings_from = run.origins.in_words();
    (record.train_sample_list, record.val_sample_list) = (names(&sets.train), names(&sets.val));
    record.device_memory_bytes = Some(fit.planned_bytes);
    record.micro_batch = fit.record();
}

fn started<'a>(run: &'a TrainRun, record: &'a RunRecord) -> Event<'a> {
    Event::Started {
        version: events::VERSION,
        rosette: &record.version,
        device: &record.device,
        total_parameters: record.total_parameters,
        train_samples: record.train_sample_list.len(),
        val_samples: record.val_sample_list.len(),
        num_epochs: run.experiment.training.num_epochs,
        output_dir: &run.output_dir,
    }
}
