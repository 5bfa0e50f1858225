//! `rosette bench`: how fast this machine trains.

use std::collections::BTreeSet;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::say;
use crate::config::{Recompute, Skip};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::tape::Element;
use crate::train::{KernelTime, StepBench, StepTimes, bench_step};

/// Measure what this device can do, and how near to it every kernel of a training step comes.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// The whole step by kernel and by part, rather than every kernel for each of its shapes.
    #[arg(long)]
    pub step: bool,
    /// Only kernels with this in their name, e.g. conv2d or batch_norm.
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
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
    /// Clip gradients to this norm, as the setting clip_norm does.
    #[arg(long, value_name = "NORM", default_value_t = 0.0)]
    pub clip_norm: f32,
    /// Average the weights, as the setting ema_decay does.
    #[arg(long)]
    pub ema: bool,
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
/// A user error where the sizes are impossible or no kernel is asked for; a failure where the device lacks memory.
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
        clip_norm: args.clip_norm,
        ema: args.ema,
        element: if args.precision == "f16" { Element::F16 } else { Element::F32 },
    };
    let mut times = bench_step(Gpu::open(args.adapter.as_deref())?, &bench)?;
    if let Some(text) = &args.filter {
        check_filter(text, &times)?;
        times.kernels.retain(|kernel| kernel.kernel.contains(text.as_str()));
        times.shapes.retain(|kernel| kernel.kernel.contains(text.as_str()));
    }
    match (args.json, args.step) {
        (true, _) => say(serde_json::to_string(&times).expect("numbers and text")),
        (false, true) => print_step(&times),
        (false, false) => print_shapes(&times),
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

/// Where the device times kernels, one of them must have this in its name.
fn check_filter(text: &str, times: &StepTimes) -> Result<()> {
    if times.kernels.is_empty() || times.kernels.iter().any(|kernel| kernel.kernel.contains(text)) {
        return Ok(());
    }
    let shader = |kernel: &KernelTime| kernel.kernel.split('/').next().unwrap_or_default().to_owned();
    let shaders: BTreeSet<String> = times.kernels.iter().map(shader).collect();
    let remedy = format!("choose one of: {}", shaders.into_iter().collect::<Vec<_>>().join(", "));
    Err(Error::user("--filter", "a part of the name of a kernel of this step", text, remedy))
}

fn print_head(times: &StepTimes) -> Result<()> {
    let Some(ceilings) = times.ceilings else {
        return say(format!("{}: no timestamps, so nothing by kernel", times.device));
    };
    let rate = |gflops: Option<f64>, what: &str| {
        gflops.map_or_else(String::new, |gflops| format!(", {what} {gflops:.0}"))
    };
    say(format!(
        "{}\nceilings: multiply-add {:.0} GFLOP/s{}{}; copy {:.1} GB/s",
        times.device,
        ceilings.gflops,
        rate(ceilings.gflops_f16, "in f16"),
        rate(ceilings.gflops_matrix, "on matrix units"),
        ceilings.gigabytes_per_s,
    ))?;
    let (base, patch, batch) = (times.base, times.patch, times.batch);
    say(format!("training step at base {base}, {patch} px, batch {batch}, {}:", times.precision))
}

fn print_step(times: &StepTimes) -> Result<()> {
    print_head(times)?;
    say(format!(
        "{:.1} ms (best {:.1}), {:.1} GFLOP/s, {:.2} patches/s; first step {:.1} s; host {:.1} ms; {:.1} MiB planned",
        times.step_ms_median,
        times.step_ms_best,
        times.gflop / times.step_ms_median * 1e3,
        times.batch as f64 / times.step_ms_median * 1e3,
        times.first_step_ms / 1e3,
        times.submit_ms_median,
        times.planned_bytes as f64 / f64::from(1 << 20)
    ))?;
    let phases: Vec<String> = times.phases.iter().map(|(phase, ms)| format!("{phase} {ms:.1}")).collect();
    let (bound, least) = (times.bound_bytes as f64 / 1e9, times.least_bytes as f64 / 1e9);
    say(format!("ms by part: {}", phases.join(", ")))?;
    say(format!(
        "{bound:.2} GB bound a step; with every tensor written and read once it would be {least:.2} GB"
    ))?;
    say(table(times, &times.kernels, |kernel| vec![kernel.kernel.clone()], &["kernel"]))
}

fn print_shapes(times: &StepTimes) -> Result<()> {
    print_head(times)?;
    let cells = |kernel: &KernelTime| {
        vec![kernel.kernel.clone(), kernel.variant.replace(',', " "), kernel.tensors.replace(", ", "x")]
    };
    say(table(times, &times.shapes, cells, &["kernel", "variant", "tensors"]))
}

/// Times with what they are of in the first columns.
fn table(
    times: &StepTimes,
    kernels: &[KernelTime],
    cells: impl Fn(&KernelTime) -> Vec<String>,
    head: &[&str],
) -> Table {
    let total: f64 = times.kernels.iter().map(|k| k.ms).sum();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header([head, &["dispatches", "ms", "%", "GFLOP/s", "GB/s", "of bound"]].concat());
    for column in table.column_iter_mut().skip(head.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for kernel in kernels {
        let rate = kernel.gflop / kernel.ms * 1e3;
        let share = times.ceilings.map(|ceilings| format!("{:.0} %", 100.0 * kernel.share(&ceilings)));
        let numbers = [
            kernel.dispatches.to_string(),
            format!("{:.2}", kernel.ms),
            format!("{:.1}", 100.0 * kernel.ms / total),
            if kernel.gflop > 0.0 { format!("{rate:.1}") } else { String::new() },
            format!("{:.1}", kernel.gigabytes / kernel.ms * 1e3),
            share.unwrap_or_default(),
        ];
        table.add_row([cells(kernel), numbers.to_vec()].concat());
    }
    table
}
