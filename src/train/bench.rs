//! The time of a training step: whole steps by the clock, then one split by kernel with device timestamps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::plan::persistent_bytes;
use super::session::Session;
use super::step::{StepSettings, record_training};
use super::step_times::{KernelTime, Spent, StepTimes, name_of};
use super::tuning::{TuningCache, measured, questions};
use crate::config::{Recompute, Skip, TrainingConfig};
use crate::data::augment::{Place, smoothing_weights};
use crate::data::channels::Prepared;
use crate::data::loader::{Dataset, PatchPlan, patch_of};
use crate::data::residency::Residency;
use crate::error::{Error, Result};
use crate::gpu::{AdapterSummary, Ceilings, Gpu};
use crate::model::{AttentionUNet, Spec};
use crate::ops::warp::{Patch, PatchSource};
use crate::report::progress::Mode;
use crate::tape::{Arg, Dispatch, Element, Phase, Program, TensorId, TensorInfo};

/// Steps of which each dispatch's fastest counts.
const PROFILED: usize = 5;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct StepBench {
    /// Channels of the input: 2, or 3 with the intensity.
    pub in_channels: usize,
    /// Width of the first block.
    pub base_channels: usize,
    /// Side of a patch.
    pub patch_px: usize,
    /// Patches a step.
    pub batch_size: usize,
    /// Where skips are taken.
    pub skip: Skip,
    /// Whether cheap tensors are computed again.
    pub recompute: Recompute,
    /// How activations are stored.
    pub element: Element,
    /// The largest norm of the gradients; 0 for any.
    pub clip_norm: f32,
    /// Weights and statistics are averaged.
    pub ema: bool,
    /// Winograd's convolutions may be used.
    pub winograd: bool,
    /// Steps timed, after one to warm up, and then as many one after the other.
    pub repeats: usize,
    /// Go by what was measured of the device; on a GPU what was not is measured first, as a training does.
    pub tuned: bool,
}

/// Measures training steps on random data; of kernels those with `filter` in their names, or in their operations'. `mode` says how it is
/// shown that kernels are measured before.
///
/// # Errors
/// A user error where nothing has the filter in its name; where the device fails or lacks memory.
pub fn bench_step(gpu: Gpu, bench: &StepBench, filter: Option<&str>, mode: Mode) -> Result<StepTimes> {
    let net = AttentionUNet::new(Spec {
        in_channels: bench.in_channels,
        base_channels: bench.base_channels,
        skip: bench.skip,
    });
    let (settings, [convolutions, measured]) = settle(&gpu, &net, bench, filter, mode)?;
    let (device, driver) = (gpu.summary().to_string(), gpu.summary().driver.clone());
    let started = Instant::now();
    let persistent = persistent_bytes(&net, bench.ema);
    let mut session = Session::new(gpu, net, settings)?;
    session.set_tensors(&session.net().initial(1));
    let dataset = Dataset::new(vec![sample(2 * bench.patch_px)]);
    let residency = Residency::plan(dataset.samples(), usize::MAX, usize::MAX, 1)?;
    let plan = patch_plan(bench);
    session.make_patches(&residency, smoothing_weights(&plan.augmentation, plan.patch_px))?;
    residency.first_uploads(dataset.samples()).for_each(|upload| session.upload(&upload));
    let patches = |step: usize| -> Vec<Patch> {
        let place = Place { chunk: 0, first_word: 0 };
        (0..bench.batch_size)
            .map(|at| patch_of(&dataset, &plan, place, (0, step * bench.batch_size + at)))
            .collect()
    };
    session.prepare(true, bench.batch_size)?;
    let first = session.start_patch_step(&patches(0), 1e-3)?;
    session.finish(first)?;
    let first_step_ms = started.elapsed().as_secs_f64() * 1e3;
    let [step_ms_best, step_ms_median, submit_ms_median] =
        time_waited(&mut session, bench.repeats.max(1), &patches)?;
    let step_ms_streamed = time_streamed(&mut session, bench.repeats.max(1), &patches)?;
    let ceilings = if session.gpu().summary().timestamps { Some(session.gpu().ceilings()?) } else { None };
    let timed = match &ceilings {
        Some(ceilings) => time_dispatches(&mut session, bench, ceilings)?,
        None => Vec::new(),
    };
    let moves_ms = time_moves(&session, bench)?;
    let loaded = session.prepare(true, bench.batch_size)?;
    let transfer = loaded.program.input_bytes + loaded.program.output_bytes;
    Ok(StepTimes {
        rosette: env!("CARGO_PKG_VERSION").into(),
        device,
        driver,
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        base: bench.base_channels,
        patch: bench.patch_px,
        batch: bench.batch_size,
        precision: if bench.element == Element::F16 { "f16" } else { "f32" }.into(),
        skip: format!("{:?}", bench.skip).to_lowercase(),
        options: bench.options(),
        filter: filter.map(str::to_owned),
        convolutions,
        measured,
        step_ms_best,
        step_ms_median,
        step_ms_streamed,
        first_step_ms,
        submit_ms_median,
        gflop: loaded.program.flops() as f64 / 1e9,
        planned_bytes: persistent + transfer + loaded.plan.slot_bytes(),
        least_bytes: least_bytes(&loaded.program),
        bound_bytes: loaded.program.dispatches.iter().map(Dispatch::bound_bytes).sum(),
        ceilings,
        kernels: by_kernel(&timed)
            .into_iter()
            .filter(|time| filter.is_none_or(|text| time.has(text)))
            .collect(),
        phases: split_by_phase(&timed, moves_ms, step_ms_best),
    })
}

/// The step's settings, with the kernels that a training would take; how many convolutions there are, and how many kernels were measured.
fn settle(
    gpu: &Gpu,
    net: &AttentionUNet,
    bench: &StepBench,
    filter: Option<&str>,
    mode: Mode,
) -> Result<(StepSettings, [usize; 2])> {
    let (limits, batch) = (gpu.limits(), bench.batch_size);
    let settings = StepSettings {
        winograd: bench.winograd,
        recompute: bench.recompute,
        element: bench.element,
        clip_norm: bench.clip_norm,
        ema_decay: if bench.ema { 0.999 } else { 0.0 },
        ..StepSettings::new(bench.patch_px)
    };
    // Before the weights of a large network are drawn, which takes half a minute.
    settings.check_fits(net, batch, limits)?;
    let asked = questions(net, limits, &settings, &[batch]);
    let tuning = match bench.tuned {
        true => measured(gpu, &asked, mode)?,
        false => TuningCache::load(gpu.summary()).by_limits(),
    };
    let settings = StepSettings { tuning, ..settings };
    // As it will run: with what makes patches, and those kernels.
    let plan = patch_plan(bench);
    let radius = smoothing_weights(&plan.augmentation, plan.patch_px).map(|weights| weights.len() - 1);
    let patches = Some(PatchSource { chunks: 1, chunk_words: 64, radius });
    let run = record_training(net, limits, &StepSettings { patches, ..settings }, batch);
    check_filter(filter, &run.program, gpu.summary())?;
    let taken = asked.iter().filter(|question| question.taken(tuning, limits).is_some()).count();
    Ok((settings, [asked.len(), taken]))
}

/// A square sample without meaning, the same every time.
fn sample(side_px: usize) -> Prepared {
    let hash = |i: usize| (i.wrapping_mul(0x9E37_79B9) >> 7) % 256;
    let plane = |above: usize| (0..side_px * side_px).map(|i| u8::from(hash(i) > above)).collect::<Vec<u8>>();
    let target = plane(204);
    let rosette_pixels = (0..).zip(&target).filter(|(_, t)| **t > 0).map(|(at, _)| at).collect();
    Prepared {
        name: "noise".into(),
        height: side_px,
        width: side_px,
        boundary: plane(127),
        cells: plane(25),
        intensity: None,
        target,
        rosette_pixels,
    }
}

/// Patches with the default augmentation.
fn patch_plan(bench: &StepBench) -> PatchPlan {
    let training = TrainingConfig::default();
    PatchPlan {
        patch_px: bench.patch_px,
        batch_size: bench.batch_size,
        patches_per_sample: 1,
        foreground_share: training.foreground_share,
        augmentation: training.augmentation,
        seed: 1,
        epoch: 1,
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Every activation, gradient and weight that a step touches, once written and once read; partial sums and the scratch of
/// transforms not counted, since other kernels would not need them.
fn least_bytes(program: &Program) -> u64 {
    let mut touched: Vec<TensorId> =
        program.dispatches.iter().flat_map(|d| d.args.iter().map(|arg| arg.tensor)).collect();
    touched.sort();
    touched.dedup();
    // Weights count as the optimiser binds them, all at once.
    let is_scratch =
        |name: &str| ["part", "winograd", "prepared"].iter().any(|scratch| name.contains(scratch));
    let tensors = touched.into_iter().map(|id| program.tensor(id)).filter(|info| !is_scratch(&info.name));
    2 * tensors.map(TensorInfo::bytes).sum::<u64>()
}

/// One dispatch of a step, timed.
struct Timed {
    phase: Phase,
    time: KernelTime,
}

/// Every dispatch of a training step with its device time, the fastest of some steps each.
fn time_dispatches(session: &mut Session, bench: &StepBench, ceilings: &Ceilings) -> Result<Vec<Timed>> {
    session.prepare(true, bench.batch_size)?;
    let loaded = session.loaded(true, bench.batch_size).expect("just prepared");
    let mut fastest = session.gpu().run_profiled(&loaded.executable)?;
    for _ in 1..bench.repeats.clamp(1, PROFILED) {
        let again = session.gpu().run_profiled(&loaded.executable)?;
        fastest.iter_mut().zip(again).for_each(|(ms, other)| *ms = ms.min(other));
    }
    let program = &loaded.program;
    let shape = |arg: &Arg| program.tensor(arg.tensor).shape.to_string();
    let timed = |(dispatch, ms): (&Dispatch, f64)| {
        let name = dispatch.kernel.name();
        let arithmetic_s =
            dispatch.flops.executed as f64 / 1e9 / ceilings.gflops_of(name.contains("_matrix"));
        let memory_s = dispatch.bound_bytes() as f64 / 1e9 / ceilings.gigabytes_per_s;
        let time = KernelTime {
            kernel: name.to_owned(),
            operation: operation_of(dispatch),
            phase: name_of(dispatch.phase),
            variant: dispatch.kernel.variant().to_string(),
            tensors: dispatch.args.iter().map(shape).collect::<Vec<_>>().join(" "),
            spent: Spent {
                dispatches: 1,
                ms,
                gflop: dispatch.flops.counted as f64 / 1e9,
                gigabytes: dispatch.bound_bytes() as f64 / 1e9,
                bound_ms: 1e3 * arithmetic_s.max(memory_s),
            },
        };
        Timed { phase: dispatch.phase, time }
    };
    Ok(program.dispatches.iter().zip(fastest).map(timed).collect())
}

/// Dispatches of a kernel that have the rest in common too, summed up. Longest first.
fn by_kernel(timed: &[Timed]) -> Vec<KernelTime> {
    let mut sums: BTreeMap<_, Vec<&KernelTime>> = BTreeMap::new();
    for Timed { phase, time } in timed {
        let key = (phase, &time.operation, &time.kernel, &time.variant, &time.tensors);
        sums.entry(key).or_default().push(time);
    }
    let sum = |times: Vec<&KernelTime>| {
        let spent = times.iter().map(|time| time.spent).sum();
        KernelTime { spent, ..times[0].clone() }
    };
    let mut kernels: Vec<KernelTime> = sums.into_values().map(sum).collect();
    kernels.sort_by(|a, b| b.spent.ms.total_cmp(&a.spent.ms));
    kernels
}

/// Device time by part of the step; then what the clock says of moving inputs and outputs, and what is left of the step.
fn split_by_phase(timed: &[Timed], [upload_ms, read_ms]: [f64; 2], step_ms: f64) -> Vec<(String, f64)> {
    let mut by_phase: BTreeMap<Phase, f64> = BTreeMap::new();
    timed.iter().for_each(|timed| *by_phase.entry(timed.phase).or_default() += timed.time.spent.ms);
    let busy_ms = by_phase.values().sum::<f64>() + upload_ms + read_ms;
    let mut phases: Vec<(String, f64)> =
        by_phase.into_iter().map(|(phase, ms)| (name_of(phase), ms)).collect();
    phases.push(("upload".into(), upload_ms));
    phases.push(("read-back".into(), read_ms));
    phases.push(("idle".into(), (step_ms - busy_ms).max(0.0)));
    phases
}

/// Times of steps that are waited for, by the clock: the fastest, the median, and the median of the host's share.
fn time_waited(
    session: &mut Session,
    steps: usize,
    patches: &impl Fn(usize) -> Vec<Patch>,
) -> Result<[f64; 3]> {
    let (mut steps_ms, mut submits_ms) = (Vec::new(), Vec::new());
    for step in 1..=steps {
        let patches = patches(step);
        let started = Instant::now();
        let pending = session.start_patch_step(&patches, 1e-3)?;
        submits_ms.push(started.elapsed().as_secs_f64() * 1e3);
        session.finish(pending)?;
        steps_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let best = steps_ms.iter().copied().fold(f64::INFINITY, f64::min);
    Ok([best, median(&steps_ms), median(&submits_ms)])
}

/// A step's time, by the clock, where each is submitted before the one before is waited for.
fn time_streamed(session: &mut Session, steps: usize, patches: &impl Fn(usize) -> Vec<Patch>) -> Result<f64> {
    let started = Instant::now();
    let mut before = None;
    for step in 0..steps {
        let next = session.start_patch_step(&patches(step), 1e-3)?;
        if let Some(before) = before.replace(next) {
            session.finish(before)?;
        }
    }
    if let Some(last) = before {
        session.finish(last)?;
    }
    Ok(started.elapsed().as_secs_f64() * 1e3 / steps as f64)
}

/// Times by the clock to upload a step's inputs and to read back what a training reads, fastest of a few.
fn time_moves(session: &Session, bench: &StepBench) -> Result<[f64; 2]> {
    let loaded = session.loaded(true, bench.batch_size).expect("it has run");
    let inputs = vec![0; loaded.program.input_bytes as usize];
    let read_bytes = session.read_back_bytes(true, bench.batch_size).expect("it has run");
    let (mut read_ms, mut both_ms) = (f64::INFINITY, f64::INFINITY);
    let ms_of = |uploads: bool| -> Result<f64> {
        let started = Instant::now();
        if uploads {
            session.gpu().write(loaded.inputs(), 0, &inputs);
        }
        session.gpu().read(loaded.outputs(), 0..read_bytes)?;
        Ok(started.elapsed().as_secs_f64() * 1e3)
    };
    for _ in 0..PROFILED {
        read_ms = read_ms.min(ms_of(false)?);
        both_ms = both_ms.min(ms_of(true)?);
    }
    Ok([(both_ms - read_ms).max(0.0), read_ms])
}

/// Something in the step must have this in its name, or in its operation's, and be timed.
fn check_filter(filter: Option<&str>, program: &Program, adapter: &AdapterSummary) -> Result<()> {
    let Some(text) = filter else { return Ok(()) };
    if !adapter.timestamps {
        let remedy = "leave it out: the step as a whole is timed by the clock";
        return Err(Error::user("--filter", "a device that times its kernels", adapter, remedy));
    }
    let names = program.dispatches.iter().map(|dispatch| (operation_of(dispatch), dispatch.kernel.name()));
    let names: Vec<(String, String)> = names.collect();
    if names.iter().any(|(operation, kernel)| operation.contains(text) || kernel.contains(text)) {
        return Ok(());
    }
    let shader = |kernel: &str| kernel.split('/').next().unwrap_or_default().to_owned();
    let known: BTreeSet<String> =
        names.into_iter().flat_map(|(operation, kernel)| [operation, shader(&kernel)]).collect();
    let remedy = format!("choose one of: {}", Vec::from_iter(known).join(", "));
    Err(Error::user("--filter", "a part of the name of an operation or a kernel of this step", text, remedy))
}

/// What asked for a dispatch: an operation, or outside of any its shader's name.
fn operation_of(dispatch: &Dispatch) -> String {
    let name = dispatch.kernel.name();
    let outside = || name.split('/').next().unwrap_or_default().to_owned();
    if dispatch.operation.is_empty() { outside() } else { dispatch.operation.clone() }
}

impl StepBench {
    /// What is not as it is by default, besides sizes, skips and precision, as the command line has it.
    pub fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if self.recompute == Recompute::Always {
            options.push("--recompute".to_owned());
        }
        if self.clip_norm > 0.0 {
            options.push(format!("--clip-norm {}", self.clip_norm));
        }
        if self.ema {
            options.push("--ema".to_owned());
        }
        options
    }
}
