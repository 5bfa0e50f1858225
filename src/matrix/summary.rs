//! `experiment_summary.csv`: what the experiments of a directory were and what they achieved, side by side.

use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use super::members::found_members;
use crate::config::Experiment;
use crate::error::{Error, Result};
use crate::files;
use crate::report::metrics::read_metrics;
use crate::report::{Members, RunRecord, Scores};
use crate::train::is_unfinished;

/// A row; the fields are the columns, the pipeline's first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SummaryRow {
    /// The experiment.
    pub experiment_name: String,
    /// In the user's words.
    pub description: String,
    /// At the start.
    pub learning_rate: f64,
    /// At most.
    pub num_epochs: usize,
    /// Patches a step.
    pub batch_size: usize,
    /// Of the network.
    pub total_parameters: u64,
    /// The adapter.
    pub device: String,
    /// `finished`, `unfinished`, `failed`, `outdated` (settings or samples changed since) or `not trained`.
    pub status: String,
    /// The epoch whose weights were kept.
    pub best_epoch: Option<usize>,
    /// Its validation loss.
    pub val_loss: Option<f64>,
    /// Its intersection over union.
    pub val_iou: Option<f64>,
    /// Its F1.
    pub val_f1: Option<f64>,
    /// Its precision.
    pub val_precision: Option<f64>,
    /// Its recall.
    pub val_recall: Option<f64>,
    /// Epochs trained.
    pub epochs_trained: usize,
    /// Wall-clock time of all of them.
    pub seconds: f64,
    /// Training patches a second, on average over the epochs.
    pub patches_per_second: f64,
    /// Of split, weights and patches.
    pub seed: u32,
    /// Where skips are taken.
    pub skip: String,
    /// How activations are stored.
    pub precision: String,
    /// Trainings that the scores are the means of, with folds or several seeds; else 1.
    pub members: usize,
    /// Standard deviation of the validation loss over them.
    pub val_loss_sd: Option<f64>,
    /// That of the intersection over union.
    pub val_iou_sd: Option<f64>,
    /// That of F1.
    pub val_f1_sd: Option<f64>,
    /// That of the precision.
    pub val_precision_sd: Option<f64>,
    /// That of the recall.
    pub val_recall_sd: Option<f64>,
    /// Why it failed or has to be trained, where that is so.
    pub reason: String,
}

impl SummaryRow {
    /// Whether both are of the same training, whatever their status.
    fn has_results_of(&self, other: &Self) -> bool {
        let with_status = Self { status: other.status.clone(), reason: other.reason.clone(), ..self.clone() };
        with_status == *other
    }

    /// That of an experiment that has left nothing.
    pub fn untrained(experiment: &Experiment) -> Self {
        let training = &experiment.training;
        Self {
            experiment_name: experiment.name.clone(),
            description: experiment.description.clone(),
            learning_rate: training.learning_rate,
            num_epochs: training.num_epochs,
            batch_size: training.batch_size,
            status: "not trained".into(),
            seed: training.seed,
            skip: word(experiment.model.skip),
            precision: word(training.precision),
            members: training.folds.max(1) * training.seeds.len().max(1),
            ..Self::default()
        }
    }
}

/// A setting's choice as configurations write it.
fn word(choice: impl Serialize) -> String {
    let value = serde_json::to_value(choice).expect("a word");
    value.as_str().unwrap_or_default().to_string()
}

/// Reads what the experiments below a directory left, in the order of `names`, or of the alphabet where none are given.
///
/// # Errors
/// A user error where the directory, or a record in it, cannot be read.
pub fn collect(output_dir: &Path, names: Option<&[String]>) -> Result<Vec<SummaryRow>> {
    let names: Vec<String> = match names {
        Some(names) => names.to_vec(),
        None => {
            let entries = std::fs::read_dir(output_dir)
                .map_err(|e| Error::io(output_dir, "a directory of experiments", &e))?;
            let mut names: Vec<String> =
                entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
            names.sort();
            names
        }
    };
    let dirs = names.iter().map(|name| output_dir.join(name));
    let rows = dirs.map(|dir| match dir.join("config.json").is_file() {
        true => row(&dir).map(Some),
        false => partial_row(&dir),
    });
    rows.filter_map(Result::transpose).collect()
}

/// The rows again, in the order of the table that is there, which also tells what only `rosette run` finds out: that an
/// experiment failed, has become outdated, or is yet to be trained. What has been trained since is told as it is.
///
/// # Errors
/// A user error where the directory, or a record in it, cannot be read.
pub fn rebuild(output_dir: &Path, table: &Path) -> Result<Vec<SummaryRow>> {
    let mut found = collect(output_dir, None)?;
    let mut rows = Vec::new();
    for known in read_summary(table) {
        let at = found.iter().position(|row| row.experiment_name == known.experiment_name);
        let tells_more = !known.reason.is_empty() || known.status == "not trained";
        match at.map(|at| found.remove(at)) {
            Some(row) if tells_more && row.has_results_of(&known) => rows.push(known),
            Some(row) => rows.push(row),
            // Without anything left, a failure and what is yet to come stand in no other place.
            None if tells_more && known.best_epoch.is_none() => rows.push(known),
            None => {}
        }
    }
    rows.append(&mut found);
    Ok(rows)
}

/// The rows of a table; none where it is not there or of another version.
fn read_summary(path: &Path) -> Vec<SummaryRow> {
    let reader = csv::Reader::from_path(path);
    reader.and_then(|mut reader| reader.deserialize().collect()).unwrap_or_default()
}

/// An experiment of which only some members have been trained.
fn partial_row(dir: &Path) -> Result<Option<SummaryRow>> {
    let Some(first) = found_members(dir).into_iter().next() else { return Ok(None) };
    Ok(Some(SummaryRow {
        status: "unfinished".into(),
        best_epoch: None,
        val_loss: None,
        val_iou: None,
        val_f1: None,
        val_precision: None,
        val_recall: None,
        members: found_members(dir).len(),
        ..row(&first)?
    }))
}

/// Whether the members' weights are still those that the experiment's record speaks of.
fn is_of_its_members(record: &RunRecord, dirs: &[PathBuf]) -> bool {
    let known = record.members.iter().flat_map(|members| &members.all);
    known.zip(dirs).all(|(member, dir)| {
        RunRecord::read(&dir.join("config.json"))
            .is_ok_and(|record| record.weights_sha256 == member.weights_sha256)
    })
}

fn row(dir: &Path) -> Result<SummaryRow> {
    let record = RunRecord::read(&dir.join("config.json"))?;
    let trainings: Vec<PathBuf> = match &record.members {
        Some(members) => members.all.iter().map(|member| dir.join(&member.name)).collect(),
        None => vec![dir.to_path_buf()],
    };
    let mut rows = Vec::new();
    for path in trainings.iter().map(|dir| dir.join("metrics.csv")).filter(|path| path.exists()) {
        rows.extend(read_metrics(&path)?);
    }
    let (seconds, speed): (f64, f64) = rows
        .iter()
        .map(|row| (row.seconds, row.patches_per_second))
        .fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    let goes_on = trainings.iter().any(|dir| is_unfinished(dir)) || !is_of_its_members(&record, &trainings);
    let status = match (&record.best, goes_on) {
        (Some(_), false) => "finished",
        (_, true) => "unfinished",
        (None, false) => "failed",
    };
    let best = record.best.as_ref();
    let scores = match &record.members {
        Some(members) => Some(members.mean),
        None => best.map(Scores::of),
    };
    let deviation = record.members.as_ref().and_then(Members::spread);
    Ok(SummaryRow {
        experiment_name: record.experiment_name.clone(),
        description: record.description.clone(),
        learning_rate: record.training.learning_rate,
        num_epochs: record.training.num_epochs,
        batch_size: record.training.batch_size,
        total_parameters: record.total_parameters,
        device: record.device.clone(),
        status: status.into(),
        best_epoch: best.map(|best| best.epoch),
        val_loss: scores.map(|s| s.val_loss),
        val_iou: scores.map(|s| s.val_iou),
        val_f1: scores.map(|s| s.val_f1),
        val_precision: scores.map(|s| s.val_precision),
        val_recall: scores.map(|s| s.val_recall),
        epochs_trained: rows.len(),
        seconds,
        patches_per_second: speed / rows.len().max(1) as f64,
        seed: record.training.seed,
        skip: word(record.model.skip),
        precision: word(record.training.precision),
        members: trainings.len(),
        val_loss_sd: deviation.map(|s| s.val_loss),
        val_iou_sd: deviation.map(|s| s.val_iou),
        val_f1_sd: deviation.map(|s| s.val_f1),
        val_precision_sd: deviation.map(|s| s.val_precision),
        val_recall_sd: deviation.map(|s| s.val_recall),
        reason: String::new(),
    })
}

/// Writes the table.
///
/// # Errors
/// A user error where the file cannot be written.
pub fn write_summary(path: &Path, rows: &[SummaryRow]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    rows.iter().for_each(|row| writer.serialize(row).expect("numbers and text into memory"));
    files::write_atomic(path, &writer.into_inner().expect("into memory"))
}

/// Whether its scores are those of other settings or of an earlier training.
pub fn is_stale(row: &SummaryRow) -> bool {
    matches!(row.status.as_str(), "failed" | "outdated")
}

/// The row of the highest F1; of equal ones, that of the lowest loss.
pub fn best_row(rows: &[SummaryRow]) -> Option<usize> {
    let rank = |row: &SummaryRow| {
        (
            row.val_f1.filter(|_| !is_stale(row)).unwrap_or(f64::NEG_INFINITY),
            -row.val_loss.unwrap_or(f64::INFINITY),
        )
    };
    let better = |a: &(f64, f64), b: &(f64, f64)| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1));
    let best = rows.iter().enumerate().rev().max_by(|a, b| better(&rank(a.1), &rank(b.1)));
    best.filter(|(_, row)| row.val_f1.is_some() && !is_stale(row)).map(|(at, _)| at)
}

/// The table for a terminal, the experiment of the highest F1 marked.
pub fn summary_table(rows: &[SummaryRow]) -> String {
    let best = best_row(rows);
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "",
        "experiment",
        "status",
        "F1",
        "IoU",
        "precision",
        "recall",
        "loss",
        "best epoch",
        "time",
        "patches/s",
    ]);
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (at, row) in rows.iter().enumerate() {
        let number = |value: Option<f64>, deviation: Option<f64>| match (value, deviation) {
            (None, _) => String::new(),
            (Some(value), None) => format!("{value:.4}"),
            (Some(value), Some(deviation)) => format!("{value:.4} ± {deviation:.4}"),
        };
        let of_all = if row.members > 1 { " in all" } else { "" };
        table.add_row([
            if best == Some(at) { "best".into() } else { String::new() },
            row.experiment_name.clone(),
            match row.reason.lines().next() {
                Some(reason) => format!("{}\n{reason}", row.status),
                None => row.status.clone(),
            },
            number(row.val_f1, row.val_f1_sd),
            number(row.val_iou, row.val_iou_sd),
            number(row.val_precision, row.val_precision_sd),
            number(row.val_recall, row.val_recall_sd),
            number(row.val_loss, row.val_loss_sd),
            row.best_epoch
                .map_or(String::new(), |epoch| format!("{epoch} of {}{of_all}", row.epochs_trained)),
            crate::report::progress::duration(row.seconds),
            format!("{:.1}", row.patches_per_second),
        ]);
    }
    table.to_string()
}
