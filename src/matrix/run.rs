//! All experiments of a configuration, one after the other or spread over adapters.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;

use super::children::train_on_adapters;
use super::decide::Decision;
use super::members::{MANIFEST, assemble, known_manifest, make_way, rebuild_page};
use super::page::write_page;
use super::plan::{Plan, Planned, plain_split};
use super::summary::{SummaryRow, collect, write_summary};
use crate::config::{Config, Experiment};
use crate::error::{Error, Result};
use crate::files;
use crate::gpu::Gpu;
use crate::report::progress::print_line;
use crate::report::{Event, Mode, events, logging};
use crate::train::{CHECKPOINT_EVERY, DirLock, Outcome, TrainRun, train};

/// Says that every experiment is done.
const FLAG: &str = "model_training.flag";
const SUMMARY: &str = "experiment_summary.csv";

/// What a matrix is given.
#[derive(Debug, Clone)]
pub struct MatrixRun {
    /// The configuration.
    pub config: PathBuf,
    /// Where the samples lie.
    pub data_dir: PathBuf,
    /// Where a directory for each experiment goes.
    pub output_dir: PathBuf,
    /// Where a log for each experiment goes.
    pub log_dir: PathBuf,
    /// These experiments; all where none is named.
    pub only: Vec<String>,
    /// Train what is done and unchanged, too.
    pub force: bool,
    /// `key=value` settings over those of every experiment.
    pub overrides: Vec<String>,
    /// Adapters; with more than one, experiments are spread over them.
    pub adapters: Vec<String>,
    /// How progress is shown.
    pub mode: Mode,
}

/// What a matrix came to.
#[derive(Debug)]
pub struct MatrixOutcome {
    /// A row for each experiment of the configuration.
    pub rows: Vec<SummaryRow>,
    /// Experiments that failed, with the reason.
    pub failures: Vec<(String, Error)>,
}

impl MatrixRun {
    /// Takes the output directory, for [`run_matrix`], where it is there already: what another run is at is not planned.
    ///
    /// # Errors
    /// A user error that names the process that holds it.
    pub fn hold_existing(&self) -> Result<Option<DirLock>> {
        self.output_dir.is_dir().then(|| DirLock::take(&self.output_dir)).transpose()
    }

    /// Whether an experiment is among those that this run is asked for.
    pub fn is_asked(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// Where results go.
    pub fn dir(&self, planned: &Planned) -> PathBuf {
        self.output_dir.join(planned.label())
    }

    /// Where the split is recorded.
    pub fn manifest_path(&self, planned: &Planned) -> PathBuf {
        match planned.member {
            Some(_) => self.dir(planned).join(MANIFEST),
            None => self.split_path(&planned.experiment),
        }
    }

    /// Where an experiment's plain split is recorded.
    fn split_path(&self, experiment: &Experiment) -> PathBuf {
        self.output_dir.join(format!("split_manifest_{}.json", experiment.name))
    }

    /// Where the second log goes.
    pub fn log_path(&self, planned: &Planned) -> PathBuf {
        self.log_dir.join(format!("{}.log", planned.label()))
    }

    fn train_run(&self, planned: &Planned) -> TrainRun {
        TrainRun {
            experiment: planned.experiment.clone(),
            origins: planned.origins.clone(),
            split_manifest: self.manifest_path(planned),
            data_dir: self.data_dir.clone(),
            output_dir: self.dir(planned),
            in_new_dir: false,
            log_file: Some(self.log_path(planned)),
            init_weights: None,
            adapter: self.adapters.first().cloned(),
            member: planned.member.clone(),
            mode: self.mode,
            restart: false,
            checkpoint_every: CHECKPOINT_EVERY,
        }
    }
}

/// Trains what [`super::plan_matrix`] found to be trained, in a directory that is `held` already or taken now. One that fails does not stop the others; a signal stops all, and the
/// same command goes on later.
///
/// # Errors
/// A user error where an adapter is not there, another process holds the directory, or an output cannot be written;
/// [`Error::Stopped`] where a signal came.
pub fn run_matrix(run: &MatrixRun, plan: Plan, held: Option<DirLock>) -> Result<MatrixOutcome> {
    if plan.asked().any(|part| part.decision != Decision::Keep) {
        for adapter in &run.adapters {
            Gpu::open(Some(adapter))?;
        }
    }
    let _held = match held {
        Some(lock) => lock,
        None => DirLock::take(&run.output_dir)?,
    };
    let Plan { parts, failures: unplanned } = plan;
    for (name, error) in unplanned.iter().filter(|(name, _)| run.is_asked(name)) {
        tell_failure(run, name, error, false);
        let _log = logging::start(&[&run.log_dir.join(format!("{name}.log"))])?;
        // Not as an error: the terminal has it.
        tracing::info!("failed: {error}");
    }
    let (planned, others): (Vec<Planned>, Vec<Planned>) = parts.into_iter().partition(|part| part.is_asked);
    let planned = planned.as_slice();
    if run.mode == Mode::Json {
        planned.iter().for_each(emit_plan);
    }
    let todo: Vec<&Planned> = planned.iter().filter(|p| p.decision != Decision::Keep).collect();
    let flag = run.output_dir.join(FLAG);
    let is_all_done = |parts: &[Planned]| parts.iter().all(|part| part.decision == Decision::Keep);
    if !(unplanned.is_empty() && is_all_done(planned) && is_all_done(&others)) && flag.exists() {
        std::fs::remove_file(&flag).map_err(|e| Error::io(&flag, "a file to remove", &e))?;
    }
    for planned in planned.iter().filter(|planned| planned.is_new_split) {
        planned.manifest.write(&run.manifest_path(planned))?;
    }
    let mut grouped = grouped_experiments(run, planned)?;
    let (locks, mut failures) = locked(run, &mut grouped);
    let todo: Vec<&Planned> = todo
        .into_iter()
        .filter(|part| {
            failures.iter().all(|(name, _)| part.member.is_none() || *name != part.experiment.name)
        })
        .collect();
    failures.extend(match run.adapters.len() {
        0 | 1 => train_in_turn(run, &todo)?,
        _ => train_on_adapters(run, &todo)?,
    });
    for (experiment, members) in &grouped {
        // Not of members of which one is still another training's.
        if failures.iter().all(|(label, _)| experiment_of(label) != experiment.name) {
            assemble(experiment, &run.output_dir.join(&experiment.name), members)?;
        }
    }
    drop(locks);
    for kept in planned.iter().filter(|planned| planned.decision == Decision::Keep) {
        rebuild_page(&run.dir(kept))?;
    }
    let mut all_failures = unplanned;
    all_failures.append(&mut failures);
    let rows = summarise(run, &others, &all_failures)?;
    write_summary(&run.output_dir.join(SUMMARY), &rows)?;
    write_page(&run.output_dir, &rows)?;
    if rows.iter().all(|row| row.status == "finished") {
        files::write_atomic(&flag, format!("{} experiments trained\n", rows.len()).as_bytes())?;
    }
    let (failures, _) =
        all_failures.into_iter().partition::<Vec<_>, _>(|(label, _)| run.is_asked(experiment_of(label)));
    if run.mode == Mode::Json {
        let experiments = serde_json::to_value(&rows).expect("rows are numbers and text");
        let failed = failures.iter().map(|(name, _)| name.as_str()).collect();
        events::emit(None, &Event::Summary { experiments, failed });
    }
    Ok(MatrixOutcome { rows, failures })
}

/// The experiment of `experiment` or `experiment/member`.
pub fn experiment_of(label: &str) -> &str {
    label.split('/').next().unwrap_or(label)
}

/// A reason, after the name of the member that it is about, where it is a member's.
fn of_member(label: &str, reason: &str) -> String {
    label.split_once('/').map_or_else(|| reason.to_string(), |(_, member)| format!("{member}: {reason}"))
}

/// A row for each experiment of the configuration: what it left, and what is wrong with it. `others` were not asked for.
fn summarise(run: &MatrixRun, others: &[Planned], failures: &[(String, Error)]) -> Result<Vec<SummaryRow>> {
    let config = Config::load(&run.config)?;
    let mut rows = Vec::new();
    for name in config.names() {
        let failure = failures.iter().find(|(label, _)| experiment_of(label) == name);
        let stale = others.iter().filter(|part| part.experiment.name == name).find_map(|part| {
            let Decision::Train(reason) = &part.decision else { return None };
            Some((part.label(), reason))
        });
        // What cannot be read is said by the reason to train it again.
        let found = collect(&run.output_dir, Some(&[name.to_string()])).unwrap_or_default().pop();
        let mut row = match found {
            Some(row) => row,
            None => {
                let resolved = config.resolve(name, &run.overrides);
                SummaryRow::untrained(&resolved.unwrap_or_else(|_| Experiment::defaults(name)))
            }
        };
        row.experiment_name = name.to_string();
        if let Some((label, error)) = failure {
            (row.status, row.reason) = ("failed".into(), of_member(label, &error.to_string()));
        } else if let Some((label, reason)) = stale {
            row.reason = of_member(&label, reason);
            if row.status == "finished" {
                row.status = "outdated".into();
            }
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Experiments with their members' names.
type Grouped = Vec<(Experiment, Vec<String>)>;

/// Takes the directories of experiments with members, until all are trained, and makes way for them; one that is held by
/// another process, or cannot be written, leaves the list with a failure.
fn locked(run: &MatrixRun, grouped: &mut Grouped) -> (Vec<DirLock>, Vec<(String, Error)>) {
    let (mut locks, mut failures) = (Vec::new(), Vec::new());
    grouped.retain(|(experiment, _)| {
        let dir = run.output_dir.join(&experiment.name);
        match DirLock::take(&dir).and_then(|lock| make_way(&dir).map(|()| lock)) {
            Ok(lock) => locks.push(lock),
            Err(error) => {
                failures.push(failed(run, &experiment.name, error, false));
                return false;
            }
        }
        true
    });
    (locks, failures)
}

/// The experiments that have members, with these; their plain splits are written, too.
fn grouped_experiments(run: &MatrixRun, planned: &[Planned]) -> Result<Grouped> {
    let config = Config::load(&run.config)?;
    let mut grouped: Grouped = Vec::new();
    for part in planned {
        let Some(member) = &part.member else { continue };
        match grouped.last_mut().filter(|(experiment, _)| experiment.name == part.experiment.name) {
            Some((_, members)) => members.push(member.clone()),
            None => {
                let experiment = config.resolve(&part.experiment.name, &run.overrides)?;
                let path = run.split_path(&experiment);
                let split = plain_split(&part.manifest.samples(), &experiment)?;
                if let (split, true) = known_manifest(&path, split) {
                    split.write(&path)?;
                }
                grouped.push((experiment, vec![member.clone()]));
            }
        }
    }
    Ok(grouped)
}

fn emit_plan(planned: &Planned) {
    let (action, reason) = match &planned.decision {
        Decision::Keep => ("keep", "done and unchanged"),
        Decision::Train(reason) => ("train", reason.as_str()),
    };
    let event = Event::Planned { version: events::VERSION, action, reason };
    events::emit(Some(&planned.label()), &event);
}

fn train_in_turn(run: &MatrixRun, todo: &[&Planned]) -> Result<Vec<(String, Error)>> {
    let mut failures = Vec::new();
    for (at, planned) in todo.iter().enumerate() {
        announce(run, planned, at + 1, todo.len());
        let train_run = run.train_run(planned);
        match std::panic::catch_unwind(AssertUnwindSafe(|| train(&train_run))) {
            Ok(Ok(outcome)) => report(run, &planned.label(), &outcome),
            Ok(Err(stopped @ Error::Stopped(_))) => return Err(stopped),
            Ok(Err(error)) => failures.push(failed(run, &planned.label(), error, false)),
            Err(panic) => {
                let what = panic.downcast_ref::<String>().map_or("a panic", String::as_str);
                failures.push(failed(run, &planned.label(), Error::failure(what), false));
            }
        }
    }
    Ok(failures)
}

/// Says which experiment comes, and why.
pub(super) fn announce(run: &MatrixRun, planned: &Planned, number: usize, of: usize) {
    let Decision::Train(reason) = &planned.decision else { return };
    if run.mode.is_for_people() {
        print_line(&format!("[{number}/{of}] {}: {reason}", planned.label()));
    }
}

fn report(run: &MatrixRun, name: &str, outcome: &Outcome) {
    if run.mode.is_for_people() {
        let best = &outcome.best;
        print_line(&format!(
            "{name}: best epoch {} of {}, F1 {:.4}, IoU {:.4}",
            best.epoch, outcome.epochs, best.val_f1, best.val_iou
        ));
    }
}

/// Says at once what failed: the others may take hours.
///
/// `is_told` where an event has told it already.
pub(super) fn failed(run: &MatrixRun, name: &str, error: Error, is_told: bool) -> (String, Error) {
    tell_failure(run, name, &error, is_told);
    (name.to_string(), error)
}

fn tell_failure(run: &MatrixRun, name: &str, error: &Error, is_told: bool) {
    if run.mode == Mode::Json && !is_told {
        let event = Event::Error { message: error.to_string(), exit_code: error.exit_code() };
        events::emit(Some(name), &event);
    }
    print_line(&format!("{name} failed: {error}"));
}
