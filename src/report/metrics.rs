//! `metrics.csv`: one row per epoch.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;

/// What an epoch achieved. The fields are the columns of `metrics.csv`, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRow {
    /// Counted from 1.
    pub epoch: usize,
    /// Mean loss over the training patches.
    pub train_loss: f64,
    /// Mean loss over the validation images; the lowest decides which weights are kept.
    pub val_loss: f64,
    /// Mean intersection over union of the validation images at threshold 0.5.
    pub val_iou: f64,
    /// Mean F1 (Dice) score of the validation images at threshold 0.5.
    pub val_f1: f64,
    /// Mean precision of the validation images at threshold 0.5.
    pub val_precision: f64,
    /// Mean recall of the validation images at threshold 0.5.
    pub val_recall: f64,
    /// Step size of the optimiser during this epoch.
    pub learning_rate: f64,
    /// Steps of this epoch that changed nothing because a gradient overflowed: loss scaling, with f16 only.
    pub skipped_steps: u64,
    /// Wall-clock time of training and validation.
    pub seconds: f64,
    /// Training patches per second of training time.
    pub patches_per_second: f64,
}

/// The first line of `metrics.csv`.
const HEADER: &str = "epoch,train_loss,val_loss,val_iou,val_f1,val_precision,val_recall,learning_rate,\
                      skipped_steps,seconds,patches_per_second";

/// The rows of a run and the file that holds them. The file is replaced as a whole after every epoch, so that a run
/// which is killed leaves all epochs that it finished.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    rows: Vec<EpochRow>,
}

impl MetricsLog {
    /// Starts a file with a header and no rows; an older one is replaced.
    ///
    /// # Errors
    /// A user error where the file cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let log = Self { path: path.to_path_buf(), rows: Vec::new() };
        log.write()?;
        Ok(log)
    }

    /// Continues the file of an interrupted run from what [`MetricsLog::text`] gave; later rows of the file are dropped,
    /// since those epochs will be trained again.
    ///
    /// # Errors
    /// A user error where the text is not a `metrics.csv`, or the file cannot be written.
    pub fn resume(path: &Path, text: &str) -> Result<Self> {
        let log = Self { path: path.to_path_buf(), rows: parse(path, text)? };
        log.write()?;
        Ok(log)
    }

    /// Adds an epoch and writes the file.
    ///
    /// # Errors
    /// A user error where the file cannot be written.
    pub fn push(&mut self, row: EpochRow) -> Result<()> {
        self.rows.push(row);
        self.write()
    }

    /// The epochs so far.
    pub fn rows(&self) -> &[EpochRow] {
        &self.rows
    }

    fn write(&self) -> Result<()> {
        files::write_atomic(&self.path, self.text().as_bytes())
    }

    /// The file's content: floats with the fewest digits that read back to the same value.
    pub fn text(&self) -> String {
        let mut writer =
            csv::WriterBuilder::new().has_headers(false).from_writer(format!("{HEADER}\n").into_bytes());
        self.rows.iter().for_each(|row| writer.serialize(row).expect("numbers into memory"));
        let bytes = writer.into_inner().expect("into memory");
        String::from_utf8(bytes).expect("numbers and commas")
    }
}

/// The epoch whose weights are kept: the first of those with the lowest validation loss.
pub fn best_epoch(rows: &[EpochRow]) -> Option<&EpochRow> {
    rows.iter().filter(|row| !row.val_loss.is_nan()).min_by(|a, b| a.val_loss.total_cmp(&b.val_loss))
}

/// Reads a `metrics.csv`.
///
/// # Errors
/// A user error with the line where the file has another header, or a row that is none.
pub fn read_metrics(path: &Path) -> Result<Vec<EpochRow>> {
    parse(path, &files::read_text(path)?)
}

fn parse(path: &Path, text: &str) -> Result<Vec<EpochRow>> {
    let first = text.lines().next().unwrap_or_default();
    if first != HEADER {
        let found = format!("\"{}\"", first.chars().take(80).collect::<String>());
        let remedy = "move the file away: it was written by another program or version";
        return Err(Error::user(path.display(), format!("the header {HEADER}"), found, remedy));
    }
    let rows: csv::Result<Vec<EpochRow>> =
        csv::Reader::from_reader(text.as_bytes()).into_deserialize().collect();
    rows.map_err(|e| {
        Error::user(path.display(), "one row of numbers per epoch", e.to_string(), "remove the damaged row")
    })
}
