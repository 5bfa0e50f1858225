//! What a training writes into its log.

use std::time::Duration;

use super::epoch::Trained;
use super::metrics::Metrics;
use super::run::{Sets, TrainRun};
use super::weights::{find_record, weights_file};
use crate::report::{EpochRow, RunRecord};

/// The state dict of both skip variants is the same, so weights of the other one load: say so where their record tells.
fn warn_of_other_skip(run: &TrainRun) {
    let found = run.init_weights.as_ref().map(|path| find_record(&weights_file(path)));
    let Some(Ok((Some(record), _))) = found else { return };
    if record.model.skip != run.experiment.model.skip {
        tracing::warn!(
            "the initial weights come from a run with skip {:?}, this one has skip {:?}: the same names, another function",
            record.model.skip,
            run.experiment.model.skip
        );
    }
}

/// Logs what is about to run, and returns the line of it that a person wants to see.
pub fn log_start(run: &TrainRun, record: &RunRecord, sets: &Sets) -> String {
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
    run.experiment.without_effect(&run.origins).iter().for_each(|line| tracing::warn!("{line}"));
    warn_of_other_skip(run);
    let how = if sets.residency.is_resident() { "stay on the device" } else { "are streamed to the device" };
    let mib = sets.residency.bytes() as f64 / f64::from(1 << 20);
    tracing::info!("training samples {how}: {mib:.1} MiB there");
    if !run.experiment.training.augmentation.any() {
        tracing::info!("augmentation is off");
    }
    summary
}

/// Logs an epoch.
pub fn log_epoch(row: &EpochRow, metrics: &Metrics, trained: &Trained, is_best: bool) {
    tracing::info!(
        "epoch {}: train loss {:.4}, validation loss {:.4}, IoU {:.4}, F1 {:.4}, precision {:.4}, recall {:.4}, \
         pooled IoU {:.4}, pooled F1 {:.4}, learning rate {:e}, {:.1} s, {:.2} patches/s, rosettes in {:.0} % of the \
         patches and {:.1} % of their pixels, {:.1} ms waited for data{}{}{}",
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
        trained.waited * 1e3,
        if row.skipped_steps > 0 {
            format!(", {} steps skipped by loss scaling", row.skipped_steps)
        } else {
            String::new()
        },
        if trained.measured > 0 {
            format!(", mean gradient norm {:.4}", trained.norm)
        } else {
            String::new()
        },
        if is_best { ", best so far" } else { "" }
    );
}

/// Logs what checkpoints and reports took.
pub fn log_costs(checkpoints: Duration, reports: Duration, rows: &[EpochRow]) {
    let whole: f64 = rows.iter().map(|row| row.seconds).sum();
    tracing::info!(
        "of {whole:.1} s for epochs and what came between: checkpoints {:.2} s, curves, pictures, page and events {:.2} s",
        checkpoints.as_secs_f64(),
        reports.as_secs_f64()
    );
}
