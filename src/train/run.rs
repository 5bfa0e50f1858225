//! A training from its inputs to its outputs: the loop one can read.
//!
//! Whatever ends it (a signal, a power cut, a full disk), the same command goes on from the last checkpoint and ends with
//! the same bytes. An epoch that diverges is trained again from its start at half the learning rate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::accumulation::{Accumulation, PendingBatch};
use super::checkpoint::{Checkpoint, Keeper, State};
use super::diary::{log_costs, log_epoch, log_start};
use super::epoch::{Fault, diagnose, patch_plan, validate};
use super::fit::Fit;
use super::kept;
use super::loaded::{self, Loaded};
use super::lock::DirLock;
use super::plan::{experiment_questions, network, settings};
use super::schedule::{EarlyStopping, Plateau, Schedule};
use super::session::Session;
use super::shown::Shown;
use super::start::{given_weights, identity, initial_tensors, keep_older_weights};
use super::step::StepSettings;
use super::stop;
use super::tuning::{self, TuningCache};
use super::weights::{load_weights, save_weights};
use crate::config::{Experiment, Origins};
use crate::data::loader::{Dataset, TrainBatches};
use crate::data::residency::Residency;
use crate::data::split::Manifest;
use crate::error::{Error, Result};
use crate::files;
use crate::gpu::Gpu;
use crate::report::{BestEpoch, EpochRow, Event, MetricsLog, MicroBatch, Mode, Progress, RunRecord};
use crate::report::{events, logging};

/// Within an epoch, checkpoints are this far apart unless told otherwise.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);
/// So often the learning rate is halved where training diverges.
const MOST_HALVINGS: usize = 3;
pub(super) const WEIGHTS: &str = "best_model.pth";

/// What a training is given.
#[derive(Debug, Clone)]
pub struct TrainRun {
    /// Every setting.
    pub experiment: Experiment,
    /// Where the settings come from, to be told.
    pub origins: Origins,
    /// The split.
    pub split_manifest: PathBuf,
    /// Where the samples lie.
    pub data_dir: PathBuf,
    /// Where everything is written.
    pub output_dir: PathBuf,
    /// Whether that has to be a new directory; where it is taken, its name gets a number.
    pub in_new_dir: bool,
    /// A second log file.
    pub log_file: Option<PathBuf>,
    /// Weights to start from, instead of random ones.
    pub init_weights: Option<PathBuf>,
    /// Number or name of the adapter.
    pub adapter: Option<String>,
    /// Which of the experiment's trainings it is, where there are several.
    pub member: Option<String>,
    /// How progress is shown.
    pub mode: Mode,
    /// Start anew even where an unfinished training could go on.
    pub restart: bool,
    /// Time between checkpoints within an epoch; zero for one after every step.
    pub checkpoint_every: Duration,
}

impl TrainRun {
    /// `experiment` or `experiment/member`.
    pub fn label(&self) -> String {
        events::label(&self.experiment.name, self.member.as_deref())
    }
}

/// What a training came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The epoch whose weights were kept.
    pub best: BestEpoch,
    /// Epochs trained.
    pub epochs: usize,
    /// Where everything was written.
    pub output_dir: PathBuf,
}

/// The samples of a training.
pub struct Sets {
    /// What it learns from.
    pub train: Arc<Dataset>,
    /// What it is measured on.
    pub val: Arc<Dataset>,
    /// Where the training samples lie on the device.
    pub residency: Arc<Residency>,
}

/// Trains, validates after every epoch, and writes weights, metrics, plots, log and record.
///
/// # Errors
/// A user error where an input is wrong; a failure where the device or the disk fails or the training diverges in spite
/// of all; [`Error::Stopped`] where a signal ended it.
pub fn train(run: &TrainRun) -> Result<Outcome> {
    stop::listen();
    let training = &run.experiment.training;
    if training.folds > 1 || !training.seeds.is_empty() {
        let found = format!("{} folds, {} seeds", training.folds, training.seeds.len());
        let remedy = "give it to `rosette train` or `rosette run`, which train them one by one";
        return Err(Error::user("folds and seeds", "one training", found, remedy));
    }
    let manifest = Manifest::read(&run.split_manifest)?;
    let (train, val) = (load(run, &manifest.train_sample_list)?, load(run, &manifest.val_sample_list)?);
    let (initial, tracked) = initial_tensors(run, &network(&run.experiment))?;
    let gpu = Gpu::open(run.adapter.as_deref())?;
    let tuning = match run.experiment.training.deterministic {
        true => TuningCache::load(gpu.summary()).by_limits(),
        false => {
            let asked = experiment_questions(&run.experiment, gpu.limits())?;
            tuning::of_training(&run.output_dir, run.restart, &gpu, &asked)?
        }
    };
    let settings = StepSettings { tuning, ..settings(&run.experiment, gpu.limits()) };
    let loaded = loaded::load(run, gpu, settings, &initial, (train, val))?;

    let run = &placed(run)?;
    let _lock = DirLock::take(&run.output_dir)?;
    let log_path = run.output_dir.join("training.log");
    let logs: Vec<&Path> = run.log_file.as_deref().into_iter().chain([log_path.as_path()]).collect();
    let _log = logging::start(&logs)?;
    tuning::keep(&run.output_dir, tuning)?;
    tracing::info!(
        "kernels of {} convolutions by measurement, of all others by the device's limits",
        tuning.len()
    );
    let outcome = Training::start(run, loaded, tracked).and_then(Training::finish);
    if let Err(error) = &outcome {
        // For the files: the terminal hears of it from the command line.
        tracing::info!("stopped: {error}");
    }
    outcome
}

/// A training in progress.
struct Training<'a> {
    run: &'a TrainRun,
    session: Session,
    sets: Sets,
    /// Batches that the running statistics had seen before it.
    tracked: u64,
    state: State,
    keeper: Keeper,
    record: RunRecord,
    progress: Progress,
    metrics: MetricsLog,
    schedule: Schedule,
    accumulation: Accumulation,
    shown: Shown,
    /// Steps that loss scaling has skipped.
    skipped: f32,
    /// The samples of the step in progress.
    step_samples: Vec<usize>,
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
    fn start(run: &'a TrainRun, loaded: Loaded, tracked: u64) -> Result<Self> {
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

    fn resume(&mut self, found: Checkpoint) -> Result<()> {
        let State { epoch, batch, .. } = found.state;
        let said =
            format!("going on in epoch {epoch} after {} of it", self.accumulation.done_in_words(batch));
        tracing::info!("{said}");
        self.progress.message(&said);
        self.progress.event(&Event::Resumed { epoch, step: self.accumulation.steps_done(batch) });
        self.restore(found)
    }

    fn restore(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let State { steps, batches, .. } = checkpoint.state;
        self.session.restore(&checkpoint.buffers, steps, batches)?;
        self.skipped = checkpoint.buffers["loss scaling"][2];
        self.state = checkpoint.state;
        self.metrics = MetricsLog::resume(&self.run.output_dir.join("metrics.csv"), &self.state.history)?;
        Ok(())
    }

    /// Trains what is left, and writes what comes at the end.
    fn finish(mut self) -> Result<Outcome> {
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
            save_weights(&self.run.output_dir.join(WEIGHTS), &self.session.evaluated_tensors()?, tracked)?;
            self.state.best_sha256 = Some(kept::keep(&self.run.output_dir)?);
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
        if !self.is_over() && (self.keeper.is_due_after_epoch() || stop::is_requested()) {
            self.save()?;
            self.leave_if_told()?;
        }
        Ok(None)
    }

    /// Writes a checkpoint.
    fn save(&mut self) -> Result<()> {
        let started = Instant::now();
        (self.state.steps, self.state.batches) = (self.session.steps(), self.session.batches());
        let buffers = self.session.buffers()?;
        if buffers["weights"].iter().any(|w| !w.is_finite()) {
            // The next loss will tell, and the epoch starts again from the checkpoint that is there.
            return Ok(());
        }
        self.keeper.write(Checkpoint { state: self.state.clone(), buffers }, started)?;
        let step = self.accumulation.steps_done(self.state.batch);
        self.progress.event(&Event::Checkpoint { epoch: self.state.epoch, step });
        Ok(())
    }

    fn leave_if_told(&self) -> Result<()> {
        if !stop::is_requested() {
            return Ok(());
        }
        Err(Error::Stopped(format!(
            "stopped by a signal in epoch {} and saved: the same command goes on from there",
            self.state.epoch
        )))
    }

    /// Goes back to where the epoch started, or before, and takes that epoch at half the learning rate.
    fn halve(&mut self, what: &str) -> Result<()> {
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

/// The same training in the directory that is its own: two that start in the same second must not share one.
fn placed(run: &TrainRun) -> Result<TrainRun> {
    let mut run = run.clone();
    if run.in_new_dir {
        run.output_dir = files::create_new_dir(&run.output_dir)?;
    }
    Ok(run)
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

/// The checkpoint to go on from, where the weights are there that it speaks of.
fn going_on(run: &TrainRun, keeper: &mut Keeper) -> Result<Option<Checkpoint>> {
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

fn load(run: &TrainRun, names: &[String]) -> Result<Arc<Dataset>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let use_intensity = run.experiment.model.use_intensity;
    Ok(Arc::new(Dataset::load(&run.data_dir, names, use_intensity, threads)?))
}
