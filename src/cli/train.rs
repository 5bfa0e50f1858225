//! `rosette train`: one experiment, with the pipeline's flags.

use std::path::PathBuf;
use std::time::Duration;

use super::say;
use crate::config::{Config, Experiment};
use crate::error::Result;
use crate::gpu::{Gpu, Limits};
use crate::matrix::{has_members, train_members};
use crate::report::{Event, Mode, config_json, events};
use crate::train::{CHECKPOINT_EVERY, TrainRun, describe_plan, listen_to_stdin, train};

/// Train one experiment of a configuration.
#[derive(Debug, Clone, clap::Args)]
pub struct TrainArgs {
    /// The manifest that `rosette split` wrote.
    #[arg(long, value_name = "FILE", required_unless_present = "plan")]
    pub split_manifest: Option<PathBuf>,
    /// Directory of the samples: `DIR/SAMPLE/processed_data_SAMPLE.h5`.
    #[arg(long, value_name = "DIR", required_unless_present = "plan")]
    pub data_dir: Option<PathBuf>,
    /// Where to write model, metrics, plots and log.
    #[arg(long, value_name = "DIR", required_unless_present = "plan")]
    pub output_dir: Option<PathBuf>,
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The experiment within it.
    #[arg(long, value_name = "NAME")]
    pub experiment_name: String,
    /// Write into --output-dir itself rather than into `run_APPROACH_TIME` below it.
    #[arg(long)]
    pub no_timestamp: bool,
    /// A second place for the log.
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Change a setting, e.g. num_epochs=1 or augmentation.rotation=0; repeatable.
    #[arg(long = "override", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Start from these weights (.pth from PyTorch or from here, .safetensors, or a model's directory).
    #[arg(long, value_name = "PATH")]
    pub init_weights: Option<PathBuf>,
    /// Number or part of the name of the adapter (see `rosette devices`).
    #[arg(long, env = "ROSETTE_ADAPTER", value_name = "ADAPTER")]
    pub adapter: Option<String>,
    /// Which of the experiment's trainings this is, for events.
    #[arg(long, hide = true)]
    pub member: Option<String>,
    /// Stop and save, as after a signal, when standard input ends: how `rosette run` stops its trainings.
    #[arg(long, hide = true)]
    pub until_stdin_ends: bool,
    /// Start anew even where --output-dir holds an unfinished training of the same kind, which would go on.
    #[arg(long)]
    pub restart: bool,
    /// Seconds between checkpoints within an epoch, or 50 times what one costs, where that is more; 0 for one after every
    /// step, whatever that costs.
    #[arg(long, value_name = "SECONDS", default_value_t = CHECKPOINT_EVERY.as_secs(),
        value_parser = super::whole_number)]
    pub checkpoint_every: u64,
    /// Print the memory plan and stop.
    #[arg(long)]
    pub plan: bool,
    /// Tell what happens as JSON, one object a line on standard output, for programs.
    #[arg(long, conflicts_with = "quiet")]
    pub json: bool,
    /// No progress.
    #[arg(long)]
    pub quiet: bool,
}

/// Trains, or prints the plan.
///
/// # Errors
/// Those of the configuration, the data and the training.
pub fn run(args: &TrainArgs) -> Result<()> {
    let outcome = train_or_plan(args);
    if let (Err(error), true) = (&outcome, args.json) {
        let event = Event::Error { message: error.to_string(), exit_code: error.exit_code() };
        let label = events::label(&args.experiment_name, args.member.as_deref());
        events::emit(Some(&label), &event);
    }
    outcome
}

fn train_or_plan(args: &TrainArgs) -> Result<()> {
    let (experiment, origins) =
        Config::load(&args.config)?.resolve_with_origins(&args.experiment_name, &args.overrides)?;
    let (Some(split_manifest), Some(data_dir), Some(output_dir), false) =
        (&args.split_manifest, &args.data_dir, &args.output_dir, args.plan)
    else {
        return say(describe_plan(&experiment, limits(args.adapter.as_deref())?)?);
    };
    let output_dir = match args.no_timestamp {
        true => output_dir.clone(),
        false => output_dir.join(run_name(&experiment)),
    };
    if args.until_stdin_ends {
        listen_to_stdin();
    }
    let train = if has_members(&experiment) { train_members } else { train };
    let outcome = train(&TrainRun {
        experiment,
        origins,
        split_manifest: split_manifest.clone(),
        data_dir: data_dir.clone(),
        output_dir,
        in_new_dir: !args.no_timestamp,
        log_file: args.log_file.clone(),
        init_weights: args.init_weights.clone(),
        adapter: args.adapter.clone(),
        member: args.member.clone(),
        mode: Mode::choose(args.quiet, args.json),
        restart: args.restart,
        checkpoint_every: Duration::from_secs(args.checkpoint_every),
    })?;
    if args.json {
        return Ok(());
    }
    let best = &outcome.best;
    say(format!(
        "best epoch {} of {}: validation loss {:.4}, F1 {:.4}, IoU {:.4}: {}",
        best.epoch,
        outcome.epochs,
        best.val_loss,
        best.val_f1,
        best.val_iou,
        outcome.output_dir.display()
    ))
}

fn limits(adapter: Option<&str>) -> Result<Limits> {
    Ok(Gpu::open(adapter)?.limits())
}

fn run_name(experiment: &Experiment) -> String {
    let time = jiff::Zoned::now().strftime("%Y%m%d_%H%M%S");
    format!("run_{}_{time}", config_json::approach(&experiment.model))
}
