//! The image that a package is tested with: tissue of the user, or synthetic tissue, and what the network makes of it.

use std::path::{Path, PathBuf};

use crate::config::Precision;
use crate::data::channels::Prepared;
use crate::data::sample::Sample;
use crate::data::synth::{Layout, SynthPlan, make_sample};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::inference::{Engine, EngineSettings, Image, Model, load_image};
use crate::report::Mode;
use crate::report::prediction_sheet::{Sheet, cover_png};
use crate::tape::Element;
use crate::train::ensure_sound;

/// Side of the image.
const SIDE_PX: usize = 256;
/// Side of a panel of the cover: large enough to see cells, small enough for its file.
const PANEL_PX: usize = 320;

/// An image with its probabilities.
pub(super) struct Trial {
    image: Image,
    probability: Vec<f32>,
}

impl Trial {
    /// Predicts the middle of `sample`, or of synthetic tissue.
    ///
    /// # Errors
    /// A user error where the sample cannot be read or is too small; where there is no device.
    pub fn run(model: &Model, sample: Option<&Path>, adapter: Option<&str>) -> Result<Self> {
        let image = match sample {
            Some(path) => middle(load_image(path, model.uses_intensity())?, path)?,
            None => synthetic(model.uses_intensity()),
        };
        let (height, width) = (image.planes.height, image.planes.width);
        // The network as the other formats have it: in one piece, and without the fast convolutions' rounding.
        let settings = EngineSettings {
            window_px: height,
            overlap_px: 0,
            batch_size: 1,
            all_turns: false,
            winograd: false,
            precision: Precision::F32,
        };
        assert_eq!(height, width, "one window covers a square");
        let gpu = Gpu::open(adapter)?;
        ensure_sound(&gpu, Element::F32, Mode::Plain)?;
        let engine = Engine::new(gpu, &model.net, &model.tensors, settings, Mode::Plain)?;
        let probability = engine.predict(&image, |_| ())?;
        Ok(Self { image, probability })
    }

    /// Its side.
    pub fn side_px(&self) -> usize {
        self.image.planes.height
    }

    /// The network's input [channels, side, side].
    pub fn input(&self) -> Vec<f32> {
        let planes = &self.image.planes;
        let mut all: Vec<f32> = planes.boundary.iter().chain(&planes.cells).map(|v| f32::from(*v)).collect();
        all.extend(planes.intensity.iter().flatten());
        all
    }

    /// The probabilities [side, side].
    pub fn output(&self) -> &[f32] {
        &self.probability
    }

    /// Cells and probabilities side by side, as PNG.
    ///
    /// # Errors
    /// A failure where it cannot be encoded.
    pub fn cover(&self, threshold: f64) -> Result<Vec<u8>> {
        let planes = &self.image.planes;
        let sheet = Sheet {
            name: &planes.name,
            height: planes.height,
            width: planes.width,
            boundary: &planes.boundary,
            cells: &planes.cells,
            intensity: planes.intensity.as_deref(),
            target: None,
            probability: &self.probability,
            threshold,
        };
        cover_png(&sheet, PANEL_PX)
    }
}

fn synthetic(with_intensity: bool) -> Image {
    let plan =
        SynthPlan { samples: 1, size_px: SIDE_PX, vary_size: false, seed: 6, layout: Layout::Separate };
    let tissue = make_sample(&plan, 0);
    let intensity = tissue.intensity.iter().map(|v| f32::from(*v)).collect();
    let sample = Sample {
        name: "synthetic".into(),
        path: PathBuf::new(),
        height: tissue.height,
        width: tissue.width,
        labels: tissue.labels.iter().map(|label| *label as u32).collect(),
        target: tissue.target,
        intensity: with_intensity.then_some(intensity),
    };
    Image { planes: Prepared::new(sample), has_target: true, rosettes: None }
}

/// The largest square in the middle whose side is a multiple of 16 and at most [`SIDE_PX`].
fn middle(image: Image, path: &Path) -> Result<Image> {
    let planes = image.planes;
    let side = planes.height.min(planes.width).min(SIDE_PX) / 16 * 16;
    if side == 0 {
        let found = format!("{} x {} px", planes.width, planes.height);
        let remedy = "give a larger image, or none: synthetic tissue takes its place";
        return Err(Error::user(path.display(), "an image of at least 16 x 16 px", found, remedy));
    }
    let (top, left) = ((planes.height - side) / 2, (planes.width - side) / 2);
    let places = (0..side * side).map(|at| (top + at / side) * planes.width + left + at % side);
    let cut = |plane: &[u8]| places.clone().map(|at| plane[at]).collect();
    let planes = Prepared {
        height: side,
        width: side,
        boundary: cut(&planes.boundary),
        cells: cut(&planes.cells),
        intensity: planes.intensity.as_ref().map(|plane| places.clone().map(|at| plane[at]).collect()),
        target: cut(&planes.target),
        rosette_pixels: Vec::new(),
        name: planes.name,
    };
    Ok(Image { planes, ..image })
}
