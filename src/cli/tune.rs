//! `rosette tune`: measures which kernels are fastest on a device, once.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use comfy_table::{CellAlignment, Table, presets};

use super::say;
use crate::config::{Config, Experiment};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::choice::Question;
use crate::ops::tune::Timing;
use crate::report::{Mode, progress};
use crate::train::{PROBING, TuningCache, choose_form, experiment_questions, stored_element};

/// Measure which kernels are fastest on this device for an experiment; trainings use what was found.
#[derive(Debug, Clone, clap::Args)]
pub struct TuneArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE", requires = "experiment_name")]
    pub config: Option<PathBuf>,
    /// The experiment within it.
    #[arg(long, value_name = "NAME", requires = "config")]
    pub experiment_name: Option<String>,
    /// Change a setting, e.g. batch_size=8; repeatable.
    #[arg(long = "override", value_name = "KEY=VALUE", requires = "config")]
    pub overrides: Vec<String>,
    /// Number or part of the name of the adapter (see `rosette devices`).
    #[arg(long, env = "ROSETTE_ADAPTER", value_name = "ADAPTER")]
    pub adapter: Option<String>,
    /// Measure again what is known.
    #[arg(long)]
    pub force: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Measures, keeps and prints.
///
/// # Errors
/// Those of the configuration; a failure where the device was lost.
pub fn run(args: &TuneArgs) -> Result<()> {
    let experiment = match (&args.config, &args.experiment_name) {
        (Some(config), Some(name)) => Config::load(config)?.resolve(name, &args.overrides)?,
        _ => Experiment::defaults("defaults"),
    };
    let gpu = Gpu::open(args.adapter.as_deref())?;
    let questions = experiment_questions(&experiment, gpu.limits())?;
    let mut cache = TuningCache::load(gpu.summary());
    let say_line = |line: &str| {
        if !args.json {
            progress::print_line(line);
        }
    };
    // In f32 nothing runs on matrix units.
    if questions.iter().any(|question| question.half) {
        if !cache.unprobed(&gpu, args.force).is_empty() {
            say_line(PROBING);
        }
        for (form, why) in cache.probe(&gpu, args.force)? {
            say_line(&format!("passed over: {}: {why}", form.name()));
        }
    }
    // Forms are compared with the usual one, which has to be right itself.
    let mode = if args.json { Mode::Quiet } else { Mode::Plain };
    cache.ensure_sound(&gpu, stored_element(&experiment, gpu.limits()), mode)?;
    let started = Instant::now();
    say_line(&format!("measuring {} convolutions", questions.len()));
    let mut found: Vec<(Question, Vec<Timing>)> = Vec::new();
    cache.measure(&gpu, &questions, args.force, |place, question, timings| {
        let seconds = started.elapsed().as_secs_f64();
        say_line(&format!("{}/{} {question} ({seconds:.0} s so far)", place + 1, questions.len()));
        found.push((question.clone(), timings.to_vec()));
    })?;
    let is_kept = cache.save_or_warn();
    if args.json {
        return say(serde_json::to_string(&cache).expect("numbers and text"));
    }
    let place = match cache.path() {
        Some(path) if is_kept => path.display().to_string(),
        _ => "no place: what was measured is lost".into(),
    };
    say(format!("{} ({}); kept in {place}", gpu.summary(), gpu.summary().driver))?;
    say(table(&gpu, &found))?;
    for failure in failures(&found) {
        say(failure)?;
    }
    Ok(())
}

/// What kept forms from running, each reason once.
fn failures(found: &[(Question, Vec<Timing>)]) -> BTreeSet<String> {
    let timings = found.iter().flat_map(|(_, timings)| timings);
    timings.filter_map(Timing::told_failure).collect()
}

fn table(gpu: &Gpu, found: &[(Question, Vec<Timing>)]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["convolution", "taken", "ms", "GFLOP/s", "the others: times as long"]);
    for column in table.column_iter_mut().skip(2).take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (question, timings) in found {
        let usual = question.usual(gpu.limits()).name();
        let taken = choose_form(timings, usual, gpu.limits());
        let (name, ms) = taken.map_or((usual, f64::NAN), |taken| (taken.form.as_str(), taken.ms));
        let others: Vec<String> = timings
            .iter()
            .filter(|timing| taken.is_none() || timing.form != name)
            .map(|timing| match (&timing.failure, timing.sound) {
                (Some(_), _) => format!("{} does not run", timing.form),
                (None, true) => format!("{} {:.2}", timing.form, timing.ms / ms),
                (None, false) => format!("{} wrong by {:.0e}", timing.form, timing.difference),
            })
            .collect();
        let rate = format!("{:.1}", question.flops() as f64 / 1e6 / ms);
        table.add_row([question.to_string(), name.to_owned(), format!("{ms:.3}"), rate, others.join(", ")]);
    }
    table
}
