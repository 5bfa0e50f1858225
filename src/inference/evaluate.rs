//! How good a model is: by pixel, by rosette and, where wanted, by outline, for each image and for all together.

use std::path::Path;

use serde::Serialize;

use super::evaluation_page::{Evaluated, Worst};
use super::input::Image;
use super::objects::{ObjectScores, components, drop_small, match_objects};
use super::predict::{Inputs, Predictor};
use super::scores::{PixelScores, average_precision};
use super::surface::{SurfaceScores, surface_scores};
use super::sweep::Sweep;
use crate::error::{Error, Result};
use crate::files;
use crate::report::progress::Work;

/// A row of `evaluation.csv`; the last is of all images together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvaluationRow {
    /// The image, or `all`.
    pub sample: String,
    /// Intersection over union of the pixels.
    pub iou: f64,
    /// F1 of the pixels.
    pub f1: f64,
    /// Precision of the pixels.
    pub precision: f64,
    /// Recall of the pixels.
    pub recall: f64,
    /// Average precision of the pixels; none without a rosette.
    pub average_precision: Option<f64>,
    /// Rosettes found: an intersection over union above one half.
    pub rosettes_found: usize,
    /// Predicted where there is none.
    pub rosettes_false: usize,
    /// Rosettes missed.
    pub rosettes_missed: usize,
    /// Precision of rosettes.
    pub rosette_precision: f64,
    /// Recall of rosettes.
    pub rosette_recall: f64,
    /// F1 of rosettes.
    pub rosette_f1: f64,
    /// Panoptic quality.
    pub panoptic_quality: f64,
    /// 95th percentile of the outlines' distances in px; for all images, the mean.
    pub hausdorff95: Option<f64>,
    /// Share of the outlines within 2 px; for all images, the mean.
    pub surface_dice: Option<f64>,
}

/// An image with what was predicted for it.
struct Scored {
    name: String,
    pixels: PixelScores,
    objects: ObjectScores,
    average_precision: Option<f64>,
    surface: Option<SurfaceScores>,
}

/// What is scored beside the pixels.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Scoring {
    /// The outlines' distances as well.
    pub surface: bool,
    /// Rosettes of the truth and of the prediction with fewer pixels do not count as rosettes.
    pub min_object_px: usize,
}

/// Predicts every image and scores it against its target; writes `evaluation.csv` and `evaluation.html`.
///
/// # Errors
/// A user error where an image has no target, where an input is wrong, or an output cannot be written.
pub fn evaluate(
    predictor: &Predictor,
    inputs: &Inputs,
    output_dir: &Path,
    scoring: Scoring,
) -> Result<Vec<EvaluationRow>> {
    let mut all: (Vec<f32>, Vec<u8>) = Default::default();
    let mut scored: Vec<Scored> = Vec::new();
    let (mut worst, mut sweep) = (Worst::default(), Sweep::default());
    let threshold = for_each(predictor, inputs, |image, probability, threshold| {
        let score = score(image, probability, threshold, scoring);
        worst.offer(score.pixels.f1(), image, probability, threshold)?;
        sweep.add(probability, &image.planes.target);
        scored.push(score);
        all.0.extend(probability);
        all.1.extend(&image.planes.target);
        Ok(())
    })?;
    let mut rows: Vec<EvaluationRow> = scored.iter().map(Scored::row).collect();
    rows.push(pooled(&scored, average_precision(&all.0, &all.1)));
    let mut writer = csv::Writer::from_writer(Vec::new());
    rows.iter().for_each(|row| writer.serialize(row).expect("numbers and text into memory"));
    files::write_atomic(&output_dir.join("evaluation.csv"), &writer.into_inner().expect("into memory"))?;
    let evaluated = Evaluated { models: &predictor.models, rows: &rows, threshold, scoring, sweep, worst };
    evaluated.page().write(&output_dir.join("evaluation.html"))?;
    Ok(rows)
}

/// Predicts every image and adds it to a sweep over thresholds.
///
/// # Errors
/// As [`evaluate`].
pub fn sweep(predictor: &Predictor, inputs: &Inputs) -> Result<Sweep> {
    let mut sweep = Sweep::default();
    for_each(predictor, inputs, |image, probability, _| {
        sweep.add(probability, &image.planes.target);
        Ok(())
    })?;
    Ok(sweep)
}

/// Calls `take` with each image, its probabilities and the threshold, which is returned.
fn for_each(
    predictor: &Predictor,
    inputs: &Inputs,
    mut take: impl FnMut(&Image, &[f32], f64) -> Result<()>,
) -> Result<f64> {
    inputs.check()?;
    let ensemble = predictor.open()?;
    let mut work = Work::new(predictor.mode, inputs.len(), "windows");
    for index in 0..inputs.len() {
        let image = inputs.load(index, ensemble.uses_intensity())?;
        if !image.has_target {
            let expected = "an image with its target, 'rosettes_binary'";
            let remedy = "use `rosette predict` for images whose truth is not known";
            return Err(Error::user(&image.planes.name, expected, "none", remedy));
        }
        work.started(&image.planes.name, ensemble.windows(&image));
        let probability = ensemble.predict(&image, |count| work.advance(count))?;
        let f1 = PixelScores::count(&probability, &image.planes.target, ensemble.threshold).f1();
        work.finished(&format!("{}: F1 {f1:.4}", image.planes.name));
        take(&image, &probability, ensemble.threshold)?;
    }
    Ok(ensemble.threshold)
}

fn score(image: &Image, probability: &[f32], threshold: f64, scoring: Scoring) -> Scored {
    let planes = &image.planes;
    let (height, width) = (planes.height, planes.width);
    let predicted: Vec<bool> = probability.iter().map(|p| f64::from(*p) > threshold).collect();
    let target: Vec<bool> = planes.target.iter().map(|t| *t > 0).collect();
    let mut truth = image.rosettes.clone().unwrap_or_else(|| components(&target, height, width));
    let mut found = components(&predicted, height, width);
    [&mut truth, &mut found].into_iter().for_each(|labels| drop_small(labels, scoring.min_object_px));
    Scored {
        name: planes.name.clone(),
        pixels: PixelScores::count(probability, &planes.target, threshold),
        objects: match_objects(&found, &truth),
        average_precision: average_precision(probability, &planes.target),
        surface: if scoring.surface { surface_scores(&predicted, &target, height, width) } else { None },
    }
}

impl Scored {
    fn row(&self) -> EvaluationRow {
        let (pixels, objects) = (&self.pixels, &self.objects);
        EvaluationRow {
            sample: self.name.clone(),
            iou: pixels.iou(),
            f1: pixels.f1(),
            precision: pixels.precision(),
            recall: pixels.recall(),
            average_precision: self.average_precision,
            rosettes_found: objects.found,
            rosettes_false: objects.false_alarms,
            rosettes_missed: objects.missed,
            rosette_precision: objects.precision(),
            rosette_recall: objects.recall(),
            rosette_f1: objects.f1(),
            panoptic_quality: objects.panoptic_quality(),
            hausdorff95: self.surface.map(|surface| surface.hausdorff95),
            surface_dice: self.surface.map(|surface| surface.surface_dice),
        }
    }
}

fn pooled(all: &[Scored], average_precision: Option<f64>) -> EvaluationRow {
    let surfaces: Vec<SurfaceScores> = all.iter().filter_map(|scored| scored.surface).collect();
    let mean = |of: fn(&SurfaceScores) -> f64| surfaces.iter().map(of).sum::<f64>() / surfaces.len() as f64;
    let surface = (!surfaces.is_empty()).then(|| SurfaceScores {
        hausdorff95: mean(|s| s.hausdorff95),
        surface_dice: mean(|s| s.surface_dice),
    });
    let scored = Scored {
        name: "all".into(),
        pixels: PixelScores::pooled(all.iter().map(|scored| &scored.pixels)),
        objects: ObjectScores::pooled(all.iter().map(|scored| &scored.objects)),
        average_precision,
        surface,
    };
    scored.row()
}
