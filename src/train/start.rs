//! What a training starts from: first values, or the weights of another one.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::epoch::validate;
use super::run::TrainRun;
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
    let Some(metrics) = validate(session, val, training.batch_size, training.dice_weight)? else {
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
