//! Whether an experiment has to be trained, and why.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config::Experiment;
use crate::files;
use crate::report::RunRecord;
use crate::train::{is_unfinished, setting_differences, split_difference};

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
    let differences = setting_differences(&record, experiment);
    if !differences.is_empty() {
        return Some(format!("changed: {}", differences.join(", ")));
    }
    if let Some(known) = &record.data_sha256 {
        for (set, (old, new)) in ["training", "validation"].iter().zip(known.iter().zip(&inputs.data)) {
            if old != new {
                let split = split_difference(&record, experiment);
                return Some(match split {
                    Some(split) => format!("changed: {split}"),
                    None => format!("the {set} samples changed"),
                });
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of a training that is done, started from weights of hash `w`.
    fn done() -> (tempfile::TempDir, Experiment, Inputs) {
        let dir = tempfile::tempdir().expect("a directory");
        let experiment = Experiment::defaults("tiny");
        let inputs = Inputs { data: ["a".into(), "b".into()], initial: Some("w".into()) };
        let mut record = RunRecord::new(&experiment, 1, "a device");
        (record.data_sha256, record.initial_sha256) = (Some(inputs.data.clone()), Some("w".into()));
        record.weights_sha256 = Some(files::hex(&Sha256::digest(b"weights")));
        record.best = serde_json::from_value(serde_json::json!({
            "epoch": 1, "val_loss": 0.5, "val_iou": 0.5, "val_f1": 0.5, "val_precision": 0.5, "val_recall": 0.5,
        }))
        .expect("an epoch");
        record.write(&dir.path().join("config.json")).expect("a record");
        for name in ["best_model.pth", "training_plots.png", "metrics.csv"] {
            std::fs::write(dir.path().join(name), "weights").expect("a file");
        }
        (dir, experiment, inputs)
    }

    #[test]
    fn other_initial_weights_are_a_reason_to_train() {
        let (dir, experiment, mut inputs) = done();
        assert_eq!(decide(&experiment, dir.path(), &inputs, false), Decision::Keep);
        for other in [Some("v".to_string()), None] {
            inputs.initial = other;
            let decision = decide(&experiment, dir.path(), &inputs, false);
            assert_eq!(decision, Decision::Train("changed: --init-weights".into()));
        }
    }

    /// Why an experiment with a change is trained, where the record is that of another.
    fn reason_for(old: impl Fn(&mut Experiment), new: impl Fn(&mut Experiment)) -> Option<String> {
        let (dir, mut experiment, inputs) = done();
        let path = dir.path().join("config.json");
        let mut record = RunRecord::read(&path).expect("a record");
        old(&mut experiment);
        record.training = experiment.training.clone();
        record.device_memory_bytes = Some(3 << 30);
        record.write(&path).expect("a record");
        new(&mut experiment);
        reason(&experiment, dir.path(), &inputs, false)
    }

    #[test]
    fn settings_that_a_training_does_not_read_are_no_reason_to_train() {
        let plain = |_: &mut Experiment| {};
        let unread: [fn(&mut Experiment); 9] = [
            |e| (e.training.focal_gamma, e.training.focal_alpha) = (3.0, 0.5),
            |e| (e.training.tversky_alpha, e.training.tversky_beta) = (0.5, 0.5),
            |e| e.training.poly_power = 2.0,
            |e| e.training.augmentation.magnitudes.blur = 3.0,
            |e| e.training.augmentation.intensity_gain = 0.5,
            |e| e.training.val_split = 0.21,
            |e| e.training.memory_limit = 3.5,
            |e| e.training.batch_fit = crate::config::BatchFit::Error,
            |e| e.training.data.memory_budget = 0.5,
        ];
        for (number, change) in unread.iter().enumerate() {
            assert_eq!(reason_for(plain, change), None, "change {number}");
        }
        let focal = |e: &mut Experiment| e.training.loss = crate::config::Loss::Focal;
        assert_eq!(reason_for(focal, |e| e.training.pos_weight = 4.0), None);
        let constant = |e: &mut Experiment| e.training.scheduler = crate::config::Scheduler::Constant;
        assert_eq!(reason_for(constant, |e| e.training.min_learning_rate = 1e-5), None);
    }

    #[test]
    fn settings_that_a_training_reads_are_a_reason_wherever_they_stand() {
        let plain = |_: &mut Experiment| {};
        let said = reason_for(plain, |e| e.training.pos_weight = 4.0);
        assert_eq!(said.as_deref(), Some("changed: pos_weight (1.0, now 4.0)"));
        let said = reason_for(plain, |e| e.training.memory_limit = 2.5);
        assert_eq!(said.as_deref(), Some("changed: memory_limit (0.0, now 2.5)"));
        // What the new loss reads is told with it.
        let said = reason_for(plain, |e| {
            (e.training.loss, e.training.focal_gamma) = (crate::config::Loss::Focal, 3.0);
        });
        assert_eq!(
            said.as_deref(),
            Some("changed: focal_gamma (2.0, now 3.0), loss (\"bce_dice\", now \"focal\")")
        );
        let said = reason_for(plain, |e| e.training.augmentation.magnitudes.elastic_sigma = 3.0);
        assert!(
            said.is_some_and(|said| said.contains("augmentation.magnitudes.elastic_sigma (6.0, now 3.0)"))
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn weights_that_cannot_be_read_are_a_reason_to_train() {
        let (dir, experiment, inputs) = done();
        // Read by offset 0 of one's own memory: a file that every user may open and none may read.
        let path = dir.path().join("best_model.pth");
        std::fs::remove_file(&path).expect("a file");
        std::os::unix::fs::symlink("/proc/self/mem", &path).expect("a link");
        let decision = decide(&experiment, dir.path(), &inputs, false);
        assert_eq!(decision, Decision::Train("best_model.pth cannot be read".into()));
    }
}
