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
    /// The version of this program.
    pub version: String,
    /// SHA-256 of the training and of the validation samples: names, sizes and planes.
    #[serde(default)]
    pub data_sha256: Option<[String; 2]>,
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
            version: env!("CARGO_PKG_VERSION").to_string(),
            data_sha256: None,
            weights_sha256: None,
            threshold: None,
            best: None,
            epochs_trained: 0,
            settings_from: BTreeMap::new(),
            train_sample_list: Vec::new(),
            val_sample_list: Vec::new(),
            device_memory_bytes: None,
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
        serde_json::from_str(&files::read_text(path)?).map_err(|e| {
            let remedy = "give the config.json that a training run wrote beside its weights";
            Error::user(path.display(), "the record of a training run", e.to_string(), remedy)
        })
    }
}
