//! `rosette bench`: how fast this machine trains.

use comfy_table::{CellAlignment, Table, presets};

use super::say;
use crate::config::{Recompute, Skip};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::tape::Element;
use crate::train::{StepBench, StepTimes, bench_step};

/// Measure a training step on this device, whole and by kernel.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// Measure a whole training step (what it does so far without being asked).
    #[arg(long)]
    pub step: bool,
    /// base_channels
    #[arg(long, value_name = "CHANNELS", default_value_t = 16)]
    pub base: usize,
    /// patch_size
    #[arg(long, value_name = "PX", default_value_t = 128)]
    pub patch: usize,
    /// batch_size
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub batch: usize,
    /// Steps to time, after one to warm up.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub repeats: usize,
    /// Compute cheap tensors again in the backward pass, for less memory.
    #[arg(long)]
    pub recompute: bool,
    /// How activations are stored: f32 or f16.
    #[arg(long, value_name = "PRECISION", default_value = "f32", value_parser = ["f32", "f16"])]
    pub precision: String,
    /// Take the skips after pooling.
    #[arg(long)]
    pub pooled: bool,
    /// Take no notice of what `rosette tune` has measured.
    #[arg(long)]
    pub untuned: bool,
    /// Number or part of the name of the adapter (see `rosette devices`).
    #[arg(long, env = "ROSETTE_ADAPTER", value_name = "ADAPTER")]
    pub adapter: Option<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Measures and prints.
///
/// # Errors
/// A user error where the sizes are impossible; a failure where the device lacks memory.
pub fn run(args: &BenchArgs) -> Result<()> {
    check("--patch", args.patch, 16, 4096)?;
    check("--base", args.base, 8, 256)?;
    check("--batch", args.batch, 1, 1024)?;
    check("--repeats", args.repeats, 1, 1_000_000)?;
    let bench = StepBench {
        base_channels: args.base,
        patch_px: args.patch,
        batch_size: args.batch,
        skip: if args.pooled { Skip::Pooled } else { Skip::Full },
        recompute: if args.recompute { Recompute::Always } else { Recompute::Auto },
        repeats: args.repeats,
        tuned: !args.untuned,
        element: if args.precision == "f16" { Element::F16 } else { Element::F32 },
    };
    let times = bench_step(Gpu::open(args.adapter.as_deref())?, &bench)?;
    match args.json {
        true => say(serde_json::to_string(&times).expect("numbers and text")),
        false => print_table(&times),
    }
}

/// A multiple of `step` from `step` to `most`, or what the nearest one is.
fn check(flag: &str, value: usize, step: usize, most: usize) -> Result<()> {
    if (step..=most).contains(&value) && value.is_multiple_of(step) {
        return Ok(());
    }
    let expected = match step {
        1 => format!("a number from 1 to {most}"),
        _ => format!("a multiple of {step} from {step} to {most}"),
    };
    let nearest = value.clamp(step, most).next_multiple_of(step);
    Err(Error::user(flag, expected, value, format!("try {nearest}")))
}

fn print_table(times: &StepTimes) -> Result<()> {
    say(format!("{}: base {}, {} px, batch {}", times.device, times.base, times.patch, times.batch))?;
    say(format!(
        "step {:.1} ms (best {:.1}), {:.1} GFLOP/s, {:.2} patches/s; first step {:.1} s; host {:.1} ms; {:.1} MiB planned",
        times.step_ms_median,
        times.step_ms_best,
        times.gflop / times.step_ms_median * 1e3,
        times.batch as f64 / times.step_ms_median * 1e3,
        times.first_step_ms / 1e3,
        times.submit_ms_median,
        times.planned_bytes as f64 / f64::from(1 << 20)
    ))?;
    print_ceilings(times)?;
    let total: f64 = times.kernels.iter().map(|k| k.ms).sum();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["kernel", "dispatches", "ms", "%", "GFLOP/s", "GB/s", "of bound"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for kernel in &times.kernels {
        let rate = kernel.gflop / kernel.ms * 1e3;
        let share = times.ceilings.map(|ceilings| format!("{:.0} %", 100.0 * kernel.share(&ceilings)));
        table.add_row([
            kernel.kernel.clone(),
            kernel.dispatches.to_string(),
            format!("{:.2}", kernel.ms),
            format!("{:.1}", 100.0 * kernel.ms / total),
            if kernel.gflop > 0.0 { format!("{rate:.1}") } else { String::new() },
            format!("{:.1}", kernel.gigabytes / kernel.ms * 1e3),
            share.unwrap_or_default(),
        ]);
    }
    say(table)
}

fn print_ceilings(times: &StepTimes) -> Result<()> {
    let Some(ceilings) = times.ceilings else { return Ok(()) };
    let phases: Vec<String> = times.phases.iter().map(|(phase, ms)| format!("{phase} {ms:.1}")).collect();
    say(format!(
        "ceilings: {:.0} GFLOP/s multiply-add, {:.1} GB/s copy; ms by part: {}; {:.2} GB bound a step",
        ceilings.gflops,
        ceilings.gigabytes_per_s,
        phases.join(", "),
        times.bound_bytes as f64 / 1e9
    ))
}
