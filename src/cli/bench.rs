//! `rosette bench`: how fast this machine trains.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use super::say;
use crate::config::{Precision, Recompute, Skip};
use crate::error::{Error, Result};
use crate::files;
use crate::gpu::Gpu;
use crate::report::Mode;
use crate::tape::Element;
use crate::train::{KernelTime, Spent, StepBench, StepTimes, bench_step, element_of, ensure_sound};

/// What takes less than this share of the step has no line of its own in a table, unless all are asked for.
const WORTH_A_LINE: f64 = 0.005;

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
    /// How activations are stored: f32, f16, or auto, which is f16 on GPUs that have it.
    #[arg(long, value_name = "PRECISION", default_value = "f32", value_parser = ["f32", "f16", "auto"])]
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
    /// Take the kernels that the device's limits suggest, and measure none before.
    #[arg(long)]
    pub untuned: bool,
    /// Number or part of the name of the adapter (see `rosette devices`).
    #[arg(long, env = "ROSETTE_ADAPTER", value_name = "ADAPTER")]
    pub adapter: Option<String>,
    /// Print what takes less than 0.5 % of the step too.
    #[arg(long)]
    pub all: bool,
    /// Beside another device, or another version: what `--json` printed there, at the same sizes.
    #[arg(long, value_name = "FILE", requires = "step", conflicts_with = "json")]
    pub against: Option<PathBuf>,
    /// Print Markdown, to be posted.
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
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
    if !(args.clip_norm >= 0.0 && args.clip_norm.is_finite()) {
        let remedy = "0 clips nothing";
        return Err(Error::user("--clip-norm", "a number from 0 on", args.clip_norm, remedy));
    }
    let mut bench = StepBench {
        in_channels: 2,
        winograd: true,
        base_channels: args.base,
        patch_px: args.patch,
        batch_size: args.batch,
        skip: if args.pooled { Skip::Pooled } else { Skip::Full },
        recompute: if args.recompute { Recompute::Always } else { Recompute::Auto },
        repeats: args.repeats,
        tuned: !args.untuned,
        clip_norm: args.clip_norm,
        ema: args.ema,
        element: Element::F32,
    };
    // Before minutes are spent on measuring.
    let filter = args.filter.as_deref();
    let there = args.against.as_deref().map(|path| read_times(path, &bench, filter)).transpose()?;
    let gpu = Gpu::open(args.adapter.as_deref())?;
    bench.element = match args.precision.as_str() {
        "f16" => Element::F16,
        "auto" => element_of(Precision::Auto, gpu.limits()),
        _ => Element::F32,
    };
    let mode = if args.json { Mode::Quiet } else { Mode::Plain };
    ensure_sound(&gpu, bench.element, mode)?;
    let times = bench_step(gpu, &bench, filter, mode)?;
    if args.json {
        return say(serde_json::to_string(&times).expect("numbers and text"));
    }
    let printed = Printed { times: &times, there: there.as_ref(), all: args.all, markdown: args.markdown };
    printed.head()?;
    if args.step { printed.step() } else { printed.shapes() }
}

/// What another run printed, which has to be of the same step.
fn read_times(path: &Path, bench: &StepBench, filter: Option<&str>) -> Result<StepTimes> {
    let place = path.display();
    let text = files::read_text(path)?;
    let mut times: StepTimes = serde_json::from_str(&text).map_err(|error| {
        let remedy = "write it anew there, with this version: rosette bench --step --json > FILE";
        Error::user(&place, "what `rosette bench --step --json` printed", error, remedy)
    })?;
    let words = |[base, patch, batch]: [usize; 3], skip: &str, options: &[String]| {
        let options: String = options.iter().map(|option| format!(" {option}")).collect();
        format!(
            "--base {base} --patch {patch} --batch {batch}{}{options}",
            if skip == "pooled" { " --pooled" } else { "" }
        )
    };
    let found = words([times.base, times.patch, times.batch], &times.skip, &times.options);
    let skip = format!("{:?}", bench.skip).to_lowercase();
    let expected = words([bench.base_channels, bench.patch_px, bench.batch_size], &skip, &bench.options());
    if found != expected {
        let remedy = format!("measure the same here: rosette bench --step {found}");
        return Err(Error::user(place, format!("a step of {expected}"), found, remedy));
    }
    if times.filter.as_deref().is_some_and(|there| Some(there) != filter) {
        let found = format!("--filter {}", times.filter.unwrap_or_default());
        let expected =
            filter.map_or("all kernels".into(), |filter| format!("all kernels, or --filter {filter}"));
        return Err(Error::user(place, expected, &found, format!("measure the same here: {found}")));
    }
    if let Some(text) = filter {
        times.kernels.retain(|time| time.has(text));
    }
    Ok(times)
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

/// A line of a table: what was timed in the first columns.
struct Line {
    what: Vec<String>,
    phase: String,
    spent: Spent,
}

/// Times summed up by what `name` makes of them and the part of the step, longest first.
fn sum_by(times: &[KernelTime], name: impl Fn(&KernelTime) -> Vec<String>) -> Vec<Line> {
    let mut sums: BTreeMap<(Vec<String>, &str), Vec<Spent>> = BTreeMap::new();
    times.iter().for_each(|time| sums.entry((name(time), &time.phase)).or_default().push(time.spent));
    let line = |((what, phase), spent): ((Vec<String>, &str), Vec<Spent>)| Line {
        what,
        phase: phase.to_owned(),
        spent: spent.into_iter().sum(),
    };
    let mut lines: Vec<Line> = sums.into_iter().map(line).collect();
    lines.sort_by(|a, b| b.spent.ms.total_cmp(&a.spent.ms));
    lines
}

/// Times on their way to the terminal.
struct Printed<'a> {
    times: &'a StepTimes,
    /// The same step elsewhere.
    there: Option<&'a StepTimes>,
    /// Short ones too.
    all: bool,
    markdown: bool,
}

impl Printed<'_> {
    /// A line of its own.
    fn line(&self, text: impl std::fmt::Display) -> Result<()> {
        // Markdown would join lines to a paragraph.
        if self.markdown { say(format!("- {text}")) } else { say(text) }
    }

    /// What was measured, on what.
    fn head(&self) -> Result<()> {
        let StepTimes { rosette, device, driver, system, processors, base, patch, batch, precision, .. } =
            self.times;
        self.line(format!("{device}, driver {driver}"))?;
        let processors =
            if *processors == 1 { "1 processor".into() } else { format!("{processors} processors") };
        self.line(format!("rosette {rosette}, {system}, {processors}"))?;
        let options: String = self.times.options.iter().map(|option| format!(", {}", &option[2..])).collect();
        self.line(format!("training step at base {base}, {patch} px, batch {batch}, {precision}{options}"))?;
        let StepTimes { convolutions, measured, .. } = self.times;
        self.line(format!(
            "kernels by measurement for {measured} of {convolutions} convolutions, by the device's limits for the others"
        ))?;
        let Some(ceilings) = self.times.ceilings else {
            return self.line("no timestamps on this device, so nothing by kernel");
        };
        let rate = |gflops: Option<f64>, what: &str| {
            gflops.map_or_else(String::new, |gflops| format!(", {what} {gflops:.0}"))
        };
        self.line(format!(
            "ceilings: multiply-add {:.0} GFLOP/s{}{}; copy {:.1} GB/s",
            ceilings.gflops,
            rate(ceilings.gflops_f16, "in f16"),
            rate(ceilings.gflops_matrix, "on matrix units"),
            ceilings.gigabytes_per_s,
        ))
    }

    /// The step as a whole, by operation and by kernel.
    fn step(&self) -> Result<()> {
        let times = self.times;
        self.line(format!(
            "{:.1} ms a step (best {:.1}), {:.1} as a training runs them: {:.2} patches/s, {:.1} GFLOP/s",
            times.step_ms_median,
            times.step_ms_best,
            times.step_ms_streamed,
            times.batch as f64 / times.step_ms_streamed * 1e3,
            times.gflop / times.step_ms_streamed * 1e3,
        ))?;
        self.line(format!(
            "host {:.2} ms a step ({:.1} %); {:.1} MiB planned; first step {:.1} s",
            times.submit_ms_median,
            100.0 * times.submit_ms_median / times.step_ms_streamed,
            times.planned_bytes as f64 / f64::from(1 << 20),
            times.first_step_ms / 1e3,
        ))?;
        let phases: Vec<String> = times.phases.iter().map(|(phase, ms)| format!("{phase} {ms:.1}")).collect();
        self.line(format!("ms by part: {}", phases.join(", ")))?;
        let (bound, least) = (times.bound_bytes as f64 / 1e9, times.least_bytes as f64 / 1e9);
        self.line(format!(
            "{bound:.2} GB read and written a step; with every tensor written and read once it would be {least:.2} GB"
        ))?;
        if let Some(there) = self.there {
            self.line(format!(
                "there: {}, driver {}, rosette {}, {}: {:.1} ms a step (best {:.1}); here {:.2} times as fast",
                there.device,
                there.driver,
                there.rosette,
                there.precision,
                there.step_ms_median,
                there.step_ms_best,
                there.step_ms_median / times.step_ms_median,
            ))?;
        }
        if times.ceilings.is_none() {
            return Ok(());
        }
        self.table(&["operation"], self.all, |time| vec![time.operation.clone()])?;
        self.table(&["kernel"], self.all, |time| vec![time.kernel.clone()])?;
        self.legend()
    }

    /// Every kernel for each of its variants and shapes.
    fn shapes(&self) -> Result<()> {
        if self.times.ceilings.is_none() {
            return Ok(());
        }
        self.table(&["operation", "kernel", "variant", "tensors"], true, |time| {
            let tensors = time.tensors.replace(", ", "x");
            let variant = short_variant(&time.variant);
            // Markdown takes the type of `vec4<f16>` for a tag.
            let variant = if self.markdown && !variant.is_empty() { format!("`{variant}`") } else { variant };
            vec![time.operation.clone(), time.kernel.clone(), variant, tensors]
        })?;
        self.legend()
    }

    fn legend(&self) -> Result<()> {
        say("")?;
        self.line(
            "of bound: the time that operations or bytes, whichever takes longer, would need at the ceiling; above 100 %, a cache had the bytes",
        )?;
        self.line("GFLOP/s of a Winograd convolution are those of the direct one that it stands for")
    }

    /// Times by what `name` makes of them; short ones together unless `all` are wanted, then their sum.
    fn table(&self, head: &[&str], all: bool, name: impl Fn(&KernelTime) -> Vec<String>) -> Result<()> {
        let total_ms = self.times.on_device_ms();
        let lines = sum_by(&self.times.kernels, &name);
        let there =
            self.there.filter(|there| !there.kernels.is_empty()).map(|there| sum_by(&there.kernels, &name));
        let mut table = Table::new();
        if self.markdown {
            table.load_preset(presets::ASCII_MARKDOWN);
        } else {
            table
                .load_preset(presets::UTF8_FULL_CONDENSED)
                .set_content_arrangement(ContentArrangement::Dynamic);
        }
        let beside: &[&str] = if there.is_some() { &["ms there", "times"] } else { &[] };
        let numbers = ["part", "dispatches", "ms", "%", "GFLOP/s", "GB/s", "of bound"];
        table.set_header([head, &numbers, beside].concat());
        for column in table.column_iter_mut().skip(head.len() + 1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut row = |what: &[String], phase: &str, spent: Spent, ms_there: Option<f64>| {
            // Some devices' clocks are coarse.
            let by_ms = |amount: f64, decimals: usize, unit: &str| match spent.ms > 0.0 {
                true => format!("{:.decimals$}{unit}", amount / spent.ms),
                false => String::new(),
            };
            let numbers = [
                phase.to_owned(),
                spent.dispatches.to_string(),
                format!("{:.2}", spent.ms),
                format!("{:.1}", 100.0 * spent.ms / total_ms),
                if spent.gflop > 0.0 { by_ms(1e3 * spent.gflop, 1, "") } else { String::new() },
                by_ms(1e3 * spent.gigabytes, 1, ""),
                by_ms(100.0 * spent.bound_ms, 0, " %"),
            ];
            let beside = ms_there.map(|there| [format!("{there:.2}"), by_ms(there, 2, "")]);
            table.add_row(what.iter().cloned().chain(numbers).chain(beside.into_iter().flatten()));
        };
        let (long, short): (Vec<&Line>, Vec<&Line>) =
            lines.iter().partition(|line| all || line.spent.ms >= WORTH_A_LINE * total_ms);
        for Line { what, phase, spent } in long {
            let same = |other: &&Line| (&other.what, &other.phase) == (what, phase);
            let there = there.as_ref().and_then(|there| there.iter().find(same));
            row(what, phase, *spent, there.map(|line| line.spent.ms));
        }
        let summed = |what: String| {
            (0..head.len()).map(move |column| if column == 0 { what.clone() } else { String::new() })
        };
        let total = |lines: &[Line]| lines.iter().map(|line| line.spent).sum::<Spent>();
        if !short.is_empty() {
            let what: Vec<String> = summed(format!("{} shorter ones", short.len())).collect();
            row(&what, "", short.iter().map(|line| line.spent).sum(), None);
        }
        let what: Vec<String> = summed("all".into()).collect();
        row(&what, "", total(&lines), there.as_deref().map(|there| total(there).ms));
        say("")?;
        say(table)
    }
}

/// A variant's constants without what WGSL needs and what is off.
fn short_variant(variant: &str) -> String {
    let constant = |constant: &str| match constant.split_once('=') {
        Some((_, "false")) => None,
        Some((name, "true")) => Some(name.to_lowercase()),
        Some((name, value)) => {
            let digits = value.strip_suffix('u').filter(|number| number.parse::<u32>().is_ok());
            Some(format!("{} {}", name.to_lowercase(), digits.unwrap_or(value)))
        }
        None => Some(constant.to_owned()),
    };
    variant.split(',').filter_map(constant).collect::<Vec<_>>().join(", ")
}
