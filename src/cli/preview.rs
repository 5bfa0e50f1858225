//! `rosette preview`: a look at samples and augmented patches before a training.

use std::path::PathBuf;

use super::say;
use crate::config::Config;
use crate::data::sample::discover;
use crate::error::Result;
use crate::train::{Preview, preview};

/// Draw contact sheets of samples and of augmented patches, to see whether labels sit right and augmentation is sane.
#[derive(Debug, Clone, clap::Args)]
pub struct PreviewArgs {
    /// Directory of the samples: `DIR/SAMPLE/processed_data_SAMPLE.h5`.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where `samples.png` and `patches.png` go.
    #[arg(long, value_name = "DIR", default_value = "preview")]
    pub output_dir: PathBuf,
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The experiment within it.
    #[arg(long, value_name = "NAME")]
    pub experiment_name: String,
    /// Change a setting, e.g. augmentation.elastic_transform=1; repeatable.
    #[arg(long = "override", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Samples to show; the first ten of the directory where none is named.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub samples: Vec<String>,
    /// Augmented patches of each sample.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub patches: u16,
}

/// Draws, and says where the pictures are.
///
/// # Errors
/// Those of the configuration and of the data.
pub fn run(args: &PreviewArgs) -> Result<()> {
    let experiment = Config::load(&args.config)?.resolve(&args.experiment_name, &args.overrides)?;
    let mut samples = args.samples.clone();
    if samples.is_empty() {
        samples = discover(&args.data_dir)?;
        samples.truncate(10);
    }
    let plan = Preview {
        experiment,
        data_dir: args.data_dir.clone(),
        samples,
        draws: usize::from(args.patches),
        output_dir: args.output_dir.clone(),
    };
    let [samples, patches] = preview(&plan)?;
    say(format!("samples:           {}", samples.display()))?;
    say(format!("augmented patches: {}", patches.display()))
}
