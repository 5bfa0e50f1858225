//! `rosette doctor`: whether a device can be trusted, and how long a training would take on it.

use std::path::PathBuf;

use comfy_table::{CellAlignment, Table, presets};

use super::say;
use crate::config::{Config, Experiment};
use crate::error::{Error, Result};
use crate::gpu::{AdapterSummary, Gpu, Limits};
use crate::ops::choice::Form;
use crate::report::{Mode, progress};
use crate::tape::Element;
use crate::train::{
    Examined, Fit, PROBING, StepBench, TuningCache, bench_step, estimate_memory, examine, is_spare,
    stored_element,
};

/// Check every kernel on this device against its reference, and say what a training would take; prints a report to send.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorArgs {
    /// Also time and size up an experiment of this configuration.
    #[arg(long, value_name = "FILE", requires = "experiment_name")]
    pub config: Option<PathBuf>,
    /// The experiment within it.
    #[arg(long, value_name = "NAME", requires = "config")]
    pub experiment_name: Option<String>,
    /// Change a setting of the experiment; repeatable.
    #[arg(long = "override", value_name = "KEY=VALUE", requires = "config")]
    pub overrides: Vec<String>,
    /// Training samples, for the time of an epoch.
    #[arg(long, value_name = "N", default_value_t = 100, requires = "config", value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,
    /// Number or part of the name of the adapter (see `rosette devices`).
    #[arg(long, env = "ROSETTE_ADAPTER", value_name = "ADAPTER")]
    pub adapter: Option<String>,
    /// Print JSON instead of a report.
    #[arg(long)]
    pub json: bool,
}

/// Examines and prints. A form of convolution that fails is never taken by the tuner on this device again.
///
/// # Errors
/// A failure where a kernel computes something else than its reference; those of the configuration.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let experiment = match (&args.config, &args.experiment_name) {
        (Some(config), Some(name)) => Some(Config::load(config)?.resolve(name, &args.overrides)?),
        _ => None,
    };
    let gpu = Gpu::open(args.adapter.as_deref())?;
    let told = |name: &str| {
        if !args.json {
            progress::print_line(&format!("checking {name}"));
        }
    };
    let mut cache = TuningCache::load(gpu.summary());
    if !args.json && !cache.unprobed(&gpu, true).is_empty() {
        progress::print_line(PROBING);
    }
    let broken = cache.probe(&gpu, true)?;
    let mut examined = Vec::new();
    if let Err(error) = examine(&gpu, &broken, told, &mut examined) {
        // What was found before says where it went wrong.
        if !args.json {
            say(system(gpu.summary()))?;
            say(table(&examined))?;
        }
        return Err(error);
    }
    cache.ban(banned(&examined, &broken));
    let mut is_sound = true;
    let elements = [Element::F32, Element::F16];
    for element in elements.into_iter().filter(|element| *element == Element::F32 || gpu.limits().f16) {
        let of_it = examined.iter().filter(|entry| entry.precision == element.word());
        is_sound &= cache.take_note(element, &of_it.cloned().collect::<Vec<_>>());
    }
    cache.save_or_warn();
    let failed: usize = examined.iter().map(|entry| entry.failures.len()).sum();
    let estimate =
        experiment.as_ref().map(|experiment| estimate(experiment, args, gpu.limits())).transpose()?;
    if args.json {
        let adapter = gpu.summary();
        say(serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "adapter": adapter.to_string(),
            "driver": adapter.driver,
            "system": system(adapter),
            "kernels": examined,
            "estimate": estimate,
        }))?;
    } else {
        say(system(gpu.summary()))?;
        say(table(&examined))?;
        let failures =
            examined.iter().flat_map(|entry| entry.failures.iter().map(move |why| (&entry.what, why)));
        for (what, why) in failures {
            say(format!("FAILED {what}: {why}"))?;
        }
        if let Some(estimate) = &estimate {
            say(estimate)?;
        }
    }
    match failed {
        0 if args.json => Ok(()),
        0 => say(
            "every operation agrees with its reference on this device, and whole steps of training with PyTorch's",
        ),
        _ => Err(Error::failure(format!(
            "{failed} cases differ from their reference on this device, or crash it: update its driver; {}",
            match is_sound {
                true => "forms of convolutions that failed are not used here any more",
                false =>
                    "nothing is trained or predicted here until all agree but for spare forms of convolutions",
            }
        ))),
    }
}

/// Forms with a failure, but for those that are `broken`, which the cache knows apart.
fn banned(examined: &[Examined], broken: &[(Form, String)]) -> Vec<String> {
    let failed =
        examined.iter().filter(|entry| !entry.failures.is_empty() && is_spare(entry.form.as_deref()));
    let mut names: Vec<String> = failed.filter_map(|entry| entry.form.clone()).collect();
    names.retain(|name| broken.iter().all(|(form, _)| form.name() != name));
    names.sort();
    names.dedup();
    names
}

fn system(adapter: &AdapterSummary) -> String {
    let Limits { storage_binding_bytes, buffer_bytes, f16, matrix, .. } = adapter.limits;
    let subgroups = adapter.subgroup.map_or("none".into(), |(least, most)| format!("{least} to {most}"));
    format!(
        "rosette {} on {} {}\nadapter: {adapter}\ndriver: {}\nbinding {} MiB, buffer {} MiB, f16 {f16}, subgroups {subgroups}, \
         matrix units {matrix:?}, timestamps {}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        adapter.driver,
        storage_binding_bytes >> 20,
        buffer_bytes >> 20,
        adapter.timestamps,
    )
}

fn table(examined: &[Examined]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["operation", "stored", "passed", "failed", "worst forward", "worst gradient"]);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for entry in examined {
        table.add_row([
            entry.what.clone(),
            entry.precision.to_owned(),
            entry.passed.to_string(),
            entry.failures.len().to_string(),
            format!("{:.1e}", entry.forward),
            format!("{:.1e}", entry.backward),
        ]);
    }
    table
}

/// Memory, and time by a few steps on this device.
fn estimate(experiment: &Experiment, args: &DoctorArgs, limits: Limits) -> Result<String> {
    let memory = estimate_memory(experiment, limits)?.total_bytes() as f64 / f64::from(1 << 30);
    let (model, training) = (&experiment.model, &experiment.training);
    let patches = Fit::plan(experiment, limits, 0)?.most_patches;
    let bench = StepBench {
        in_channels: experiment.input_channels(),
        winograd: training.winograd,
        clip_norm: training.clip_norm as f32,
        ema: training.ema_decay > 0.0,
        base_channels: model.base_channels,
        patch_px: model.patch_size,
        batch_size: patches,
        skip: model.skip,
        recompute: training.recompute,
        element: stored_element(experiment, limits),
        repeats: 3,
        tuned: !training.deterministic,
    };
    let mode = if args.json { Mode::Quiet } else { Mode::Plain };
    let times = bench_step(Gpu::open(args.adapter.as_deref())?, &bench, None, mode)?;
    let step_s = times.step_ms_streamed / 1e3;
    let steps = (args.samples as usize * training.patches_per_sample).div_ceil(patches) as f64;
    let epoch_min = steps * step_s / 60.0;
    Ok(format!(
        "experiment '{}': {memory:.2} GiB of device memory and the training samples; a step takes {step_s:.3} s, an epoch of \
         {} samples {epoch_min:.1} min, {} epochs {:.1} h, validation not counted",
        experiment.name,
        args.samples,
        training.num_epochs,
        epoch_min * training.num_epochs as f64 / 60.0
    ))
}
