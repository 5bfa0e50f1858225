//! A training on its device: the network, the samples, and programs for every size of batch that will come.

use std::sync::Arc;

use super::accumulation::parts;
use super::fit::Fit;
use super::plan::network;
use super::run::{Sets, TrainRun};
use super::session::Session;
use super::step::StepSettings;
use crate::config::Experiment;
use crate::data::augment::smoothing_weights;
use crate::data::loader::Dataset;
use crate::data::residency::{Residency, SampleSize};
use crate::data::tiles::tiles;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Limits};
use crate::model::NamedTensor;
use crate::ops::warp::most_chunk_words;

/// A training on the device.
pub(super) struct Loaded {
    /// The network with its programs.
    pub session: Session,
    /// The samples.
    pub sets: Sets,
    /// How a batch fits.
    pub fit: Fit,
}

/// Loads a training onto the device, in micro-batches where it has to be.
///
/// # Errors
/// Those of [`Fit::plan`] and of the device.
pub(super) fn load(
    run: &TrainRun,
    mut gpu: Gpu,
    settings: StepSettings,
    initial: &[NamedTensor],
    (train, val): (Arc<Dataset>, Arc<Dataset>),
) -> Result<Loaded> {
    let limits = gpu.limits();
    let residency = Arc::new(plan_samples(run, limits, &train)?);
    let mut fit = Fit::plan(&run.experiment, limits, residency.bytes())?;
    loop {
        let settings = StepSettings { accumulates: settings.accumulates || fit.is_cut(), ..settings };
        // Where the device has no memory for the weights, smaller parts do not help.
        let mut session = Session::new(gpu, network(&run.experiment), settings)?;
        session.set_tensors(initial);
        session.set_most_patches(fit.most_patches);
        place_samples(run, &mut session, &residency, &train)?;
        match prepare(run, &mut session, (&train, &val), fit.most_patches) {
            Ok(()) => return Ok(Loaded { session, sets: Sets { train, val, residency }, fit }),
            Err(Error::OutOfMemory(why)) => {
                fit = fit.smaller(&run.experiment, limits, residency.bytes(), &why)?;
                gpu = session.into_gpu();
            }
            Err(error) => return Err(error),
        }
    }
}

/// Plans where the training samples lie on a device with these limits.
fn plan_samples(run: &TrainRun, limits: Limits, train_set: &Dataset) -> Result<Residency> {
    let training = &run.experiment.training;
    let budget = budget_words(&run.experiment);
    Residency::plan(train_set.samples(), budget, most_chunk_words(limits), training.batch_size)
}

fn budget_words(experiment: &Experiment) -> usize {
    (experiment.training.data.memory_budget * f64::from(1 << 28)) as usize
}

/// How an experiment's batch will fit a device, beside training samples of these sizes.
///
/// # Errors
/// Those of [`Residency::plan`] and [`Fit::plan`].
pub fn planned_fit(experiment: &Experiment, limits: Limits, samples: &[SampleSize]) -> Result<Fit> {
    let (budget, batch_size) = (budget_words(experiment), experiment.training.batch_size);
    let residency = Residency::of_sizes(samples, budget, most_chunk_words(limits), batch_size)?;
    Fit::plan(experiment, limits, residency.bytes())
}

/// Makes room for them, and puts those there that stay.
fn place_samples(
    run: &TrainRun,
    session: &mut Session,
    residency: &Residency,
    train_set: &Dataset,
) -> Result<()> {
    let weights = smoothing_weights(&run.experiment.training.augmentation, run.experiment.model.patch_size);
    session.make_patches(residency, weights)?;
    residency.first_uploads(train_set.samples()).for_each(|upload| session.upload(&upload));
    Ok(())
}

/// Loads the programs of full and of short last batches: what the device refuses, it refuses before anything is written.
/// At most `most_patches` are on the device at once.
fn prepare(
    run: &TrainRun,
    session: &mut Session,
    (train, val): (&Dataset, &Dataset),
    most_patches: usize,
) -> Result<()> {
    let (training, patch_px) = (&run.experiment.training, run.experiment.model.patch_size);
    let patches = train.samples().len() * training.patches_per_sample;
    let last = [training.batch_size.min(patches), patches % training.batch_size];
    for batch in last.into_iter().filter(|batch| *batch > 0) {
        for part in parts(batch, most_patches) {
            session.prepare(true, part)?;
        }
    }
    let tiles: usize = val.samples().iter().map(|s| tiles(s.height, s.width, patch_px).len()).sum();
    for batch in [most_patches.min(tiles), tiles % most_patches].into_iter().filter(|batch| *batch > 0) {
        session.prepare(false, batch)?;
    }
    Ok(())
}
