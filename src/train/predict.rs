//! Probabilities of whole images: every tile through the network with the running statistics, each pixel from the
//! tile that owns it.

use std::sync::Arc;

use super::session::Session;
use crate::data::loader::{Batch, Dataset, ValBatches};
use crate::error::Result;

/// Probability of a rosette for each pixel of an image, [height * width].
pub type Probability = Vec<f32>;

/// Predicts every image of a dataset, in order.
///
/// # Errors
/// Where the device was lost.
pub fn probabilities(
    session: &mut Session,
    dataset: &Arc<Dataset>,
    batch_size: usize,
) -> Result<Vec<Probability>> {
    let patch_px = session.settings().patch_px;
    let mut images: Vec<Probability> =
        dataset.samples().iter().map(|s| vec![0.0; s.height * s.width]).collect();
    let at_once = batch_size.min(session.most_patches());
    for batch in ValBatches::start(dataset.clone(), patch_px, at_once) {
        let pending = session.start_evaluation(&batch.x, &batch.y, true)?;
        let logits = session.finish(pending)?.logits.expect("asked for");
        place(&batch, &logits, patch_px, dataset, &mut images);
    }
    Ok(images)
}

fn place(batch: &Batch, logits: &[f32], patch_px: usize, dataset: &Dataset, images: &mut [Probability]) {
    let pixels = patch_px * patch_px;
    for (tile, (&sample, crop)) in batch.samples.iter().zip(&batch.crops).enumerate() {
        let width = dataset.samples()[sample].width;
        for at in (0..pixels).filter(|at| batch.y[tile * pixels + at] >= 0.0) {
            let (row, column) = (crop.top + at / patch_px, crop.left + at % patch_px);
            images[sample][row * width + column] = 1.0 / (1.0 + (-logits[tile * pixels + at]).exp());
        }
    }
}
