//! A training from its inputs to its outputs.
//!
//! Whatever ends it (a signal, a power cut, a full disk), the same command goes on from the last checkpoint and ends with
//! the same bytes. An epoch that diverges is trained again from its start at half the learning rate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::loaded;
use super::lock::DirLock;
use super::plan::{experiment_questions, network, settings, stored_element};
use super::start::initial_tensors;
use super::step::StepSettings;
use super::stop;
use super::training::Training;
use super::trust::ensure_sound;
use super::tuning::{self, TuningCache};
use crate::config::{Experiment, Origins};
use crate::data::loader::Dataset;
use crate::data::residency::Residency;
use crate::data::split::Manifest;
use crate::error::{Error, Result};
use crate::files;
use crate::gpu::Gpu;
use crate::report::{BestEpoch, Mode, events, logging};

/// Within an epoch, checkpoints are this far apart unless told otherwise.
pub const CHECKPOINT_EVERY: Duration = Duration::from_secs(300);
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
    // A driver takes a tenth of a second or more to open, while nothing needs it yet.
    let (samples, gpu) = std::thread::scope(|scope| {
        let gpu = scope.spawn(|| Gpu::open(run.adapter.as_deref()));
        let load = |names| load(run, names);
        let samples =
            load(&manifest.train_sample_list).and_then(|train| Ok((train, load(&manifest.val_sample_list)?)));
        (samples, gpu.join())
    });
    let (train, val) = samples?;
    let (initial, tracked) = initial_tensors(run, &network(&run.experiment))?;
    let gpu = gpu.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let is_tuned = !run.experiment.training.deterministic;
    let asked = is_tuned.then(|| experiment_questions(&run.experiment, gpu.limits())).transpose()?;
    ensure_sound(&gpu, stored_element(&run.experiment, gpu.limits()), run.mode)?;
    let tuning = match &asked {
        None => TuningCache::load(gpu.summary()).by_limits(),
        Some(asked) => tuning::of_training(&run.output_dir, run.restart, &gpu, asked, run.mode)?,
    };
    let kernels = match &asked {
        None => "kernels by the device's limits alone, since the training is to be deterministic".to_owned(),
        Some(asked) => {
            let measured =
                asked.iter().filter(|question| question.taken(tuning, gpu.limits()).is_some()).count();
            format!(
                "kernels by measurement for {measured} of {} convolutions, by the device's limits for the others",
                asked.len()
            )
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
    tracing::info!("{kernels}");
    let outcome = Training::start(run, loaded, tracked).and_then(Training::finish);
    if let Err(error) = &outcome {
        // For the files: the terminal hears of it from the command line.
        tracing::info!("stopped: {error}");
    }
    outcome
}

/// The same training in the directory that is its own: two that start in the same second must not share one.
fn placed(run: &TrainRun) -> Result<TrainRun> {
    let mut run = run.clone();
    if run.in_new_dir {
        run.output_dir = files::create_new_dir(&run.output_dir)?;
    }
    Ok(run)
}

fn load(run: &TrainRun, names: &[String]) -> Result<Arc<Dataset>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let use_intensity = run.experiment.model.use_intensity;
    Ok(Arc::new(Dataset::load(&run.data_dir, names, use_intensity, threads)?))
}
