//! `config.json`: what a run was made of and what came out, for people, for the summary over experiments, and for
//! prediction, which rebuilds the network from it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::{Experiment, ModelConfig, TrainingConfig};
use crate::error::{Error, Result};
use crate::files;
use crate::report::metrics::EpochRow;

/// The content of `config.json`: every setting by its key in the configuration file, then the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The experiment's name.
    pub experiment_name: String,
    /// The experiment's description.
    pub description: String,
    /// `attention_geometric` (2 input channels) or `attention_intensity` (3).
    pub approach: String,
    /// The settings of the network, not nested.
    #[serde(flatten)]
    pub model: ModelConfig,
    /// The settings of the training, not nested but for `augmentation`.
    #[serde(flatten)]
    pub training: TrainingConfig,
    /// Trainable parameters of the network.
    pub total_parameters: u64,
    /// The device in words, e.g. the adapter's name and backend.
    pub device: String,
    /// How activations were stored, `f32` or `f16`: what `precision: auto` came to.
    #[serde(default)]
    pub precision_used: String,
    /// The version of this program.
    pub version: String,
    /// How the batch was cut, where the device's memory did not hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<MicroBatch>,
    /// The weights that the training was given, and what they were worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_weights: Option<GivenWeights>,
    /// SHA-256 of these weights, known from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_sha256: Option<String>,
    /// SHA-256 of the training and of the validation samples: names, sizes and planes.
    #[serde(default)]
    pub data_sha256: Option<[String; 2]>,
    /// The weights' file that an imported model was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported_from: Option<String>,
    /// SHA-256 of `best_model.pth`, once the run has ended.
    #[serde(default)]
    pub weights_sha256: Option<String>,
    /// Above this probability a pixel counts as rosette; absent until `rosette threshold` has found the best.
    #[serde(default)]
    pub threshold: Option<f64>,
    /// The epoch whose weights were kept; absent until the first one is validated.
    #[serde(default)]
    pub best: Option<BestEpoch>,
    /// Epochs that were trained.
    #[serde(default)]
    pub epochs_trained: usize,
    /// The trainings of an experiment that has several; the rest of the record is then that of the best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Members>,
    /// Where each setting was set that is not at its built-in default, by its dotted name.
    #[serde(default)]
    pub settings_from: BTreeMap<String, String>,
    /// The names of the samples that it learned from.
    #[serde(default)]
    pub train_sample_list: Vec<String>,
    /// The names of the samples that it was measured on.
    #[serde(default)]
    pub val_sample_list: Vec<String>,
    /// Planned device memory of a training step, with what stays there between steps.
    #[serde(default)]
    pub device_memory_bytes: Option<u64>,
}

/// The trainings of an experiment with folds or several seeds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Members {
    /// The one with the highest F1, whose files stand for the experiment.
    pub best: String,
    /// Means over all of them.
    pub mean: Scores,
    /// Standard deviations (n - 1); 0 of a single one.
    pub deviation: Scores,
    /// Each by the name of its directory.
    pub all: Vec<Member>,
}

impl Members {
    /// The deviations, where there is more than one training.
    pub fn spread(&self) -> Option<Scores> {
        (self.all.len() > 1).then_some(self.deviation)
    }
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The name of its directory.
    pub name: String,
    /// Its best epoch.
    pub best: BestEpoch,
    /// SHA-256 of its weights.
    pub weights_sha256: Option<String>,
}

/// The numbers of a best epoch that are averaged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Validation loss.
    pub val_loss: f64,
    /// Intersection over union.
    pub val_iou: f64,
    /// F1.
    pub val_f1: f64,
    /// Precision.
    pub val_precision: f64,
    /// Recall.
    pub val_recall: f64,
}

impl Scores {
    /// Those of an epoch.
    pub fn of(best: &BestEpoch) -> Self {
        Self {
            val_loss: best.val_loss,
            val_iou: best.val_iou,
            val_f1: best.val_f1,
            val_precision: best.val_precision,
            val_recall: best.val_recall,
        }
    }

    /// Means and standard deviations (n - 1) of some, at least one.
    pub fn statistics(all: &[Self]) -> (Self, Self) {
        let count = all.len() as f64;
        let mean = |of: fn(&Self) -> f64| all.iter().map(of).sum::<f64>() / count;
        let deviation = |of: fn(&Self) -> f64| {
            let middle = mean(of);
            (all.iter().map(|s| (of(s) - middle).powi(2)).sum::<f64>() / (count - 1.0).max(1.0)).sqrt()
        };
        let each = |take: &dyn Fn(fn(&Self) -> f64) -> f64| Self {
            val_loss: take(|s| s.val_loss),
            val_iou: take(|s| s.val_iou),
            val_f1: take(|s| s.val_f1),
            val_precision: take(|s| s.val_precision),
            val_recall: take(|s| s.val_recall),
        };
        (each(&mean), each(&deviation))
    }
}

/// The micro-batches of a batch that the device's memory does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MicroBatch {
    /// Patches on the device at once: what batch normalisation sees.
    pub patches: usize,
    /// Device memory that was planned for it, with the training samples.
    pub planned_bytes: u64,
    /// Why, with the whole batch's numbers.
    pub reason: String,
    /// Settings with a `memory_limit` of so many bytes or more come to the same plan, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_from_bytes: Option<u64>,
    /// ... unless it is this or more; absent where no limit is too much for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub same_below_bytes: Option<u64>,
}

/// The weights that a training was given, with what they achieved on its validation images before the first step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GivenWeights {
    /// Where they were.
    pub file: String,
    /// The SHA-256 of that file.
    pub sha256: String,
    /// Mean validation loss.
    pub val_loss: f64,
    /// Mean intersection over union.
    pub val_iou: f64,
    /// Mean F1 score.
    pub val_f1: f64,
}

impl std::fmt::Display for GivenWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { file, val_loss, val_iou, val_f1, .. } = self;
        write!(
            f,
            "from {file}: validation loss {val_loss:.4}, IoU {val_iou:.4}, F1 {val_f1:.4} before the first step"
        )
    }
}

/// The epoch whose weights were kept, and what it achieved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BestEpoch {
    /// Counted from 1.
    pub epoch: usize,
    /// Mean validation loss.
    pub val_loss: f64,
    /// Mean intersection over union.
    pub val_iou: f64,
    /// Mean F1 score.
    pub val_f1: f64,
    /// Mean precision.
    pub val_precision: f64,
    /// Mean recall.
    pub val_recall: f64,
}

impl From<&EpochRow> for BestEpoch {
    fn from(row: &EpochRow) -> Self {
        Self {
            epoch: row.epoch,
            val_loss: row.val_loss,
            val_iou: row.val_iou,
            val_f1: row.val_f1,
            val_precision: row.val_precision,
            val_recall: row.val_recall,
        }
    }
}

/// The pipeline's name for the choice of input channels; also a part of the names of run directories.
pub fn approach(model: &ModelConfig) -> &'static str {
    if model.use_intensity { "attention_intensity" } else { "attention_geometric" }
}

impl RunRecord {
    /// Under which a safetensors file holds the record of its weights.
    pub const KEY: &'static str = "rosette";

    /// The record of a run that is about to start.
    pub fn new(experiment: &Experiment, total_parameters: u64, device: &str) -> Self {
        Self {
            experiment_name: experiment.name.clone(),
            description: experiment.description.clone(),
            approach: approach(&experiment.model).to_string(),
            model: experiment.model.clone(),
            training: experiment.training.clone(),
            total_parameters,
            device: device.to_string(),
            precision_used: String::new(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            micro_batch: None,
            init_weights: None,
            initial_sha256: None,
            data_sha256: None,
            imported_from: None,
            weights_sha256: None,
            threshold: None,
            best: None,
            epochs_trained: 0,
            members: None,
            settings_from: BTreeMap::new(),
            train_sample_list: Vec::new(),
            val_sample_list: Vec::new(),
            device_memory_bytes: None,
        }
    }

    /// Takes over what the record in `path` says of the weights at the start, which a training that goes on no longer has.
    pub fn keep_start(&mut self, path: &Path) {
        if let Ok(before) = Self::read(path) {
            self.init_weights = before.init_weights;
        }
    }

    /// The experiment that the run was made of.
    pub fn experiment(&self) -> Experiment {
        Experiment {
            name: self.experiment_name.clone(),
            description: self.description.clone(),
            model: self.model.clone(),
            training: self.training.clone(),
        }
    }

    /// Writes the record.
    ///
    /// # Errors
    /// A user error where the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self).expect("a record is numbers and text");
        text.push('\n');
        files::write_atomic(path, text.as_bytes())
    }

    /// Reads a record.
    ///
    /// # Errors
    /// A user error with line and column where the file is not such a record.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&files::read_text(path)?, path)
    }

    /// The record as a text, for a file that holds other things as well.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a record is numbers and text")
    }

    /// Reads a record from a text that stands in `path`.
    ///
    /// # Errors
    /// As [`RunRecord::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let record: Self = serde_json::from_str(text).map_err(|e| not_a_record(path, "the record", e))?;
        let ModelConfig { base_channels, patch_size, .. } = record.model;
        let is_network = (8..=256).contains(&base_channels) && base_channels % 8 == 0;
        if !is_network || !(16..=4096).contains(&patch_size) || patch_size % 16 > 0 {
            let found = format!("base_channels {base_channels}, patch_size {patch_size}");
            return Err(not_a_record(path, "settings of the network that are possible in the record", found));
        }
        if let Some(threshold) = record.threshold.filter(|t| !(0.0..=1.0).contains(t)) {
            return Err(not_a_record(path, "a threshold from 0 to 1 in the record", threshold));
        }
        Ok(record)
    }
}

fn not_a_record(path: &Path, expected: &str, found: impl std::fmt::Display) -> Error {
    let remedy = "give the config.json that a training run wrote beside its weights";
    Error::user(path.display(), format!("{expected} of a training run"), found, remedy)
}
