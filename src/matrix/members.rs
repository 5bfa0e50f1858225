//! Experiments that are trained several times: on the folds of cross-validation, with several seeds, or both. Each such
//! training is a member with a directory of its own below the experiment's; the best one's files, and a record of all of
//! them, stand for the experiment.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::decide::{Decision, Inputs, decide};
use crate::config::Experiment;
use crate::data::loader::Dataset;
use crate::data::split::{Manifest, fold};
use crate::error::{Error, Result};
use crate::files;
use crate::report::metrics::read_metrics;
use crate::report::progress::print_line;
use crate::report::{Member, Members, RunRecord, Scores, experiment_page};
use crate::train::{
    DirLock, Outcome, TrainRun, forget_shown, give_up_unfinished, is_unfinished, train, weights_file,
};

/// A member's split, in its directory; the best member's, in the experiment's.
pub const MANIFEST: &str = "split_manifest.json";
/// What of the best member stands for the experiment, where it is there.
const SHOWN: [&str; 6] =
    ["best_model.pth", "metrics.csv", "training_plots.png", "predictions.png", "training.log", MANIFEST];

/// A member before it is trained.
#[derive(Debug, Clone)]
pub struct MemberPlan {
    /// `fold_1`, `seed_43` or `fold_1_seed_43`.
    pub name: String,
    /// The experiment with this member's seed, and with no others.
    pub experiment: Experiment,
    /// Its split.
    pub manifest: Manifest,
}

/// The members of an experiment whose plain split is `manifest`; none where it is trained once. Folds are made of all
/// samples of that split with the experiment's `seed`; each of `seeds` decides first weights, patches and augmentation.
///
/// # Errors
/// A user error where there are fewer samples than folds.
pub fn members(experiment: &Experiment, manifest: &Manifest) -> Result<Vec<MemberPlan>> {
    let training = &experiment.training;
    if !has_members(experiment) {
        return Ok(Vec::new());
    }
    let splits: Vec<(Option<String>, Manifest)> = match training.folds {
        1 => vec![(None, manifest.clone())],
        folds => (1..)
            .zip(fold(&manifest.samples(), folds, training.seed)?)
            .map(|(number, split)| {
                (Some(format!("fold_{number}")), Manifest::of(split, u64::from(training.seed)))
            })
            .collect(),
    };
    let seeds: Vec<(Option<String>, u32)> = match training.seeds.as_slice() {
        [] => vec![(None, training.seed)],
        seeds => seeds.iter().map(|seed| (Some(format!("seed_{seed}")), *seed)).collect(),
    };
    let mut all = Vec::new();
    for (fold, manifest) in &splits {
        for (label, seed) in &seeds {
            let mut experiment = experiment.clone();
            (experiment.training.folds, experiment.training.seeds) = (1, Vec::new());
            experiment.training.seed = *seed;
            let name =
                [fold.as_deref(), label.as_deref()].into_iter().flatten().collect::<Vec<_>>().join("_");
            all.push(MemberPlan { name, experiment, manifest: manifest.clone() });
        }
    }
    Ok(all)
}

/// Whether an experiment is trained several times, or in a directory for its one seed.
pub fn has_members(experiment: &Experiment) -> bool {
    experiment.training.folds > 1 || !experiment.training.seeds.is_empty()
}

/// The manifest that lies at `path` where it is the same but for its time, else the given one; and whether that is new.
pub fn known_manifest(path: &Path, fresh: Manifest) -> (Manifest, bool) {
    match Manifest::read(path).ok().filter(|found| fresh.is_same(found)) {
        Some(found) => (found, false),
        None => (fresh, true),
    }
}

/// Moves a record and weights of another kind of training out of the way of what the members will be. A training that
/// was to go on in this directory is given up: it would take the best member's weights for its own.
///
/// # Errors
/// A user error where they cannot be moved.
pub fn make_way(dir: &Path) -> Result<()> {
    if is_unfinished(dir) {
        give_up_unfinished(dir);
        print_line(&format!(
            "the unfinished training in {} is given up for the members that go there: without folds and seeds it starts anew",
            dir.display()
        ));
    }
    let record = dir.join("config.json");
    if record.exists() && RunRecord::read(&record).is_ok_and(|record| record.members.is_some()) {
        return Ok(());
    }
    for (name, kept) in [("config.json", "config.old.json"), ("best_model.pth", "best_model.old.pth")] {
        let (path, kept) = (dir.join(name), dir.join(kept));
        if path.exists() {
            files::rename(&path, &kept)?;
        }
    }
    forget_shown(dir)
}

/// Puts the best member's files, and a record of all members, into the experiment's directory, where they are not there
/// already; `None` where a member has not been trained to its end.
///
/// # Errors
/// A user error where a member's record cannot be read or a file not be written.
pub fn assemble(experiment: &Experiment, dir: &Path, names: &[String]) -> Result<Option<RunRecord>> {
    let mut records = Vec::with_capacity(names.len());
    for name in names {
        let member = dir.join(name);
        if is_unfinished(&member) || !member.join("config.json").is_file() {
            return Ok(None);
        }
        records.push(RunRecord::read(&member.join("config.json"))?);
    }
    let Some(all) = names.iter().zip(&records).map(of_record).collect::<Option<Vec<Member>>>() else {
        return Ok(None);
    };
    let best = best_of(&all);
    let scores: Vec<Scores> = all.iter().map(|member| Scores::of(&member.best)).collect();
    let (mean, deviation) = Scores::statistics(&scores);
    let mut record = records.swap_remove(best);
    record.training = experiment.training.clone();
    (record.experiment_name, record.description) = (experiment.name.clone(), experiment.description.clone());
    record.members = Some(Members { best: all[best].name.clone(), mean, deviation, all });
    keep_threshold(&mut record, dir);
    if !is_shown(&record, dir, &names[best]) {
        show(&record, dir, &names[best])?;
    }
    Ok(Some(record))
}

fn of_record((name, record): (&String, &RunRecord)) -> Option<Member> {
    let best = record.best.clone()?;
    Some(Member { name: name.clone(), best, weights_sha256: record.weights_sha256.clone() })
}

/// The place of the highest F1; of equal ones, of the lowest loss, then the first.
fn best_of(all: &[Member]) -> usize {
    let better = |a: &Member, b: &Member| {
        a.best.val_f1.total_cmp(&b.best.val_f1).then(b.best.val_loss.total_cmp(&a.best.val_loss))
    };
    let best = all.iter().enumerate().rev().max_by(|a, b| better(a.1, b.1));
    best.expect("an experiment with members has one").0
}

/// A threshold that was found for the same weights stays.
fn keep_threshold(record: &mut RunRecord, dir: &Path) {
    if let Ok(old) = RunRecord::read(&dir.join("config.json"))
        && old.weights_sha256 == record.weights_sha256
        && old.threshold.is_some()
    {
        record.threshold = old.threshold;
    }
}

fn is_shown(record: &RunRecord, dir: &Path, best: &str) -> bool {
    let same = RunRecord::read(&dir.join("config.json")).is_ok_and(|old| old == *record);
    let hash = files::read_bytes(&dir.join("best_model.pth")).map(|bytes| files::hex(&Sha256::digest(bytes)));
    same && hash.is_ok_and(|hash| record.weights_sha256.as_ref() == Some(&hash))
        && dir.join(experiment_page::PAGE).is_file()
        && SHOWN.iter().all(|name| dir.join(name).is_file() || !dir.join(best).join(name).is_file())
}

/// Writes the page of a training that is done, where it was removed.
///
/// # Errors
/// A user error where it cannot be made.
pub fn rebuild_page(dir: &Path) -> Result<()> {
    match dir.join(experiment_page::PAGE).is_file() {
        true => Ok(()),
        false => experiment_page::rebuild(dir),
    }
}

/// The record comes last: what it speaks of is there.
fn show(record: &RunRecord, dir: &Path, best: &str) -> Result<()> {
    for name in SHOWN {
        let from = dir.join(best).join(name);
        let to = dir.join(name);
        if from.is_file() {
            files::write_atomic(&to, &files::read_bytes(&from)?)?;
        } else if to.is_file() {
            // Of an earlier training, or another member.
            std::fs::remove_file(&to).map_err(|e| Error::io(&to, "a file to remove", &e))?;
        }
    }
    experiment_page::write(dir, record, &read_metrics(&dir.join("metrics.csv"))?)?;
    record.write(&dir.join("config.json"))
}

/// `rosette train` for an experiment with members: one after the other, those that are done and unchanged left alone.
///
/// # Errors
/// Those of the first member that fails.
pub fn train_members(run: &TrainRun) -> Result<Outcome> {
    let plans = members(&run.experiment, &Manifest::read(&run.split_manifest)?)?;
    let _lock = DirLock::take(&run.output_dir)?;
    make_way(&run.output_dir)?;
    let hash =
        |path: &PathBuf| files::read_bytes(&weights_file(path)).map(|b| files::hex(&Sha256::digest(b)));
    let initial = run.init_weights.as_ref().map(hash).transpose()?;
    for (number, plan) in (1..).zip(&plans) {
        let output_dir = run.output_dir.join(&plan.name);
        let path = output_dir.join(MANIFEST);
        let (manifest, is_new) = known_manifest(&path, plan.manifest.clone());
        if is_new {
            manifest.write(&path)?;
        }
        let inputs = Inputs { data: digests(run, &manifest)?, initial: initial.clone() };
        let reason = match decide(&plan.experiment, &output_dir, &inputs, run.restart) {
            Decision::Keep => {
                rebuild_page(&output_dir)?;
                "done and unchanged".to_string()
            }
            Decision::Train(reason) => reason,
        };
        if run.mode.is_for_people() {
            print_line(&format!("[{number}/{}] {}: {reason}", plans.len(), plan.name));
        }
        if reason != "done and unchanged" {
            train(&TrainRun {
                experiment: plan.experiment.clone(),
                split_manifest: path,
                output_dir,
                in_new_dir: false,
                member: Some(plan.name.clone()),
                ..run.clone()
            })?;
        }
    }
    let names: Vec<String> = plans.into_iter().map(|plan| plan.name).collect();
    let record = assemble(&run.experiment, &run.output_dir, &names)?;
    let (record, best) = record
        .and_then(|record| Some((record.clone(), record.best?)))
        .ok_or_else(|| Error::failure("a training ended without its record"))?;
    Ok(Outcome { best, epochs: record.epochs_trained, output_dir: run.output_dir.clone() })
}

/// Digests of what trains and of what validates.
fn digests(run: &TrainRun, manifest: &Manifest) -> Result<[String; 2]> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let use_intensity = run.experiment.model.use_intensity;
    let of = |names: &[String]| {
        Dataset::load(&run.data_dir, names, use_intensity, threads).map(|set| set.digest())
    };
    Ok([of(&manifest.train_sample_list)?, of(&manifest.val_sample_list)?])
}

/// The directories of an experiment that hold a record: its own, and its members'.
pub fn trainings(dir: &Path) -> Vec<PathBuf> {
    let own = Some(dir.to_path_buf()).filter(|dir| dir.join("config.json").is_file());
    own.into_iter().chain(found_members(dir)).collect()
}

/// Where the record of an experiment lies: in its directory, or in its first member's while others are still to come.
pub fn recorded_dir(dir: &Path) -> PathBuf {
    match dir.join("config.json").is_file() {
        true => dir.to_path_buf(),
        false => found_members(dir).into_iter().next().unwrap_or_else(|| dir.to_path_buf()),
    }
}

/// The members that lie below an experiment's directory, by name, where it has no record of its own yet.
pub fn found_members(dir: &Path) -> Vec<PathBuf> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_member = |name: &str| {
        let parts: Vec<&str> = name.split('_').collect();
        match parts.as_slice() {
            ["fold" | "seed", number] => is_number(number),
            ["fold", fold, "seed", seed] => is_number(fold) && is_number(seed),
            _ => false,
        }
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(std::result::Result::ok);
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<PathBuf> = names.filter(|name| is_member(name)).map(|name| dir.join(name)).collect();
    found.retain(|dir| dir.join("config.json").is_file());
    found.sort();
    found
}
