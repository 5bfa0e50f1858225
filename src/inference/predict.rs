//! Prediction of many images: files, pictures and a table of scores.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use serde::Serialize;

use super::engine::{Engine, EngineSettings};
use super::input::{Image, check_sample, image_name, load_image, load_sample};
use super::model::Model;
use super::scores::PixelScores;
use crate::config::{Precision, Skip};
use crate::data::hdf5::{Attribute, Plane, encode};
use crate::error::{Error, Result};
use crate::files;
use crate::gpu::Gpu;
use crate::report::Mode;
use crate::report::prediction_sheet::{Sheet, write_sheet};
use crate::report::progress::Work;
use crate::train::{element_of, ensure_sound};

/// Where images come from.
#[derive(Debug, Clone)]
pub enum Inputs {
    /// Samples of a data directory.
    Samples {
        /// `DIR/SAMPLE/processed_data_SAMPLE.h5`
        data_dir: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// Single files.
    Files(Vec<PathBuf>),
}

/// How images become probabilities.
#[derive(Debug, Clone)]
pub struct Predictor {
    /// Models whose probabilities are averaged; at least one.
    pub models: Vec<PathBuf>,
    /// The skip variant of weights without a record.
    pub skip: Option<Skip>,
    /// Side of the windows; that of the training patches where there is none.
    pub window_px: Option<usize>,
    /// Overlap of the windows: a share of their side below 1, else pixels.
    pub overlap: f64,
    /// Averages all flips and turns.
    pub all_turns: bool,
    /// In place of the model's own.
    pub threshold: Option<f64>,
    /// Windows at once.
    pub batch_size: usize,
    /// How activations are stored.
    pub precision: Precision,
    /// Number or name of the adapter.
    pub adapter: Option<String>,
    /// How progress is shown.
    pub mode: Mode,
}

/// Models on the device.
pub struct Ensemble {
    /// The models.
    pub models: Vec<Model>,
    engines: Vec<Engine>,
    settings: EngineSettings,
    /// Above this probability a pixel counts as rosette.
    pub threshold: f64,
}

impl Inputs {
    /// How many images there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Samples { names, .. } => names.len(),
            Self::Files(files) => files.len(),
        }
    }

    /// There is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What they are called, in order.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Samples { names, .. } => names.clone(),
            Self::Files(files) => files.iter().map(|path| image_name(path)).collect(),
        }
    }

    /// Looks for all of them before the first is worked on.
    ///
    /// # Errors
    /// A user error where one is not there, and where two have one name.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Samples { data_dir, names } => {
                names.iter().try_for_each(|name| check_sample(data_dir, name))?;
            }
            Self::Files(files) => files.iter().try_for_each(|path| {
                let found = std::fs::metadata(path).map_err(|e| Error::io(path, "a file to read", &e));
                found.map(|_| ())
            })?,
        }
        let names = self.names();
        let Some(at) = (1..names.len()).find(|at| names[..*at].contains(&names[*at])) else {
            return Ok(());
        };
        let remedy = match self {
            Self::Samples { .. } => "name it once",
            Self::Files(_) => "rename one: their outputs would be the same file",
        };
        let expected = "a name of its own for every image";
        Err(Error::user(&names[at], expected, "the same name again", remedy))
    }

    /// Loads one of them.
    ///
    /// # Errors
    /// A user error where it cannot be read.
    pub fn load(&self, index: usize, with_intensity: bool) -> Result<Image> {
        match self {
            Self::Samples { data_dir, names } => load_sample(data_dir, &names[index], with_intensity),
            Self::Files(files) => load_image(&files[index], with_intensity),
        }
    }
}

impl Predictor {
    /// Opens the models and loads them onto the device.
    ///
    /// # Errors
    /// A user error where a model cannot be opened, where models want different channels, or where a window is
    /// impossible.
    pub fn open(&self) -> Result<Ensemble> {
        let models: Vec<Model> =
            self.models.iter().map(|path| Model::open(path, self.skip)).collect::<Result<_>>()?;
        let first = &models[0];
        if let Some(other) = models.iter().find(|model| model.uses_intensity() != first.uses_intensity()) {
            let expected =
                format!("{} input channels, as {}", first.net.spec().in_channels, first.weights.display());
            let found = other.net.spec().in_channels;
            return Err(Error::user(other.weights.display(), expected, found, "average models of one kind"));
        }
        let window_px = self.window_px.unwrap_or(first.window_px);
        let overlap_px = if self.overlap < 1.0 {
            (self.overlap * window_px as f64).round() as usize
        } else {
            self.overlap as usize
        };
        let settings = EngineSettings {
            window_px,
            overlap_px,
            batch_size: self.batch_size.max(1),
            all_turns: self.all_turns,
            winograd: first.record.as_ref().is_none_or(|record| record.training.winograd),
            precision: self.precision,
        };
        let mut is_first = true;
        let engine = |model: &Model| {
            let gpu = Gpu::open(self.adapter.as_deref())?;
            if std::mem::take(&mut is_first) {
                ensure_sound(&gpu, element_of(self.precision, gpu.limits()), self.mode)?;
            }
            Engine::new(gpu, &model.net, &model.tensors, settings, self.mode)
        };
        let engines = models.iter().map(engine).collect::<Result<_>>()?;
        let threshold = self.threshold.unwrap_or(first.threshold);
        Ok(Ensemble { models, engines, settings, threshold })
    }
}

impl Ensemble {
    /// Whether images need their intensity.
    pub fn uses_intensity(&self) -> bool {
        self.models[0].uses_intensity()
    }

    /// Windows that an image takes.
    pub fn windows(&self, image: &Image) -> usize {
        let one = |engine: &Engine| engine.windows(image.planes.height, image.planes.width);
        self.engines.iter().map(one).sum()
    }

    /// The mean probability of all models at each pixel [height * width].
    ///
    /// # Errors
    /// Where the device was lost.
    pub fn predict(&self, image: &Image, mut advance: impl FnMut(usize)) -> Result<Vec<f32>> {
        let mut sum = vec![0.0; image.planes.height * image.planes.width];
        for engine in &self.engines {
            let one = engine.predict(image, &mut advance)?;
            sum.iter_mut().zip(one).for_each(|(sum, one)| *sum += one);
        }
        let count = self.engines.len() as f32;
        sum.iter_mut().for_each(|sum| *sum /= count);
        Ok(sum)
    }
}

/// A row of `inference_metrics.csv`; scores are absent where the image has no target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PredictionRow {
    /// The image.
    pub sample: String,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Above this probability a pixel counts as rosette.
    pub threshold: f64,
    /// Share of the pixels that do.
    pub predicted_share: f64,
    /// Intersection over union.
    pub iou: Option<f64>,
    /// F1.
    pub f1: Option<f64>,
    /// Precision.
    pub precision: Option<f64>,
    /// Recall.
    pub recall: Option<f64>,
    /// Windows that were run.
    pub windows: usize,
    /// Time for them.
    pub seconds: f64,
}

/// Predicts every image into `output_dir`: `predictions_<sample>.h5`, a picture where `pictures` are wanted, and
/// `inference_metrics.csv`. The next image is read, and those before are written, while the device works on one: compressing and
/// drawing take a processor longer than the windows take a GPU.
///
/// # Errors
/// A user error where an image is not there or two have one name, before the first is predicted; where an image or a model
/// is wrong, or an output cannot be written, what was finished before stays.
pub fn predict_all(
    predictor: &Predictor,
    inputs: &Inputs,
    output_dir: &Path,
    pictures: bool,
) -> Result<Vec<PredictionRow>> {
    inputs.check()?;
    let ensemble = &predictor.open()?;
    let mut work = Work::new(predictor.mode, inputs.len(), "windows");
    let mut table = Table { path: output_dir.join("inference_metrics.csv"), rows: Vec::new() };
    std::thread::scope(|scope| {
        let (sender, images) = sync_channel(0);
        scope.spawn(move || {
            let load = |index| inputs.load(index, ensemble.uses_intensity());
            // Until one of them was wrong, and nobody listens any more.
            (0..inputs.len()).map(load).all(|image| sender.send(image).is_ok());
        });
        let mut writing: VecDeque<Writing<'_>> = VecDeque::new();
        let predicted = images.into_iter().try_for_each(|image: Result<Image>| {
            let image = image?;
            let windows = ensemble.windows(&image);
            work.started(&image.planes.name, windows);
            let started = Instant::now();
            let probability = ensemble.predict(&image, |count| work.advance(count))?;
            work.worked();
            let seconds = started.elapsed().as_secs_f64();
            let pixels = probability.len();
            while !has_room(&writing, pixels) {
                let first = writing.pop_front().expect("there is room where nothing is written");
                table.add(first.thread, &mut work)?;
            }
            let thread = scope.spawn(move || {
                let row = row(&image, &probability, ensemble, windows, seconds);
                write(output_dir, pictures, &image, &probability, ensemble).map(|()| row)
            });
            writing.push_back(Writing { thread, pixels });
            Ok(())
        });
        let written = writing.into_iter().map(|writing| table.add(writing.thread, &mut work));
        written.fold(predicted, Result::and)
    })?;
    Ok(table.rows)
}

/// An image whose outputs are being written.
struct Writing<'scope> {
    thread: ScopedJoinHandle<'scope, Result<PredictionRow>>,
    pixels: usize,
}

/// Whether one more image may be written beside these: every one has a processor and takes some ten bytes a pixel.
fn has_room(writing: &VecDeque<Writing<'_>>, pixels: usize) -> bool {
    const MOST_PIXELS: usize = 100 << 20;
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let all: usize = writing.iter().map(|writing| writing.pixels).sum();
    writing.is_empty() || writing.len() < most && all + pixels <= MOST_PIXELS
}

/// `inference_metrics.csv` with the images that are done.
struct Table {
    path: PathBuf,
    rows: Vec<PredictionRow>,
}

impl Table {
    /// Waits for an image's outputs, and adds its row.
    fn add(&mut self, image: ScopedJoinHandle<'_, Result<PredictionRow>>, work: &mut Work) -> Result<()> {
        let row = image.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let score = row.f1.map_or(String::new(), |f1| format!(", F1 {f1:.4}"));
        let speed = (row.height * row.width) as f64 / row.seconds / 1e6;
        let PredictionRow { sample, windows, seconds, .. } = &row;
        work.told(&format!("{sample}: {windows} windows, {seconds:.1} s, {speed:.2} Mpx/s{score}"));
        self.rows.push(row);
        let mut writer = csv::Writer::from_writer(Vec::new());
        self.rows.iter().for_each(|row| writer.serialize(row).expect("numbers and text into memory"));
        files::write_atomic(&self.path, &writer.into_inner().expect("into memory"))
    }
}

/// Writes what there is of one image.
fn write(
    output_dir: &Path,
    pictures: bool,
    image: &Image,
    probability: &[f32],
    ensemble: &Ensemble,
) -> Result<()> {
    let name = &image.planes.name;
    write_hdf5(&output_dir.join(format!("predictions_{name}.h5")), image, probability, ensemble)?;
    if !pictures {
        return Ok(());
    }
    let sheet = Sheet {
        name,
        height: image.planes.height,
        width: image.planes.width,
        boundary: &image.planes.boundary,
        cells: &image.planes.cells,
        intensity: image.planes.intensity.as_deref(),
        target: image.has_target.then_some(&image.planes.target[..]),
        probability,
        threshold: ensemble.threshold,
    };
    write_sheet(&output_dir.join(format!("predictions_{name}.png")), &sheet)
}

fn row(
    image: &Image,
    probability: &[f32],
    ensemble: &Ensemble,
    windows: usize,
    seconds: f64,
) -> PredictionRow {
    let scores = PixelScores::count(probability, &image.planes.target, ensemble.threshold);
    let scored = |of: fn(&PixelScores) -> f64| image.has_target.then(|| of(&scores));
    PredictionRow {
        sample: image.planes.name.clone(),
        height: image.planes.height,
        width: image.planes.width,
        threshold: ensemble.threshold,
        predicted_share: (scores.hits + scores.false_alarms) as f64 / probability.len() as f64,
        iou: scored(PixelScores::iou),
        f1: scored(PixelScores::f1),
        precision: scored(PixelScores::precision),
        recall: scored(PixelScores::recall),
        windows,
        seconds,
    }
}

fn write_hdf5(path: &Path, image: &Image, probability: &[f32], ensemble: &Ensemble) -> Result<()> {
    let models: Vec<String> =
        ensemble.models.iter().map(|model| model.weights.display().to_string()).collect();
    let models = models.join(", ");
    let approach = if ensemble.uses_intensity() { "attention_intensity" } else { "attention_geometric" };
    let attributes = [
        ("sample", Attribute::Text(&image.planes.name)),
        ("model", Attribute::Text(&models)),
        ("approach", Attribute::Text(approach)),
        ("threshold", Attribute::Number(ensemble.threshold)),
        ("window", Attribute::Integer(ensemble.settings.window_px as i64)),
        ("overlap", Attribute::Integer(ensemble.settings.overlap_px as i64)),
        ("flips_and_turns", Attribute::Integer(i64::from(ensemble.settings.all_turns))),
        ("version", Attribute::Text(concat!("rosette ", env!("CARGO_PKG_VERSION")))),
    ];
    let shape = [image.planes.height, image.planes.width];
    let bytes = encode(&[("predictions", &shape, Plane::F32(probability))], &attributes)?;
    files::write_atomic(path, &bytes)
}
