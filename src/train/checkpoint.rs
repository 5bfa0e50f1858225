//! Checkpoints: everything that decides how a training goes on, in one file that is whole or absent and knows its own
//! checksum. `last.safetensors` is the newest; `previous.safetensors` is one from which the epoch of the newest can be
//! trained again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

/// The newest checkpoint.
pub const LAST: &str = "last.safetensors";
/// One before it (see [`Keeper::write`]).
pub const PREVIOUS: &str = "previous.safetensors";
/// The one that is being written.
const NEXT: &str = "next.safetensors";
/// The next checkpoint is due after so many times what the last one cost: they take at most 2 % of the time.
const LEAST_TIMES_COST: u32 = 50;
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

/// Whether a directory holds a training that has not come to its end.
pub fn is_unfinished(dir: &Path) -> bool {
    [LAST, PREVIOUS].iter().any(|name| dir.join(name).exists())
}

/// Removes the checkpoints of a directory, and what else belongs to a training that is to go on.
pub fn give_up_unfinished(dir: &Path) {
    for name in [LAST, PREVIOUS, NEXT] {
        let _ = std::fs::remove_file(dir.join(name));
    }
    super::kept::forget(dir);
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

/// The checkpoints of one output directory.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
    identity: Identity,
    /// Epoch and batch of the newest file, where it is whole and this training's.
    newest: Option<(usize, usize)>,
    every: Duration,
    written: Instant,
    cost: Duration,
    /// What all checkpoints took so far.
    pub spent: Duration,
}

impl Keeper {
    /// Keeps checkpoints in `dir`: after every epoch and every `every` within one, but never so often that they take
    /// more than a fiftieth of the time. Where `every` is zero: after every step, whatever that costs.
    pub fn new(dir: &Path, identity: Identity, every: Duration) -> Self {
        let (written, cost, spent) = (Instant::now(), Duration::ZERO, Duration::ZERO);
        Self { dir: dir.to_path_buf(), identity, newest: None, every, written, cost, spent }
    }

    /// The newest whole checkpoint of this training. Damaged ones are told of and passed over; one of another training
    /// is told of by what differs, and given up.
    pub fn find(&mut self) -> Option<Checkpoint> {
        for name in [LAST, PREVIOUS] {
            let Some((identity, checkpoint)) = self.read(name) else { continue };
            let differences = identity.differences(&self.identity);
            if !differences.is_empty() {
                let list = differences.join(", ");
                tracing::warn!(
                    "the unfinished training in {} is another one and is given up: {list}",
                    self.dir.display()
                );
                return None;
            }
            if name == LAST {
                self.newest = Some((checkpoint.state.epoch, checkpoint.state.batch));
            }
            return Some(checkpoint);
        }
        None
    }

    /// The newest checkpoint at or before the start of an epoch.
    ///
    /// # Errors
    /// A failure where there is none any more: somebody removed it.
    pub fn before(&mut self, epoch: usize) -> Result<Checkpoint> {
        let is_before = |state: &State| (state.epoch, state.batch) <= (epoch, 0);
        let found =
            [LAST, PREVIOUS].iter().filter_map(|name| self.read(name)).map(|(_, checkpoint)| checkpoint);
        let found = found.into_iter().find(|checkpoint| is_before(&checkpoint.state)).ok_or_else(|| {
            Error::failure(format!("{}: the checkpoints are gone: start again", self.dir.display()))
        })?;
        // What comes after the one that is gone back to has diverged: the next one takes its place, and keeps it nowhere.
        self.newest = None;
        Ok(found)
    }

    fn read(&self, name: &str) -> Option<(Identity, Checkpoint)> {
        let path = self.dir.join(name);
        if !path.exists() {
            return None;
        }
        load(&path).inspect_err(|error| tracing::warn!("a checkpoint is passed over: {error}")).ok()
    }

    /// Within an epoch.
    pub fn is_due(&self) -> bool {
        is_due(self.written.elapsed(), self.cost, self.every, false)
    }

    /// At the end of an epoch.
    pub fn is_due_after_epoch(&self) -> bool {
        is_due(self.written.elapsed(), self.cost, self.every, true)
    }

    /// Writes a checkpoint; `started` is when its making began. The file that it replaces becomes the previous one,
    /// unless it lies within the same epoch: the previous is always one from which that epoch can be trained anew.
    ///
    /// # Errors
    /// A user error where the disk takes no more; the older ones are whole then.
    pub fn write(&mut self, checkpoint: Checkpoint, started: Instant) -> Result<()> {
        let Checkpoint { state, buffers } = checkpoint;
        let (epoch, batch) = (state.epoch, state.batch);
        let header = Header { format: FORMAT, identity: self.identity.clone(), state };
        let header = serde_json::to_string(&header).expect("a state is numbers and text");
        let tensors: Vec<TensorData> = buffers
            .into_iter()
            .map(|(name, values)| TensorData::f32(name, &[values.len()], values))
            .collect();
        let metadata = [("sha256", digest(&header, &tensors)), ("state", header)];
        let (last, next) = (self.dir.join(LAST), self.dir.join(NEXT));
        write_safetensors_with(&next, &tensors, &metadata.map(|(k, v)| (k.to_string(), v)))?;
        let rename = |from: &Path, to: &Path| {
            std::fs::rename(from, to).map_err(|e| Error::io(to, "a file to replace", &e))
        };
        if self.newest.is_some_and(|(old, done)| old != epoch || done == 0) {
            rename(&last, &self.dir.join(PREVIOUS))?;
        }
        rename(&next, &last)?;
        self.newest = Some((epoch, batch));
        (self.written, self.cost) = (Instant::now(), started.elapsed());
        self.spent += self.cost;
        Ok(())
    }

    /// Removes the checkpoints: of a training that is over, or of another one.
    pub fn clear(&mut self) {
        for path in [LAST, PREVIOUS, NEXT].map(|name| self.dir.join(name)) {
            let _ = std::fs::remove_file(path);
        }
        self.newest = None;
    }
}

/// Whether a checkpoint is due so long after the last one, which cost so much. A crash loses what was trained since the
/// last one: at most `every` or [`LEAST_TIMES_COST`] times the cost, whichever is more, and a step or a validation.
fn is_due(since: Duration, cost: Duration, every: Duration, at_epochs_end: bool) -> bool {
    let affordable = cost * LEAST_TIMES_COST;
    every.is_zero() || since >= if at_epochs_end { affordable } else { every.max(affordable) }
}

fn load(path: &Path) -> Result<(Identity, Checkpoint)> {
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
    fn what_diverged_is_not_kept_as_the_previous_checkpoint() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut keeper = Keeper::new(dir.path(), identity(None, |_| {}), Duration::ZERO);
        let write = |keeper: &mut Keeper, epoch, batch| {
            let mut state = State::new(Plateau::new(1e-3, 1e-6, 7), EarlyStopping::new(15));
            (state.epoch, state.batch) = (epoch, batch);
            let buffers = [("weights".to_string(), vec![epoch as f32])].into_iter().collect();
            keeper.write(Checkpoint { state, buffers }, Instant::now()).expect("a checkpoint");
        };
        write(&mut keeper, 1, 0);
        write(&mut keeper, 3, 5);
        assert_eq!(keeper.before(3).expect("the first").state.epoch, 1);
        write(&mut keeper, 1, 0);
        let (_, previous) = keeper.read(PREVIOUS).expect("a file");
        assert_eq!((previous.state.epoch, previous.state.batch), (1, 0), "epoch 3 diverged");
    }

    /// What README says of a crash.
    #[test]
    fn checkpoints_come_with_every_epoch_unless_they_cost_a_fiftieth_of_the_time() {
        let due = |since: u64, cost: u64, at_epochs_end| {
            let (every, seconds) = (Duration::from_secs(300), Duration::from_secs);
            is_due(seconds(since), seconds(cost), every, at_epochs_end)
        };
        assert!(due(100, 2, true) && !due(99, 2, true), "an epoch's end, 50 times 2 s after the last");
        assert!(due(300, 2, false) && !due(299, 2, false), "within an epoch, every five minutes");
        assert!(due(500, 10, false) && !due(499, 10, false), "a slow disk");
        assert!(is_due(Duration::ZERO, Duration::from_secs(9), Duration::ZERO, false), "after every step");
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
