//! Checkpoints: everything that decides how a training goes on, in one file that is whole or absent and knows its own
//! checksum.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::contents::Buffers;
use super::epoch::Trained;
use super::fit::is_cut_alike;
use super::schedule::{EarlyStopping, Plateau, Schedule};
use crate::config::Experiment;
use crate::error::{Error, Result};
use crate::interop::{TensorData, Values, read_safetensors_with, write_safetensors_with};
use crate::report::{BestEpoch, RunRecord};

/// Changes with what a checkpoint holds.
const FORMAT: u32 = 2;

/// What a training is, apart from where it runs: a checkpoint continues the same one and no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Every setting, as JSON.
    pub settings: serde_json::Value,
    /// SHA-256 of the training samples, and of the validation samples.
    pub data: [String; 2],
    /// SHA-256 of the weights it started from, where it was given some.
    pub initial: Option<String>,
    /// Patches on the device at once by the settings alone; none in checkpoints of older versions.
    #[serde(default)]
    pub patches: Option<usize>,
}

impl Identity {
    /// What tells two trainings apart, in words.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let is_cut_alike = self.patches.is_some() && self.patches == other.patches;
        let mut found = match (experiment_of(&self.settings), experiment_of(&other.settings)) {
            (Some(old), Some(new)) => differences(&old, &new, is_cut_alike),
            _ => vec!["settings of another version".into()],
        };
        for (set, (a, b)) in ["training", "validation"].iter().zip(self.data.iter().zip(&other.data)) {
            if a != b {
                found.push(format!("the {set} samples"));
            }
        }
        if self.initial != other.initial {
            found.push("the initial weights".into());
        }
        found
    }
}

/// What an experiment would be trained otherwise for than it was for a record, in words: settings that either reads, and
/// those of memory where they cut the batch otherwise. What only the split reads is told by the samples.
pub fn setting_differences(record: &RunRecord, experiment: &Experiment) -> Vec<String> {
    let (old, new) = (record.experiment(), experiment);
    let mut found = differences(&old, new, is_cut_alike(record, &new.training));
    if record.data_sha256.is_none() {
        found.extend(split_difference(record, experiment));
    }
    found
}

/// What differs in how the samples are split, in words.
pub fn split_difference(record: &RunRecord, experiment: &Experiment) -> Option<String> {
    let (old, new) = (record.training.val_split, experiment.training.val_split);
    (old != new).then(|| format!("val_split ({old}, now {new})"))
}

fn differences(old: &Experiment, new: &Experiment, is_cut_alike: bool) -> Vec<String> {
    let mut found = Vec::new();
    compare("", &settings_json(old), &settings_json(new), &mut found);
    found.retain(|(name, _)| old.reads(name) || new.reads(name) || !is_cut_alike && new.is_placement(name));
    found.into_iter().map(|(name, values)| format!("{name} {values}")).collect()
}

/// The experiment of which [`settings_json`] made this, without its name.
fn experiment_of(settings: &serde_json::Value) -> Option<Experiment> {
    let model = serde_json::from_value(settings.clone()).ok()?;
    let training = serde_json::from_value(settings.clone()).ok()?;
    Some(Experiment { model, training, ..Experiment::defaults("") })
}

/// What decides how a training goes, of an experiment: not its name, its description, nor what it shows of itself.
pub fn settings_json(experiment: &Experiment) -> serde_json::Value {
    let Ok(serde_json::Value::Object(mut all)) = serde_json::to_value(&experiment.training) else {
        unreachable!("a section is a mapping")
    };
    if let Ok(serde_json::Value::Object(model)) = serde_json::to_value(&experiment.model) {
        all.extend(model);
    }
    all.remove("report");
    serde_json::Value::Object(all)
}

/// Finds what differs: the dotted name, and both values in words.
fn compare(path: &str, a: &serde_json::Value, b: &serde_json::Value, found: &mut Vec<(String, String)>) {
    use serde_json::Value::{Null, Object};
    match (a, b) {
        (Object(a), Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, a.get(key).unwrap_or(&Null), b.get(key).unwrap_or(&Null), found);
            }
        }
        _ if a != b => found.push((path.to_string(), format!("({a}, now {b})"))),
        _ => {}
    }
}

/// Where a training stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The epoch in progress, counted from 1.
    pub epoch: usize,
    /// Batches of it that are done.
    pub batch: usize,
    /// What these came to.
    pub trained: Trained,
    /// Wall-clock time that the epoch has taken.
    #[serde(with = "exact")]
    pub seconds: f64,
    /// Optimiser steps so far.
    pub steps: u64,
    /// Batches so far, each of which moved the running statistics.
    pub batches: u64,
    /// The learning rate, where it goes by the validation loss.
    pub plateau: Plateau,
    /// Early stopping.
    pub stopping: EarlyStopping,
    /// Epochs at whose start the learning rate was halved because they diverged.
    pub halvings: Vec<usize>,
    /// The epoch whose weights were kept.
    pub best: Option<BestEpoch>,
    /// SHA-256 of its weights; none in checkpoints of older versions.
    #[serde(default)]
    pub best_sha256: Option<String>,
    /// The rows of metrics.csv.
    pub history: String,
}

impl State {
    /// A training that is about to start.
    pub fn new(plateau: Plateau, stopping: EarlyStopping) -> Self {
        Self {
            epoch: 1,
            batch: 0,
            trained: Trained::default(),
            seconds: 0.0,
            steps: 0,
            batches: 0,
            plateau,
            stopping,
            halvings: Vec::new(),
            best: None,
            best_sha256: None,
            history: String::new(),
        }
    }

    /// The learning rate of a step, from 0, of the epoch in progress.
    pub fn learning_rate(&self, schedule: &Schedule, step: usize) -> f64 {
        let halvings = self.halvings.iter().filter(|epoch| **epoch <= self.epoch).count();
        schedule.learning_rate(&self.plateau, self.epoch, step) * 0.5_f64.powi(halvings as i32)
    }
}

/// A state with the device's buffers.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// Where it stands.
    pub state: State,
    /// Weights, moments, statistics, loss scaling; averages and gradients where there are such.
    pub buffers: Buffers,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    identity: Identity,
    state: State,
}

fn digest(header: &str, tensors: &[TensorData]) -> String {
    let mut hash = Sha256::new();
    hash.update(header.as_bytes());
    for tensor in tensors {
        hash.update(tensor.name.as_bytes());
        if let Values::F32(values) = &tensor.values {
            hash.update(bytemuck::cast_slice(values));
        }
    }
    crate::files::hex(&hash.finalize())
}

/// Writes the checkpoint of a training to a file, whole or not at all.
///
/// # Errors
/// A user error where the disk takes no more.
pub(super) fn write(path: &Path, identity: Identity, checkpoint: Checkpoint) -> Result<()> {
    let header = Header { format: FORMAT, identity, state: checkpoint.state };
    let header = serde_json::to_string(&header).expect("a state is numbers and text");
    let tensor = |(name, values): (String, Vec<f32>)| TensorData::f32(name, &[values.len()], values);
    let tensors: Vec<TensorData> = checkpoint.buffers.into_iter().map(tensor).collect();
    let metadata = [("sha256", digest(&header, &tensors)), ("state", header)];
    write_safetensors_with(path, &tensors, &metadata.map(|(k, v)| (k.to_string(), v)))
}

/// Reads what [`write`] wrote.
///
/// # Errors
/// A user error where it is none, damaged, or of another version.
pub(super) fn load(path: &Path) -> Result<(Identity, Checkpoint)> {
    let damaged = |found: &str| {
        let remedy = "remove it: the one before it takes its place";
        Error::user(path.display(), "a whole checkpoint of this version", found, remedy)
    };
    let (tensors, metadata) = read_safetensors_with(path)?;
    let (Some(header), Some(sha256)) = (metadata.get("state"), metadata.get("sha256")) else {
        return Err(damaged("no state in it"));
    };
    if digest(header, &tensors) != *sha256 {
        return Err(damaged("another checksum"));
    }
    let header: Header = serde_json::from_str(header).map_err(|e| damaged(&e.to_string()))?;
    if header.format != FORMAT {
        return Err(damaged(&format!("format {}", header.format)));
    }
    let buffers = tensors.into_iter().map(|tensor| match tensor.values {
        Values::F32(values) => Ok((tensor.name, values)),
        Values::I64(_) => Err(damaged("integers")),
    });
    Ok((header.identity, Checkpoint { state: header.state, buffers: buffers.collect::<Result<_>>()? }))
}

/// Floats as text with as many digits as it takes, infinities included, which JSON has not.
pub mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// See the module.
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.to_string())
    }

    /// See the module.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The identity of a training of the defaults but for a change, with so many patches on the device.
    fn identity(patches: Option<usize>, change: impl Fn(&mut Experiment)) -> Identity {
        let mut experiment = Experiment::defaults("x");
        change(&mut experiment);
        let data = ["a".to_string(), "b".to_string()];
        Identity { settings: settings_json(&experiment), data, initial: None, patches }
    }

    #[test]
    fn an_unfinished_training_is_not_given_up_for_a_setting_that_it_does_not_read() {
        let plain = identity(Some(4), |_| {});
        let unread = identity(Some(4), |e| (e.training.focal_gamma, e.training.poly_power) = (3.0, 2.0));
        assert!(plain.differences(&unread).is_empty(), "{:?}", plain.differences(&unread));
        let read = identity(Some(4), |e| e.training.dice_weight = 0.25);
        assert_eq!(plain.differences(&read), ["dice_weight (0.5, now 0.25)"]);
        let limited = |patches| plain.differences(&identity(patches, |e| e.training.memory_limit = 8.0));
        assert!(limited(Some(4)).is_empty());
        // Cut otherwise, or of an older version, which does not say.
        assert_eq!(limited(Some(2)), ["memory_limit (0.0, now 8.0)"]);
        assert_eq!(limited(None), ["memory_limit (0.0, now 8.0)"]);
        // Another device is the same training.
        assert!(plain.differences(&identity(Some(2), |_| {})).is_empty());
    }
}
