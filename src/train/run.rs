//! A training from its inputs to its outputs: the loop one can read.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::metrics::{Metrics, Tally};
use super::predict::probabilities;
use super::schedule::{EarlyStopping, Plateau};
use super::session::Session;
use super::step::{StepSettings, record_evaluation, record_training};
use super::weights::{load_weights, save_weights};
use crate::config::Experiment;
use crate::data::augment::smoothing_weights;
use crate::data::loader::{Dataset, PatchPlan, TrainBatches, ValBatches};
use crate::data::residency::Residency;
use crate::data::split::Manifest;
use crate::data::tiles::tiles;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Limits};
use crate::model::{AttentionUNet, NamedTensor, Spec};
use crate::ops::bce_dice::SUMS;
use crate::ops::warp::{PatchSource, most_chunk_words};
use crate::report::{BestEpoch, EpochRow, MetricsLog, Mode, Prediction, Progress, RunRecord};
use crate::report::{logging, overlay, plots};
use crate::tape::MemoryPlan;

/// Validation images in `predictions.png`.
const PICTURED: usize = 4;
/// While a training runs, its plots are drawn anew at most this often.
const PLOTS_EVERY: Duration = Duration::from_secs(30);

/// What a training is given.
#[derive(Debug, Clone)]
pub struct TrainRun {
    /// Every setting.
    pub experiment: Experiment,
    /// The split.
    pub split_manifest: PathBuf,
    /// Where the samples lie.
    pub data_dir: PathBuf,
    /// Where everything is written.
    pub output_dir: PathBuf,
    /// A second log file.
    pub log_file: Option<PathBuf>,
    /// Weights to start from, instead of random ones.
    pub init_weights: Option<PathBuf>,
    /// Number or name of the adapter.
    pub adapter: Option<String>,
    /// How progress is shown.
    pub mode: Mode,
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

/// The network of an experiment.
pub fn network(experiment: &Experiment) -> AttentionUNet {
    AttentionUNet::new(Spec {
        in_channels: experiment.input_channels(),
        base_channels: experiment.model.base_channels,
        skip: experiment.model.skip,
    })
}

fn settings(experiment: &Experiment) -> StepSettings {
    StepSettings {
        patch_px: experiment.model.patch_size,
        dice_weight: experiment.training.dice_weight as f32,
        weight_decay: experiment.training.weight_decay as f32,
        winograd: experiment.training.winograd,
        recompute: experiment.training.recompute,
        patches: None,
    }
}

/// Plans where the training samples lie on the device, and puts those there that stay.
fn place_samples(run: &TrainRun, session: &mut Session, train_set: &Dataset) -> Result<Arc<Residency>> {
    let training = &run.experiment.training;
    let budget_words = (training.data.memory_budget * f64::from(1 << 28)) as usize;
    let most_words = most_chunk_words(session.gpu().limits());
    let residency = Residency::plan(train_set.samples(), budget_words, most_words, training.batch_size)?;
    let weights = smoothing_weights(&training.augmentation, run.experiment.model.patch_size);
    session.make_patches(&residency, weights)?;
    residency.first_uploads(train_set.samples()).for_each(|upload| session.upload(&upload));
    Ok(Arc::new(residency))
}

/// Trains, validates after every epoch, and writes weights, metrics, plots, log and record.
///
/// # Errors
/// A user error where an input is wrong; a failure where the device or the disk fails or the loss is no number.
pub fn train(run: &TrainRun) -> Result<Outcome> {
    let manifest = Manifest::read(&run.split_manifest)?;
    let train_set = load(run, &manifest.train_sample_list)?;
    let val_set = load(run, &manifest.val_sample_list)?;
    let net = network(&run.experiment);
    let (initial, tracked) = initial_tensors(run, &net)?;
    let gpu = Gpu::open(run.adapter.as_deref())?;
    let mut session = Session::new(gpu, net, settings(&run.experiment))?;
    session.set_tensors(&initial);
    let residency = place_samples(run, &mut session, &train_set)?;
    prepare(run, &mut session, &train_set, &val_set)?;

    let log_path = run.output_dir.join("training.log");
    let logs: Vec<&Path> = run.log_file.as_deref().into_iter().chain([log_path.as_path()]).collect();
    let _log = logging::start(&logs)?;
    let outcome = train_epochs(run, session, &Sets { train: train_set, val: val_set, residency }, tracked);
    if let Err(error) = &outcome {
        // For the files: the terminal hears of it from the command line.
        tracing::info!("stopped: {error}");
    }
    outcome
}

/// The samples of a training.
struct Sets {
    train: Arc<Dataset>,
    val: Arc<Dataset>,
    /// Where the training samples lie on the device.
    residency: Arc<Residency>,
}

/// The loop; the running statistics have seen `tracked` batches before it.
fn train_epochs(run: &TrainRun, mut session: Session, sets: &Sets, tracked: u64) -> Result<Outcome> {
    let training = &run.experiment.training;
    let (parameters, device) = (session.net().parameter_count() as u64, session.gpu().summary().to_string());
    let mut record = RunRecord::new(&run.experiment, parameters, &device);
    let mut progress = Progress::new(run.mode, training.num_epochs);
    progress.message(&log_start(run, &record, sets));
    record.write(&run.output_dir.join("config.json"))?;
    let mut metrics_log = MetricsLog::create(&run.output_dir.join("metrics.csv"))?;

    let mut plateau = Plateau::new(training.learning_rate, training.patience / 2);
    let mut stopping = EarlyStopping::new(training.patience);
    let mut best: Option<(BestEpoch, Vec<NamedTensor>)> = None;
    let mut plotted = Instant::now();

    for epoch in 1..=training.num_epochs {
        let learning_rate = plateau.learning_rate();
        let started = Instant::now();
        let trained = train_epoch(run, &mut session, sets, epoch, learning_rate, &mut progress)?;
        let train_seconds = started.elapsed().as_secs_f64();
        progress.validation_started();
        let metrics = validate(&mut session, &sets.val, training.batch_size, training.dice_weight)?;
        let row = EpochRow {
            epoch,
            train_loss: trained.loss,
            val_loss: metrics.loss,
            val_iou: metrics.iou,
            val_f1: metrics.f1,
            val_precision: metrics.precision,
            val_recall: metrics.recall,
            learning_rate,
            seconds: started.elapsed().as_secs_f64(),
            patches_per_second: trained.patches as f64 / train_seconds,
        };
        let is_best = stopping.step(row.val_loss);
        if is_best {
            let tensors = session.tensors()?;
            save_weights(&run.output_dir.join("best_model.pth"), &tensors, tracked + session.steps())?;
            best = Some((BestEpoch::from(&row), tensors));
        }
        progress.epoch_finished(&row, is_best);
        log_epoch(&row, &metrics, &trained, is_best);
        metrics_log.push(row)?;
        plateau.step(metrics.loss);
        let last = epoch == training.num_epochs || stopping.should_stop();
        if last || plotted.elapsed() > PLOTS_EVERY {
            let title = &run.experiment.name;
            plots::write_training_plots(
                &run.output_dir.join("training_plots.png"),
                title,
                metrics_log.rows(),
            )?;
            plotted = Instant::now();
        }
        if last {
            record.epochs_trained = epoch;
            break;
        }
    }
    let (best, tensors) = best.ok_or_else(|| Error::failure("the validation loss was never a number"))?;
    record.best = Some(best.clone());
    record.write(&run.output_dir.join("config.json"))?;
    session.set_tensors(&tensors);
    write_pictures(run, &mut session, &sets.val)?;
    tracing::info!("best epoch {}: validation loss {:.4}, F1 {:.4}", best.epoch, best.val_loss, best.val_f1);
    Ok(Outcome { best, epochs: record.epochs_trained, output_dir: run.output_dir.clone() })
}

fn load(run: &TrainRun, names: &[String]) -> Result<Arc<Dataset>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let use_intensity = run.experiment.model.use_intensity;
    Ok(Arc::new(Dataset::load(&run.data_dir, names, use_intensity, threads)?))
}

/// Loads the programs of full and of short last batches: what the device refuses, it refuses before anything is written.
fn prepare(run: &TrainRun, session: &mut Session, train_set: &Dataset, val_set: &Dataset) -> Result<()> {
    let (training, patch_px) = (&run.experiment.training, run.experiment.model.patch_size);
    let patches = train_set.samples().len() * training.patches_per_sample;
    let tiles: usize = val_set.samples().iter().map(|s| tiles(s.height, s.width, patch_px).len()).sum();
    for (is_training, count) in [(true, patches), (false, tiles)] {
        session.prepare(is_training, training.batch_size.min(count))?;
        if count % training.batch_size > 0 {
            session.prepare(is_training, count % training.batch_size)?;
        }
    }
    Ok(())
}

fn initial_tensors(run: &TrainRun, net: &AttentionUNet) -> Result<(Vec<NamedTensor>, u64)> {
    match &run.init_weights {
        Some(path) => load_weights(path, net),
        None => Ok((net.initial(u64::from(run.experiment.training.seed)), 0)),
    }
}

/// The state dict of both skip variants is the same, so weights of the other one load: say so where their record tells.
fn warn_of_other_skip(run: &TrainRun) {
    let record = run.init_weights.as_ref().map(|path| path.with_file_name("config.json"));
    let Some(Ok(record)) = record.filter(|path| path.exists()).map(|path| RunRecord::read(&path)) else {
        return;
    };
    if record.model.skip != run.experiment.model.skip {
        tracing::warn!(
            "the initial weights come from a run with skip {:?}, this one has skip {:?}: the same names, another function",
            record.model.skip,
            run.experiment.model.skip
        );
    }
}

/// Logs what is about to run, and returns the line of it that a person wants to see.
fn log_start(run: &TrainRun, record: &RunRecord, sets: &Sets) -> String {
    let (train, val) = (sets.train.samples().len(), sets.val.samples().len());
    let summary = format!(
        "experiment '{}' on {}: {train} training and {val} validation samples, {} parameters",
        record.experiment_name, record.device, record.total_parameters
    );
    tracing::info!("rosette {}, {summary}", record.version);
    tracing::info!("settings: {}", serde_json::to_string(record).expect("a record is numbers and text"));
    for (set, samples) in [("training", &sets.train), ("validation", &sets.val)] {
        samples.warnings().iter().for_each(|warning| tracing::warn!("{set} samples: {warning}"));
    }
    warn_of_other_skip(run);
    let how = if sets.residency.is_resident() { "stay on the device" } else { "are streamed to the device" };
    let mib = sets.residency.bytes() as f64 / f64::from(1 << 20);
    tracing::info!("training samples {how}: {mib:.1} MiB there");
    if !run.experiment.training.augmentation.any() {
        tracing::info!("augmentation is off");
    }
    summary
}

fn log_epoch(row: &EpochRow, metrics: &Metrics, trained: &Trained, is_best: bool) {
    tracing::info!(
        "epoch {}: train loss {:.4}, validation loss {:.4}, IoU {:.4}, F1 {:.4}, precision {:.4}, recall {:.4}, \
         pooled IoU {:.4}, pooled F1 {:.4}, learning rate {:e}, {:.1} s, {:.2} patches/s, rosettes in {:.0} % of the \
         patches and {:.1} % of their pixels{}",
        row.epoch,
        row.train_loss,
        row.val_loss,
        row.val_iou,
        row.val_f1,
        row.val_precision,
        row.val_recall,
        metrics.pooled_iou,
        metrics.pooled_f1,
        row.learning_rate,
        row.seconds,
        row.patches_per_second,
        trained.with_rosettes as f64 / trained.patches as f64 * 100.0,
        trained.rosette_pixels / trained.pixels * 100.0,
        if is_best { ", best so far" } else { "" }
    );
}

/// What an epoch of training came to.
#[derive(Debug, Clone, Copy, Default)]
struct Trained {
    /// Mean loss over the patches.
    loss: f64,
    /// Patches.
    patches: usize,
    /// Patches with a rosette in them.
    with_rosettes: usize,
    /// Their pixels in rosettes.
    rosette_pixels: f64,
    /// All of their pixels.
    pixels: f64,
}

impl Trained {
    /// Adds a batch's loss and sums.
    fn add(&mut self, loss: f64, sums: &[[f32; SUMS]]) {
        let patches = (self.patches + sums.len()) as f64;
        self.loss += (loss - self.loss) * sums.len() as f64 / patches;
        self.patches += sums.len();
        self.with_rosettes += sums.iter().filter(|s| s[3] > 0.0).count();
        self.rosette_pixels += sums.iter().map(|s| f64::from(s[3])).sum::<f64>();
        self.pixels += sums.iter().map(|s| f64::from(s[7])).sum::<f64>();
    }
}

/// What the patches of an epoch are made of.
fn patch_plan(experiment: &Experiment, epoch: usize) -> PatchPlan {
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

/// One pass over the training patches. Losses are read a step late, so that the device never waits for the host.
fn train_epoch(
    run: &TrainRun,
    session: &mut Session,
    sets: &Sets,
    epoch: usize,
    learning_rate: f64,
    progress: &mut Progress,
) -> Result<Trained> {
    let plan = patch_plan(&run.experiment, epoch);
    progress.epoch_started(epoch, TrainBatches::batches_per_epoch(sets.train.samples().len(), &plan));
    let started = Instant::now();
    let (mut trained, mut done) = (Trained::default(), 0);
    let mut before = None;
    let batches = TrainBatches::start(sets.train.clone(), sets.residency.clone(), plan, 0);
    for batch in batches.map(Some).chain([None]) {
        let next = match &batch {
            Some(batch) => {
                batch.uploads.iter().for_each(|upload| session.upload(upload));
                Some(session.start_patch_step(&batch.patches, learning_rate)?)
            }
            None => None,
        };
        if let Some(pending) = std::mem::replace(&mut before, next) {
            let result = session.finish(pending)?;
            let loss = f64::from(result.loss);
            if !loss.is_finite() {
                return Err(diverged(epoch, done + 1, loss));
            }
            trained.add(loss, &result.sums);
            done += 1;
            progress.step(done, trained.loss, trained.patches as f64 / started.elapsed().as_secs_f64());
        }
    }
    Ok(trained)
}

fn diverged(epoch: usize, batch: usize, loss: f64) -> Error {
    Error::failure(format!(
        "the training loss of epoch {epoch}, batch {batch} is {loss}: the training diverged; reduce learning_rate"
    ))
}

/// Every validation image in full with the running statistics.
fn validate(
    session: &mut Session,
    dataset: &Arc<Dataset>,
    batch_size: usize,
    dice_weight: f64,
) -> Result<Metrics> {
    let mut tally = Tally::new(dataset.samples().len());
    for batch in ValBatches::start(dataset.clone(), session.settings().patch_px, batch_size) {
        let pending = session.start_evaluation(&batch.x, &batch.y, false)?;
        let result = session.finish(pending)?;
        batch.samples.iter().zip(&result.sums).for_each(|(sample, sums)| tally.add(*sample, sums));
    }
    Ok(tally.metrics(dice_weight))
}

fn write_pictures(run: &TrainRun, session: &mut Session, val_set: &Arc<Dataset>) -> Result<()> {
    let few: Vec<_> = val_set.samples().iter().take(PICTURED).cloned().collect();
    let few = Arc::new(Dataset::new(few));
    let probabilities = probabilities(session, &few, run.experiment.training.batch_size)?;
    let pictures: Vec<Prediction> = few
        .samples()
        .iter()
        .zip(&probabilities)
        .map(|(sample, probability)| Prediction {
            name: &sample.name,
            height: sample.height,
            width: sample.width,
            boundary: &sample.boundary,
            cells: &sample.cells,
            intensity: sample.intensity.as_deref(),
            target: &sample.target,
            probability,
        })
        .collect();
    overlay::write_predictions(&run.output_dir.join("predictions.png"), &pictures, PICTURED)
}

/// The memory plan of an experiment's training step in words and numbers, without allocating anything.
///
/// # Errors
/// A user error where a device with these limits cannot hold one patch, or one weight.
pub fn describe_plan(experiment: &Experiment, limits: Limits) -> Result<String> {
    let net = network(experiment);
    let (mut settings, batch) = (settings(experiment), experiment.training.batch_size);
    let weights = smoothing_weights(&experiment.training.augmentation, settings.patch_px);
    // The samples' own memory is not the step's: as little as can be stands for it.
    let radius = weights.map(|weights| weights.len() - 1);
    settings.patches = Some(PatchSource { chunks: 1, chunk_words: 64, radius });
    settings.check_fits(&net, batch, limits)?;
    let step = record_training(&net, limits, &settings, batch).program;
    step.check_bindings(limits)?;
    let plan = MemoryPlan::new(&step);
    let evaluation = record_evaluation(&net, limits, &settings, batch).program;
    let evaluation_bytes = evaluation.input_bytes + evaluation.output_bytes;
    let persistent = 4 * net.weights().total_bytes() + net.state().total_bytes();
    let transfer = step.input_bytes + step.output_bytes + evaluation_bytes;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let evaluation_slots = MemoryPlan::new(&evaluation).slot_bytes();
    Ok(format!(
        "{}\ntraining step: {} dispatches, {:.1} GFLOP\n\
         weights, gradients, two moments, statistics: {:.3} GiB\ninputs and outputs: {:.3} GiB\n\
         activations and their gradients: {:.3} GiB (evaluation needs {:.3} GiB, in the same slots)\n\
         total: {:.3} GiB, and at most {} GiB of training samples (data.memory_budget)\n",
        plan.table(&step),
        step.dispatches.len(),
        step.flops() as f64 / 1e9,
        gib(persistent),
        gib(transfer),
        gib(plan.slot_bytes()),
        gib(evaluation_slots),
        gib(persistent + transfer + plan.slot_bytes()),
        experiment.training.data.memory_budget,
    ))
}
