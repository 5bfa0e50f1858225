//! `rosette check`: a look at every sample before a training.

use std::path::PathBuf;

use comfy_table::{CellAlignment, Table, presets};

use super::say;
use crate::data::check::{SampleCheck, Severity, check_samples};
use crate::data::sample::discover;
use crate::data::split::Manifest;
use crate::error::{Error, Result};

/// Read every sample and say what is wrong with it, and what to do.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckArgs {
    /// Directory of the samples: `DIR/SAMPLE/processed_data_SAMPLE.h5`.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Only the samples of this manifest; finds what both trains and validates.
    #[arg(long, value_name = "FILE")]
    pub split_manifest: Option<PathBuf>,
    /// Print JSON instead of tables.
    #[arg(long)]
    pub json: bool,
}

/// Checks and prints.
///
/// # Errors
/// A user error where there is no sample, or where one must not be trained on.
pub fn run(args: &CheckArgs) -> Result<()> {
    let manifest = args.split_manifest.as_ref().map(|path| Manifest::read(path)).transpose()?;
    let names = match &manifest {
        Some(manifest) => [&manifest.train_sample_list[..], &manifest.val_sample_list].concat(),
        None => discover(&args.data_dir)?,
    };
    let checks = check_samples(&args.data_dir, &names, manifest.as_ref());
    match args.json {
        true => say(serde_json::to_string_pretty(&checks).expect("numbers and text"))?,
        false => print(&checks)?,
    }
    let wrong: Vec<&str> = checks.iter().filter(|c| c.has_error()).map(|c| c.name.as_str()).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let found = format!("{} of {} that cannot be: {}", wrong.len(), checks.len(), wrong.join(", "));
    let remedy = "mend what is listed above, or leave these samples out of the split";
    Err(Error::user(args.data_dir.display(), "samples that can be trained on", found, remedy))
}

fn print(checks: &[SampleCheck]) -> Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["sample", "set", "rows x columns", "cells", "rosette %", "intensity", "verdict"]);
    for column in [2, 3, 4] {
        table.column_mut(column).expect("a column").set_cell_alignment(CellAlignment::Right);
    }
    for check in checks {
        let verdict = match check.findings.iter().map(|finding| finding.severity).max() {
            None => "good",
            Some(Severity::Warning) => "warning",
            Some(Severity::Error) => "ERROR",
        };
        let known = check.size.is_some();
        table.add_row([
            check.name.clone(),
            check.set.unwrap_or_default().into(),
            check.size.map_or(String::new(), |[height, width]| format!("{height} x {width}")),
            if known { check.cells.to_string() } else { String::new() },
            if known { format!("{:.1}", check.rosette_share * 100.0) } else { String::new() },
            if check.has_intensity { "yes".into() } else { String::new() },
            verdict.into(),
        ]);
    }
    say(table)?;
    for check in checks {
        for finding in &check.findings {
            let kind = if finding.severity == Severity::Error { "error" } else { "warning" };
            say(format!("{kind}: {}: {}\n  help: {}", check.name, finding.what, finding.remedy))?;
        }
    }
    let read: Vec<&SampleCheck> = checks.iter().filter(|check| check.size.is_some()).collect();
    let sides = read.iter().flat_map(|check| check.size).map(|[height, width]| height.min(width) as f64);
    say(histogram("shorter side in px", &sides.collect::<Vec<f64>>()))?;
    say(histogram(
        "rosette share in %",
        &read.iter().map(|check| check.rosette_share * 100.0).collect::<Vec<f64>>(),
    ))
}

/// Counts in eight bins between the least and the most, as bars.
fn histogram(title: &str, values: &[f64]) -> String {
    const BINS: usize = 8;
    const WIDEST: usize = 40;
    let (low, high) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
    if values.is_empty() {
        return format!("{title}: no sample");
    }
    if low == high {
        return format!("{title}: {low:.1} in all {}", values.len());
    }
    let width = (high - low) / BINS as f64;
    let mut counts = [0_usize; BINS];
    values.iter().for_each(|v| counts[(((v - low) / width) as usize).min(BINS - 1)] += 1);
    let most = counts.into_iter().max().unwrap_or(1).max(1);
    let line = |(bin, count): (usize, &usize)| {
        let from = low + bin as f64 * width;
        format!("{from:8.1} to {:8.1}  {:4} {}", from + width, count, "#".repeat(count * WIDEST / most))
    };
    let lines: Vec<String> = counts.iter().enumerate().map(line).collect();
    format!("{title}:\n{}", lines.join("\n"))
}
