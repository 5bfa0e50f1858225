//! `rosette synth`: synthetic tissue in the pipeline's layout.

use std::path::PathBuf;

use super::say;
use crate::data::synth::{Layout, SynthPlan, write_samples};
use crate::error::Result;

/// Make synthetic epithelia with planted rosettes, laid out as training_data_preparation does.
#[derive(Debug, Clone, clap::Args)]
pub struct SynthArgs {
    /// Where to make the samples' directories.
    #[arg(long, value_name = "DIR")]
    pub output_dir: PathBuf,
    /// How many samples to make (T1_1, T1_2, T2_1 ...).
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub samples: usize,
    /// Side of an image, in pixels: 128 to 8192.
    #[arg(long, value_name = "PX", default_value_t = 512)]
    pub size: usize,
    /// Seed: the same arguments give the same bytes.
    #[arg(long, value_name = "S", default_value_t = 42)]
    pub seed: u64,
    /// How to store a sample's planes.
    #[arg(long, value_enum, default_value_t)]
    pub layout: Layout,
    /// Vary each side by 0.8 to 1.25 from sample to sample.
    #[arg(long)]
    pub vary_size: bool,
}

/// Makes the samples and says where they are.
///
/// # Errors
/// A user error where the arguments ask for the impossible or the directory cannot be written.
pub fn run(args: &SynthArgs) -> Result<()> {
    let plan = SynthPlan {
        samples: args.samples,
        size_px: args.size,
        vary_size: args.vary_size,
        seed: args.seed,
        layout: args.layout,
    };
    let paths = write_samples(&args.output_dir, &plan)?;
    say(format!("{} samples in {}", paths.len(), args.output_dir.display()))
}
