//! `rosette predict`, `rosette evaluate`, `rosette threshold`: a trained model at work.

use std::path::PathBuf;

use super::exchange::skip;
use super::say;
use crate::config::Precision;
use crate::data::sample::discover;
use crate::data::split::Manifest;
use crate::error::{Error, Result};
use crate::inference::{EvaluationRow, Inputs, Model, Predictor, Scoring, evaluate, predict_all, sweep};
use crate::report::progress::print_line;
use crate::report::{Mode, RunRecord, plots};

/// What all three take.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// A training's directory, or a weights file (.pth of PyTorch, too, or .safetensors); of several, the mean.
    #[arg(long, value_name = "PATH", required = true)]
    pub model: Vec<PathBuf>,
    /// Where the skips are taken, for weights without a config.json beside them: full or pooled.
    #[arg(long, value_name = "VARIANT", value_parser = ["full", "pooled"])]
    pub skip: Option<String>,
    /// Side of the windows that an image is cut into; that of the training patches where it is not given.
    #[arg(long, value_name = "PX")]
    pub window: Option<usize>,
    /// Overlap of the windows: a share of their side below 1, or pixels.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, allow_negative_numbers = true)]
    pub overlap: f64,
    /// Average the predictions of all flips and turns: eight times the work for a little accuracy.
    #[arg(long)]
    pub tta: bool,
    /// Probability above which a pixel counts as rosette, in place of the model's own.
    #[arg(long, value_name = "PROBABILITY", allow_negative_numbers = true)]
    pub threshold: Option<f64>,
    /// Windows at once.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub batch_size: u16,
    /// How activations are stored: f32, f16 for less memory and time on GPUs, or auto for f16 where it gains.
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = ["f32", "f16", "auto"])]
    pub precision: String,
    /// Number or part of the name of the adapter (see `rosette devices`).
    #[arg(long, env = "ROSETTE_ADAPTER", value_name = "ADAPTER")]
    pub adapter: Option<String>,
    /// No progress.
    #[arg(long)]
    pub quiet: bool,
}

/// Which images.
#[derive(Debug, Clone, clap::Args)]
pub struct InputArgs {
    /// Directory of samples: `DIR/SAMPLE/processed_data_SAMPLE.h5`.
    #[arg(long, value_name = "DIR", required_unless_present = "input")]
    pub data_dir: Option<PathBuf>,
    /// Samples of --data-dir; where none is named, all, or for `threshold` those the model was validated on, if it knows.
    #[arg(long, value_name = "NAME", num_args = 1.., conflicts_with = "split_manifest")]
    pub samples: Vec<String>,
    /// The validation samples of this manifest, in --data-dir.
    #[arg(long, value_name = "FILE", conflicts_with = "input")]
    pub split_manifest: Option<PathBuf>,
    /// Files instead: samples (.h5), or images of cell labels (.png, .tif).
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["data_dir", "samples"])]
    pub input: Vec<PathBuf>,
}

/// Predict where rosettes are, in images of any size.
#[derive(Debug, Clone, clap::Args)]
pub struct PredictArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The images.
    #[command(flatten)]
    pub input: InputArgs,
    /// Where predictions, pictures and inference_metrics.csv go.
    #[arg(long, value_name = "DIR")]
    pub output_dir: PathBuf,
    /// No pictures.
    #[arg(long)]
    pub no_pictures: bool,
}

/// Score a model against the truth: by pixel, by rosette, by outline.
#[derive(Debug, Clone, clap::Args)]
pub struct EvaluateArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The images.
    #[command(flatten)]
    pub input: InputArgs,
    /// Where evaluation.csv and evaluation.html go.
    #[arg(long, value_name = "DIR")]
    pub output_dir: PathBuf,
    /// Hausdorff distance and Dice of the outlines as well.
    #[arg(long)]
    pub surface: bool,
    /// Rosettes, true and predicted ones, of fewer pixels do not count as rosettes; pixels are scored all the same.
    #[arg(long, value_name = "PX", default_value_t = 0)]
    pub min_object: usize,
}

/// Find the threshold of the highest F1 on the validation samples, and write it into the model's config.json.
#[derive(Debug, Clone, clap::Args)]
pub struct ThresholdArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The images.
    #[command(flatten)]
    pub input: InputArgs,
}

impl ModelArgs {
    fn predictor(&self) -> Result<Predictor> {
        if let Some(threshold) = self.threshold.filter(|t| !(0.0..=1.0).contains(t)) {
            return Err(Error::user("--threshold", "a probability from 0 to 1", threshold, "0.5 is usual"));
        }
        if !(0.0..1e6).contains(&self.overlap) {
            let expected = "a share of the window below 1, or pixels";
            return Err(Error::user("--overlap", expected, self.overlap, "0.5 is usual"));
        }
        Ok(Predictor {
            models: self.model.clone(),
            skip: skip(self.skip.as_deref()),
            window_px: self.window,
            overlap: self.overlap,
            all_turns: self.tta,
            threshold: self.threshold,
            batch_size: usize::from(self.batch_size),
            precision: match self.precision.as_str() {
                "f16" => Precision::F16,
                "auto" => Precision::Auto,
                _ => Precision::F32,
            },
            adapter: self.adapter.clone(),
            mode: Mode::detect(self.quiet),
        })
    }
}

impl InputArgs {
    fn inputs(&self) -> Result<Inputs> {
        self.inputs_or(&[])
    }

    /// The images; of a data directory of which none is named, those of `usual`, or all where that names none.
    fn inputs_or(&self, usual: &[String]) -> Result<Inputs> {
        let Some(data_dir) = &self.data_dir else { return Ok(Inputs::Files(self.input.clone())) };
        let names = match &self.split_manifest {
            Some(manifest) => Manifest::read(manifest)?.val_sample_list,
            None if self.samples.is_empty() && !usual.is_empty() => usual.to_vec(),
            None if self.samples.is_empty() => discover(data_dir)?,
            None => self.samples.clone(),
        };
        Ok(Inputs::Samples { data_dir: data_dir.clone(), names })
    }
}

/// Predicts, and says where the results are.
///
/// # Errors
/// Those of the models and the images.
pub fn predict(args: &PredictArgs) -> Result<()> {
    let (predictor, inputs) = (args.model.predictor()?, args.input.inputs()?);
    let rows = predict_all(&predictor, &inputs, &args.output_dir, !args.no_pictures)?;
    say(format!("{} images: {}", rows.len(), args.output_dir.display()))
}

/// Evaluates, and prints the scores of all images together.
///
/// # Errors
/// Those of the models and the images.
pub fn run_evaluate(args: &EvaluateArgs) -> Result<()> {
    let (predictor, inputs) = (args.model.predictor()?, args.input.inputs()?);
    let scoring = Scoring { surface: args.surface, min_object_px: args.min_object };
    let rows = evaluate(&predictor, &inputs, &args.output_dir, scoring)?;
    let all: &EvaluationRow = rows.last().expect("the row of all images");
    say(format!(
        "pixels: F1 {:.4}, IoU {:.4}, precision {:.4}, recall {:.4}\n\
         rosettes: {} found, {} false, {} missed; F1 {:.4}, panoptic quality {:.4}\n{}",
        all.f1,
        all.iou,
        all.precision,
        all.recall,
        all.rosettes_found,
        all.rosettes_false,
        all.rosettes_missed,
        all.rosette_f1,
        all.panoptic_quality,
        args.output_dir.join("evaluation.html").display()
    ))
}

/// The images of `rosette threshold`: those that the model was validated on, where none is named. Says so, and warns of
/// those that the model has learnt from.
fn threshold_inputs(args: &ThresholdArgs, record: &RunRecord) -> Result<Inputs> {
    let (given, usual) = (&args.input, &record.val_sample_list);
    let inputs = given.inputs_or(usual)?;
    let is_usual = given.data_dir.is_some() && given.split_manifest.is_none() && given.samples.is_empty();
    if is_usual && !usual.is_empty() && Mode::detect(args.model.quiet).is_for_people() {
        print_line(&format!("the samples that the model was validated on: {}", usual.join(", ")));
    }
    let mut learnt = inputs.names();
    learnt.retain(|name| record.train_sample_list.contains(name));
    if !learnt.is_empty() {
        let which = learnt.join(", ");
        print_line(&format!(
            "warning: the model was trained on {which}: the threshold will suit them too well"
        ));
    }
    Ok(inputs)
}

/// Sweeps the threshold, draws the curves and writes the best into the record.
///
/// # Errors
/// Those of the models and the images; a user error where the model has no record to write into, where a threshold is
/// given, and where no pixel of the images is a rosette's.
pub fn threshold(args: &ThresholdArgs) -> Result<()> {
    if let Some(given) = args.model.threshold {
        let remedy = "leave --threshold out: this command finds it";
        return Err(Error::user("--threshold", "none for `rosette threshold`", given, remedy));
    }
    let predictor = args.model.predictor()?;
    let model = Model::open(&args.model.model[0], predictor.skip)?;
    let (Some(mut record), Some(record_path), 1) = (model.record, model.record_path, args.model.model.len())
    else {
        let expected = "one model with its config.json, which the threshold is written into";
        let remedy = "give a training's directory, or `rosette import` the weights first";
        return Err(Error::user("--model", expected, "bare weights, or several models", remedy));
    };
    let inputs = threshold_inputs(args, &record)?;
    let sweep = sweep(&predictor, &inputs)?;
    if sweep.rosette_pixels() == 0 {
        let remedy = "give samples with rosettes: without one no threshold is better than another";
        return Err(Error::user(
            inputs.names().join(", "),
            "a pixel of a rosette in the target",
            "none",
            remedy,
        ));
    }
    let (best, dir) = (sweep.best(), record_path.with_file_name(""));
    let curve: Vec<[f64; 4]> = sweep
        .rows()
        .iter()
        .map(|row| [row.threshold, row.scores.precision(), row.scores.recall(), row.scores.f1()])
        .collect();
    plots::write_threshold_plots(
        &dir.join("threshold_plots.png"),
        &record.experiment_name,
        &curve,
        best.threshold,
    )?;
    plots::write_threshold_table(&dir.join("threshold.csv"), &curve)?;
    record.threshold = Some(best.threshold);
    record.write(&record_path)?;
    say(format!(
        "threshold {}: F1 {:.4}, precision {:.4}, recall {:.4}; written into {}",
        best.threshold,
        best.scores.f1(),
        best.scores.precision(),
        best.scores.recall(),
        record_path.display()
    ))
}
