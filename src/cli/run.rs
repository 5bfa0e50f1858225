//! `rosette run`: the whole experiment matrix. `rosette summary`: its table again.

use std::collections::BTreeSet;
use std::path::PathBuf;

use comfy_table::{Table, presets};

use super::say;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::matrix::{
    Decision, MatrixRun, Plan, Planned, experiment_of, plan_matrix, rebuild, run_matrix, summary_table,
    trainings, write_page, write_summary,
};
use crate::report::{Event, Mode, events, experiment_page};
use crate::train::planned_fit;

/// Train every experiment of a configuration that is not done yet, and compare them.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Directory of the samples: `DIR/SAMPLE/processed_data_SAMPLE.h5`.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where splits, a directory for each experiment and the summary go.
    #[arg(long, value_name = "DIR")]
    pub output_dir: PathBuf,
    /// Where a log for each experiment goes, besides the one in its directory.
    #[arg(long, value_name = "DIR", default_value = "logs/model_training")]
    pub log_dir: PathBuf,
    /// Only this experiment; repeatable.
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Train again what is done and unchanged.
    #[arg(long)]
    pub force: bool,
    /// Say what would be trained, why, and in how much memory; do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Change a setting of every experiment, e.g. num_epochs=2; repeatable.
    #[arg(long = "override", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Numbers or parts of the names of adapters, with commas between; several experiments at once on several of them.
    #[arg(long, env = "ROSETTE_ADAPTER", value_name = "ADAPTERS", value_delimiter = ',')]
    pub adapters: Vec<String>,
    /// Tell what happens as JSON, one object a line on standard output, for programs.
    #[arg(long, conflicts_with_all = ["quiet", "dry_run"])]
    pub json: bool,
    /// No progress.
    #[arg(long)]
    pub quiet: bool,
}

/// Rebuild the table over the experiments of a directory, and the pages report.html.
#[derive(Debug, Clone, clap::Args)]
pub struct SummaryArgs {
    /// The directory that `rosette run` wrote.
    #[arg(long, value_name = "DIR")]
    pub output_dir: PathBuf,
}

/// Plans, trains and summarises.
///
/// # Errors
/// Those of the configuration and the data; one that names the experiments that failed.
pub fn run(args: &RunArgs) -> Result<()> {
    let outcome = train_all(args);
    if let (Err(error), true) = (&outcome, args.json) {
        events::emit(None, &Event::Error { message: error.to_string(), exit_code: error.exit_code() });
    }
    outcome
}

fn train_all(args: &RunArgs) -> Result<()> {
    let matrix = MatrixRun {
        config: args.config.clone(),
        data_dir: args.data_dir.clone(),
        output_dir: args.output_dir.clone(),
        log_dir: args.log_dir.clone(),
        only: args.only.clone(),
        force: args.force,
        overrides: args.overrides.clone(),
        adapters: args.adapters.clone(),
        mode: Mode::choose(args.quiet, args.json),
    };
    let held = if args.dry_run { None } else { matrix.hold_existing()? };
    let plan = plan_matrix(&matrix)?;
    if args.dry_run {
        say(plan_table(&matrix, &plan)?)?;
        let failed: Vec<(&str, &Error)> =
            plan.asked_failures(&matrix).map(|(name, error)| (name.as_str(), error)).collect();
        return verdict(args, &failed, asked_count(&matrix, &plan));
    }
    if !args.json && plan.asked().all(|planned| planned.decision == Decision::Keep) {
        let which =
            if plan.is_all_done() { "every experiment is" } else { "those asked for that can be are" };
        say(format!("{which} done and unchanged: nothing to train (--force trains again)"))?;
    }
    let count = asked_count(&matrix, &plan);
    let trained = run_matrix(&matrix, plan, held)?;
    if !args.json {
        say(summary_table(&trained.rows))?;
    }
    let failed: Vec<(&str, &Error)> =
        trained.failures.iter().map(|(label, error)| (label.as_str(), error)).collect();
    verdict(args, &failed, count)
}

/// How many experiments, not members, are asked for.
fn asked_count(matrix: &MatrixRun, plan: &Plan) -> usize {
    let planned = plan.asked().map(|planned| planned.experiment.name.as_str());
    planned.chain(plan.asked_failures(matrix).map(|(name, _)| name.as_str())).collect::<BTreeSet<_>>().len()
}

/// The error that names what failed, of `count` experiments.
fn verdict(args: &RunArgs, failed: &[(&str, &Error)], count: usize) -> Result<()> {
    if failed.is_empty() {
        return Ok(());
    }
    let experiments: BTreeSet<&str> = failed.iter().map(|(label, _)| experiment_of(label)).collect();
    let labels: Vec<&str> = failed.iter().map(|(label, _)| *label).collect();
    let said = format!("{} of {count} experiments failed: {}", experiments.len(), labels.join(", "));
    match failed.iter().all(|(_, error)| error.exit_code() == 2) {
        true => {
            let remedy = "mend what is said above, and give the same command again: what is done stays done";
            Err(Error::user(args.output_dir.display(), "experiments that train", said, remedy))
        }
        false => Err(Error::failure(said)),
    }
}

fn plan_table(matrix: &MatrixRun, plan: &Plan) -> Result<Table> {
    let limits = Gpu::open(matrix.adapters.first().map(String::as_str))?.limits();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["experiment", "what", "why", "samples", "epochs", "device memory"]);
    for planned in plan.asked() {
        let Planned { experiment, manifest, decision, .. } = planned;
        let (what, why) = match decision {
            Decision::Keep => ("keep", "done and unchanged"),
            Decision::Train(reason) => ("train", reason.as_str()),
        };
        let memory = match planned_fit(experiment, limits, &planned.sample_sizes) {
            Ok(fit) if fit.is_cut() => {
                format!("{}, {} patches at once", gib(fit.planned_bytes), fit.most_patches)
            }
            Ok(fit) => gib(fit.planned_bytes),
            Err(error) => error.to_string(),
        };
        table.add_row([
            planned.label(),
            what.into(),
            why.into(),
            format!("{} + {}", manifest.train_samples, manifest.val_samples),
            experiment.training.num_epochs.to_string(),
            memory,
        ]);
    }
    for (name, error) in plan.asked_failures(matrix) {
        table.add_row([name.as_str(), "fails", &error.to_string()]);
    }
    Ok(table)
}

/// Bytes in GiB; in MiB where these say more.
fn gib(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 100.0 { format!("{mib:.1} MiB") } else { format!("{:.2} GiB", mib / 1024.0) }
}

/// Reads, prints and writes the table.
///
/// # Errors
/// A user error where the directory or a record in it cannot be read, or holds no experiment.
pub fn summary(args: &SummaryArgs) -> Result<()> {
    let path = args.output_dir.join("experiment_summary.csv");
    let rows = rebuild(&args.output_dir, &path)?;
    if rows.is_empty() {
        let expected = "directories of experiments, with a config.json each";
        let remedy = "give the --output-dir of `rosette run`";
        return Err(Error::user(args.output_dir.display(), expected, "none", remedy));
    }
    write_summary(&path, &rows)?;
    for row in &rows {
        for dir in trainings(&args.output_dir.join(&row.experiment_name)) {
            experiment_page::rebuild(&dir)?;
        }
    }
    write_page(&args.output_dir, &rows)?;
    say(summary_table(&rows))?;
    say(path.display())
}
