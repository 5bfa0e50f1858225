//! What a training starts from: first values, or the weights of another one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::checkpoint::{Identity, settings_json};
use super::epoch::validate;
use super::fit::Fit;
use super::run::{Sets, TrainRun, WEIGHTS};
use super::session::Session;
use super::weights::{load_weights, weights_file};
use crate::data::loader::Dataset;
use crate::error::Result;
use crate::files;
use crate::model::{AttentionUNet, NamedTensor};
use crate::report::GivenWeights;

/// The tensors, and the batches that their running statistics have seen.
pub(super) fn initial_tensors(run: &TrainRun, net: &AttentionUNet) -> Result<(Vec<NamedTensor>, u64)> {
    match &run.init_weights {
        Some(path) => load_weights(&weights_file(path), net),
        None => Ok((net.initial(u64::from(run.experiment.training.seed)), 0)),
    }
}

/// Validates the weights that a training was given; none where a signal came.
pub(super) fn given_weights(
    run: &TrainRun,
    path: &Path,
    session: &mut Session,
    val: &Arc<Dataset>,
) -> Result<Option<GivenWeights>> {
    let training = &run.experiment.training;
    let Some(metrics) = validate(session, val, training.batch_size)? else {
        return Ok(None);
    };
    let file = weights_file(path);
    Ok(Some(GivenWeights {
        sha256: files::hex(&Sha256::digest(files::read_bytes(&file)?)),
        file: file.display().to_string(),
        val_loss: metrics.loss,
        val_iou: metrics.iou,
        val_f1: metrics.f1,
    }))
}

/// What tells this training from others.
pub(super) fn identity(run: &TrainRun, sets: &Sets, fit: &Fit) -> Result<Identity> {
    let settings = settings_json(&run.experiment);
    let hash = |path: &PathBuf| Ok(files::hex(&Sha256::digest(files::read_bytes(&weights_file(path))?)));
    let initial = run.init_weights.as_ref().map(hash).transpose()?;
    let patches = Some(fit.planned_patches());
    Ok(Identity { settings, data: [sets.train.digest(), sets.val.digest()], initial, patches })
}

/// Weights of an older training must not be taken for this one's, nor be lost.
pub(super) fn keep_older_weights(dir: &Path) -> Result<()> {
    let (path, kept) = (dir.join(WEIGHTS), dir.join("best_model.old.pth"));
    if path.is_file() {
        files::rename(&path, &kept)?;
        tracing::info!("the weights that were here are in {} now", kept.display());
    }
    Ok(())
}
