//! `rosette split`: which samples train and which validate, in the manifest that training reads.

use std::path::PathBuf;

use super::say;
use crate::config::Config;
use crate::data::split::Manifest;
use crate::error::Result;

/// Split samples into training and validation, as scikit-learn's train_test_split does, and write the manifest.
#[derive(Debug, Clone, clap::Args)]
pub struct SplitArgs {
    /// The samples' names, in any order.
    #[arg(long, value_name = "NAME", num_args = 1.., required = true)]
    pub samples: Vec<String>,
    /// Where to write the manifest.
    #[arg(long, value_name = "DIR")]
    pub config_dir: PathBuf,
    /// The configuration: as given, or else in --config-dir.
    #[arg(long, value_name = "FILE")]
    pub config_file: PathBuf,
    /// The experiment whose val_split and seed apply.
    #[arg(long, value_name = "NAME")]
    pub experiment_name: String,
    /// The manifest's file name.
    #[arg(long, value_name = "FILE")]
    pub output_name: PathBuf,
    /// Share of the samples that validates, in place of the experiment's val_split.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub test_size: Option<f64>,
    /// Seed, in place of the experiment's.
    #[arg(long, value_name = "SEED", allow_negative_numbers = true, value_parser = super::whole_number)]
    pub random_state: Option<u64>,
}

impl SplitArgs {
    /// The configuration's path: the file as given where it is there, else the one in `--config-dir`, else as given.
    pub fn config_path(&self) -> PathBuf {
        let beside = self.config_dir.join(&self.config_file);
        if !self.config_file.exists() && beside.exists() { beside } else { self.config_file.clone() }
    }

    /// Where the manifest goes.
    pub fn manifest_path(&self) -> PathBuf {
        self.config_dir.join(&self.output_name)
    }
}

/// Splits by the experiment's `val_split` and `seed`, unless the arguments say otherwise, and writes the manifest.
///
/// # Errors
/// A user error where the configuration is wrong, the samples cannot be split so, or the manifest cannot be written.
pub fn run(args: &SplitArgs) -> Result<()> {
    let experiment = Config::load(&args.config_path())?.resolve(&args.experiment_name, &[])?;
    split(args, experiment.training.val_split, u64::from(experiment.training.seed))
}

/// [`run`] with what the experiment says.
///
/// # Errors
/// A user error where the samples cannot be split so, or the manifest cannot be written.
pub fn split(args: &SplitArgs, val_split: f64, seed: u64) -> Result<()> {
    let test_size = args.test_size.unwrap_or(val_split);
    let manifest = Manifest::create(&args.samples, test_size, args.random_state.unwrap_or(seed))?;
    let path = args.manifest_path();
    manifest.write(&path)?;
    let Manifest { train_samples, val_samples, .. } = manifest;
    say(format!("{train_samples} samples train, {val_samples} validate: {}", path.display()))
}
