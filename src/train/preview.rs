//! Pictures to look at before a training: whole samples with their rosettes, and patches as training will see them.

use std::path::{Path, PathBuf};

use crate::config::Experiment;
use crate::data::augment::{Place, draw_patch, smoothing_weights};
use crate::data::channels::Prepared;
use crate::data::loader::Dataset;
use crate::data::patches::draw_crop;
use crate::data::residency::pack;
use crate::error::Result;
use crate::ops::warp::{self, Reference};
use crate::report::contact_sheet::{Panel, write_contact_sheet};

/// Samples in a row of their sheet.
const SAMPLES_A_ROW: usize = 5;

/// What is shown.
#[derive(Debug, Clone)]
pub struct Preview {
    /// Whose patches and augmentation.
    pub experiment: Experiment,
    /// Where the samples lie.
    pub data_dir: PathBuf,
    /// Which of them.
    pub samples: Vec<String>,
    /// Augmented patches of each.
    pub draws: usize,
    /// Where the pictures go.
    pub output_dir: PathBuf,
}

/// Writes `samples.png` (each sample in full) and `patches.png` (a row for each sample: a plain crop, then patches drawn
/// and warped as training does it), and returns their paths.
///
/// # Errors
/// A user error where a sample cannot be read or a picture cannot be written.
pub fn preview(plan: &Preview) -> Result<[PathBuf; 2]> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let use_intensity = plan.experiment.model.use_intensity;
    let dataset = Dataset::load(&plan.data_dir, &plan.samples, use_intensity, threads)?;
    let paths = ["samples.png", "patches.png"].map(|name| plan.output_dir.join(name));
    write_samples(&paths[0], dataset.samples())?;
    let rows = std::thread::scope(|scope| {
        let work = |(index, image)| scope.spawn(move || patches(plan, index, image));
        let workers: Vec<_> = dataset.samples().iter().enumerate().map(work).collect();
        workers.into_iter().map(|worker| worker.join().expect("patches are drawn")).collect::<Vec<_>>()
    });
    let side = plan.experiment.model.patch_size;
    let title =
        format!("Patches of {side} px in experiment '{}': plain, then augmented", plan.experiment.name);
    write_contact_sheet(&paths[1], &title, &rows.concat(), 1 + plan.draws)?;
    Ok(paths)
}

fn write_samples(path: &Path, samples: &[Prepared]) -> Result<()> {
    let panel = |image: &Prepared| {
        let share = image.rosette_pixels.len() as f64 / image.target.len() as f64 * 100.0;
        let pixel = |at: usize| {
            let intensity = image.intensity.as_ref().map(|plane| plane[at]);
            (f32::from(image.boundary[at]), f32::from(image.cells[at]), intensity)
        };
        Panel {
            caption: format!(
                "{}  {} x {}, {share:.1} % rosette",
                short(&image.name),
                image.width,
                image.height
            ),
            height: image.height,
            width: image.width,
            channels: (0..image.target.len()).map(pixel).collect(),
            target: image.target.iter().map(|t| *t > 0).collect(),
        }
    };
    let panels: Vec<Panel> = samples.iter().map(panel).collect();
    write_contact_sheet(path, "Samples, with their rosettes in green", &panels, SAMPLES_A_ROW)
}

/// The plain crop of a sample's first patch, then the first patches of epoch 1.
fn patches(plan: &Preview, index: usize, image: &Prepared) -> Vec<Panel> {
    let (training, side) = (&plan.experiment.training, plan.experiment.model.patch_size);
    let seed = u64::from(training.seed);
    let (words, place) = (pack(image), Place { chunk: 0, first_word: 0 });
    let weights = smoothing_weights(&training.augmentation, side).unwrap_or_default();
    let show = |draw: usize, is_plain: bool| {
        let numbers = [1, index as u64, draw as u64];
        let crop = draw_crop(image, side, training.foreground_share, seed, numbers);
        let mut patch = draw_patch(image, place, crop, side, &training.augmentation, seed, numbers);
        let mut caption = format!("patch {}", draw + 1);
        if is_plain {
            patch = warp::Patch::plain(&patch, crop.top, crop.left, side);
            caption = format!("{}, plain", short(&image.name));
        }
        panel(caption, warp::reference(&patch, &words, &weights, side), side, image.intensity.is_some())
    };
    std::iter::once(show(0, true)).chain((0..plan.draws).map(|draw| show(draw, false))).collect()
}

fn panel(caption: String, made: Reference, side: usize, has_intensity: bool) -> Panel {
    let channels = made.x.chunks(4).map(|p| (p[0] as f32, p[1] as f32, has_intensity.then_some(p[2] as f32)));
    let target = made.y.iter().map(|y| *y > 0.0).collect();
    Panel { caption, height: side, width: side, channels: channels.collect(), target }
}

fn short(name: &str) -> String {
    name.chars().take(18).collect()
}
