//! `rosette export` and `rosette import`: models to and from other programs.

use std::path::PathBuf;

use super::say;
use crate::config::Skip;
use crate::error::{Error, Result};
use crate::exchange::{Format, Import, Package, export, import};
use crate::inference::Model;

/// What a model can be exported as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FormatName {
    /// PyTorch's state dict, as best_model.pth.
    Pth,
    /// The same tensors, with config.json in the header.
    Safetensors,
    /// The network with its weights, for onnxruntime and others.
    Onnx,
    /// A BioImage.IO package (.zip), for the programs that biologists open.
    Bioimageio,
}

/// Write a model for other programs: PyTorch, ONNX runtimes, those that read BioImage.IO packages.
#[derive(Debug, Clone, clap::Args)]
pub struct ExportArgs {
    /// A training's directory, or a weights file (.pth of PyTorch, too, or .safetensors).
    #[arg(long, value_name = "PATH")]
    pub model: PathBuf,
    /// What to write.
    #[arg(long, value_enum)]
    pub format: FormatName,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Where the skips are taken, for weights without a config.json beside them: full or pooled.
    #[arg(long, value_name = "VARIANT", value_parser = ["full", "pooled"])]
    pub skip: Option<String>,
    /// For a package: the model's name.
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
    /// For a package: who made the model, 'Given Family' or 'Given Family @github_user'; repeatable.
    #[arg(long, value_name = "NAME")]
    pub author: Vec<String>,
    /// For a package: the licence of the weights, e.g. CC-BY-4.0.
    #[arg(long, value_name = "SPDX", default_value = "")]
    pub license: String,
    /// For a package: an image to test it with, a sample (.h5) or cell labels (.png, .tif); else synthetic tissue.
    #[arg(long, value_name = "FILE")]
    pub sample: Option<PathBuf>,
    /// For a package: number or part of the name of the adapter that predicts the test image.
    #[arg(long, env = "ROSETTE_ADAPTER", value_name = "ADAPTER")]
    pub adapter: Option<String>,
}

/// Make a model's directory of weights from PyTorch or from `rosette export`.
#[derive(Debug, Clone, clap::Args)]
pub struct ImportArgs {
    /// The weights: a state dict (.pth) or .safetensors. The network's width and channels are read from their shapes.
    #[arg(value_name = "WEIGHTS")]
    pub weights: PathBuf,
    /// Where best_model.pth and config.json go.
    #[arg(long, value_name = "DIR")]
    pub output_dir: PathBuf,
    /// Where the skips are taken, for weights that do not say so: full or pooled, as in the pipeline's PyTorch module.
    #[arg(long, value_name = "VARIANT", value_parser = ["full", "pooled"])]
    pub skip: Option<String>,
    /// Side of the patches it was trained on, for weights that do not say so; 512 where it is not given.
    #[arg(long, value_name = "PX")]
    pub patch_size: Option<usize>,
    /// The model's name; that of the file where it is not given.
    #[arg(long, value_name = "TEXT")]
    pub name: Option<String>,
}

/// The setting that a word names; the parser takes no other than these two.
pub(super) fn skip(word: Option<&str>) -> Option<Skip> {
    word.map(|word| if word == "pooled" { Skip::Pooled } else { Skip::Full })
}

/// Writes the model, and says what the file does not say itself.
///
/// # Errors
/// Those of the model; a user error where the file cannot be written, or a package lacks its author or licence.
pub fn run_export(args: &ExportArgs) -> Result<()> {
    if args.output.is_dir() {
        let remedy = "give the name of a file in it";
        return Err(Error::user(args.output.display(), "a file to write", "a directory", remedy));
    }
    check_format(args)?;
    let model = Model::open(&args.model, skip(args.skip.as_deref()))?;
    let format = match args.format {
        FormatName::Pth => Format::Pth,
        FormatName::Safetensors => Format::Safetensors,
        FormatName::Onnx => Format::Onnx,
        FormatName::Bioimageio => Format::BioImage(Box::new(Package {
            name: args.name.clone(),
            authors: args.author.clone(),
            licence: args.license.clone(),
            sample: args.sample.clone(),
            adapter: args.adapter.clone(),
        })),
    };
    export(&model, &format, &args.output)?;
    let spec = model.net.spec();
    say(format!(
        "{}: {} input channels, base_channels {}, skip {:?}, threshold {}",
        args.output.display(),
        spec.in_channels,
        spec.base_channels,
        spec.skip,
        model.threshold
    ))
}

/// A user error where something is given that the format has no place for. The adapter may come from the environment and
/// is not minded there.
fn check_format(args: &ExportArgs) -> Result<()> {
    if args.format == FormatName::Bioimageio {
        return Ok(());
    }
    let of_environment = std::env::var("ROSETTE_ADAPTER").ok();
    let given = [
        ("--name", args.name.is_some()),
        ("--author", !args.author.is_empty()),
        ("--license", !args.license.is_empty()),
        ("--sample", args.sample.is_some()),
        ("--adapter", args.adapter.is_some() && args.adapter != of_environment),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        Some((flag, _)) => {
            let remedy = format!("leave {flag} out, or take --format bioimageio");
            Err(Error::user(flag, "--format bioimageio, which alone holds it", "another format", remedy))
        }
        None => Ok(()),
    }
}

/// Writes the directory, and says what was taken for granted.
///
/// # Errors
/// Those of the weights; a user error where the directory holds a model already.
pub fn run_import(args: &ImportArgs) -> Result<()> {
    let model = import(&Import {
        weights: args.weights.clone(),
        skip: skip(args.skip.as_deref()),
        patch_px: args.patch_size,
        name: args.name.clone(),
        output_dir: args.output_dir.clone(),
    })?;
    let spec = model.net.spec();
    say(format!(
        "{}: {} input channels, base_channels {}, skip {:?}, patches of {} px, threshold {}",
        args.output_dir.display(),
        spec.in_channels,
        spec.base_channels,
        spec.skip,
        model.window_px,
        model.threshold
    ))
}
