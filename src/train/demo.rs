//! The demonstration: synthetic tissue, a split, a short training, pictures; with the files a person would make to do
//! the same by hand.

use std::path::PathBuf;

use super::plan::describe_plan;
use super::run::{CHECKPOINT_EVERY, Outcome, TrainRun, train};
use crate::config::Config;
use crate::data::split::Manifest;
use crate::data::synth::{Layout, SynthPlan, sample_name, write_samples};
use crate::error::Result;
use crate::files;
use crate::gpu::Gpu;
use crate::report::Mode;

/// The demonstration's configuration, also left in its directory.
const CONFIG: &str = include_str!("demo.yaml");
const EXPERIMENT: &str = "demo";
const SAMPLES: usize = 20;
const SIZE_PX: usize = 384;
const SEED: u64 = 42;

/// What the demonstration is given.
#[derive(Debug, Clone)]
pub struct DemoPlan {
    /// Where everything goes.
    pub output_dir: PathBuf,
    /// Number or name of the adapter.
    pub adapter: Option<String>,
    /// `--override` settings.
    pub overrides: Vec<String>,
    /// How progress is shown.
    pub mode: Mode,
}

/// Runs it; `say` gets a line before each stage.
///
/// # Errors
/// Those of its stages.
pub fn demo(plan: &DemoPlan, say: impl Fn(&str)) -> Result<Outcome> {
    let dir = &plan.output_dir;
    let config_path = dir.join("config.yaml");
    let (experiment, origins) =
        Config::parse(&config_path, CONFIG)?.resolve_with_origins(EXPERIMENT, &plan.overrides)?;
    // What is wrong with the arguments is told before anything is made.
    describe_plan(&experiment, Gpu::open(plan.adapter.as_deref())?.limits())?;
    files::write_atomic(&config_path, CONFIG.as_bytes())?;

    let data_dir = dir.join("data");
    say(&format!("making {SAMPLES} samples of synthetic tissue in {}", data_dir.display()));
    let synth = SynthPlan {
        samples: SAMPLES,
        size_px: SIZE_PX,
        vary_size: true,
        seed: SEED,
        layout: Layout::Separate,
    };
    write_samples(&data_dir, &synth)?;

    let names: Vec<String> = (0..SAMPLES).map(sample_name).collect();
    let split_manifest = dir.join(format!("split_manifest_{EXPERIMENT}.json"));
    let training = &experiment.training;
    Manifest::create(&names, training.val_split, u64::from(training.seed))?.write(&split_manifest)?;

    let output_dir = dir.join(EXPERIMENT);
    say(&format!("training '{EXPERIMENT}' ({}) into {}", experiment.description, output_dir.display()));
    train(&TrainRun {
        experiment,
        origins,
        split_manifest,
        data_dir,
        output_dir,
        in_new_dir: false,
        log_file: None,
        init_weights: None,
        adapter: plan.adapter.clone(),
        member: None,
        mode: plan.mode,
        restart: false,
        checkpoint_every: CHECKPOINT_EVERY,
    })
}
