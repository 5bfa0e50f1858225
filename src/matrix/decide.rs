//! Whether an experiment has to be trained, and why.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config::Experiment;
use crate::files;
use crate::report::RunRecord;
use crate::train::{is_unfinished, setting_differences};

/// What to do about an experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is done, with these settings, this data and these outputs.
    Keep,
    /// It has to be trained, for this reason.
    Train(String),
}

/// What a training takes in besides its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inputs {
    /// Digests of the training and the validation samples.
    pub data: [String; 2],
    /// SHA-256 of the weights that it starts from, where it is given some.
    pub initial: Option<String>,
}

/// Decides by what an earlier run left in `dir`.
pub fn decide(experiment: &Experiment, dir: &Path, inputs: &Inputs, force: bool) -> Decision {
    match reason(experiment, dir, inputs, force) {
        Some(reason) => Decision::Train(reason),
        None => Decision::Keep,
    }
}

fn reason(experiment: &Experiment, dir: &Path, inputs: &Inputs, force: bool) -> Option<String> {
    let record_path = dir.join("config.json");
    if !record_path.exists() {
        return Some("not trained yet".into());
    }
    let Ok(record) = RunRecord::read(&record_path) else {
        return Some("its config.json cannot be read".into());
    };
    let differences = setting_differences(&record.experiment(), experiment);
    if !differences.is_empty() {
        return Some(format!("changed: {}", differences.join(", ")));
    }
    if let Some(known) = &record.data_sha256 {
        for (set, (old, new)) in ["training", "validation"].iter().zip(known.iter().zip(&inputs.data)) {
            if old != new {
                return Some(format!("the {set} samples changed"));
            }
        }
    }
    let given = record.init_weights.as_ref().map(|given| &given.sha256);
    if record.initial_sha256.as_ref().or(given) != inputs.initial.as_ref() {
        return Some("changed: --init-weights".into());
    }
    if is_unfinished(dir) {
        return Some("unfinished: goes on".into());
    }
    if record.best.is_none() {
        return Some("it did not end".into());
    }
    for name in ["best_model.pth", "training_plots.png", "metrics.csv"] {
        if !dir.join(name).is_file() {
            return Some(format!("{name} is missing"));
        }
    }
    let Ok(weights) = files::read_bytes(&dir.join("best_model.pth")) else {
        return Some("best_model.pth cannot be read".into());
    };
    if record.weights_sha256.is_some_and(|known| known != files::hex(&Sha256::digest(&weights))) {
        return Some("best_model.pth is not the one that was trained".into());
    }
    force.then(|| "--force".into())
}
