//! `rosette demo`: from nothing to a trained model and pictures.

use std::path::PathBuf;

use super::say;
use crate::error::Result;
use crate::report::{Mode, progress};
use crate::train::{DemoPlan, demo};

/// Make synthetic tissue, train a small network on it, and show what it finds.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Where to put data, configuration, model and pictures.
    #[arg(long, value_name = "DIR", default_value = "demo")]
    pub output_dir: PathBuf,
    /// Number or part of the name of the adapter (see `rosette devices`).
    #[arg(long, env = "ROSETTE_ADAPTER", value_name = "ADAPTER")]
    pub adapter: Option<String>,
    /// Change a setting, e.g. num_epochs=2; repeatable.
    #[arg(long = "override", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// No progress.
    #[arg(long)]
    pub quiet: bool,
}

/// Runs the demonstration and says where everything is.
///
/// # Errors
/// Those of making the data and of training.
pub fn run(args: &DemoArgs) -> Result<()> {
    let plan = DemoPlan {
        output_dir: args.output_dir.clone(),
        adapter: args.adapter.clone(),
        overrides: args.overrides.clone(),
        mode: Mode::detect(args.quiet),
    };
    let outcome = match args.quiet {
        true => demo(&plan, |_| ()),
        false => demo(&plan, progress::print_line),
    }?;
    let best = &outcome.best;
    say(format!(
        "best of {} epochs: {}, validation F1 {:.3}, IoU {:.3}",
        outcome.epochs, best.epoch, best.val_f1, best.val_iou
    ))?;
    for (what, file) in [
        ("predictions beside the truth:", "predictions.png"),
        ("curves:", "training_plots.png"),
        ("all of it on one page:", "report.html"),
        ("weights, PyTorch loads them:", "best_model.pth"),
    ] {
        say(format!("{what:<29} {}", outcome.output_dir.join(file).display()))?;
    }
    let [config, data, manifest, again] = ["config.yaml", "data", "split_manifest_demo.json", "again"]
        .map(|name| args.output_dir.join(name).display().to_string());
    // As shells want a command that goes on in the next line.
    let and = if cfg!(windows) { " " } else { " \\\n    " };
    say(format!("\nto train again after a change of {config}:"))?;
    say(format!(
        "  rosette train --config {config} --experiment-name demo --data-dir {data}{and}--split-manifest {manifest} \
         --output-dir {again} --no-timestamp"
    ))
}
