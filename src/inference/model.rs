//! A model as training left it, or bare weights with what must be known of them.

use std::path::{Path, PathBuf};

use crate::config::Skip;
use crate::error::{Error, Result};
use crate::interop::{TensorData, read_pth, read_safetensors};
use crate::model::{AttentionUNet, NamedTensor, Spec};
use crate::report::RunRecord;
use crate::train::load_weights;

/// Above this probability a pixel counts as rosette, unless the model says otherwise.
const THRESHOLD: f64 = 0.5;
/// Windows of bare weights: the pipeline's patch.
const WINDOW_PX: usize = 512;
/// Whose shape tells width and channels.
const FIRST: &str = "enc1.0.weight";

/// A network with its weights.
#[derive(Debug, Clone)]
pub struct Model {
    /// The weights' file.
    pub weights: PathBuf,
    /// What its training wrote down, where there was one.
    pub record: Option<RunRecord>,
    /// Its `config.json`, where there is one.
    pub record_path: Option<PathBuf>,
    /// The network.
    pub net: AttentionUNet,
    /// Weights and running statistics.
    pub tensors: Vec<NamedTensor>,
    /// Above this probability a pixel counts as rosette.
    pub threshold: f64,
    /// Side of the patches it was trained on.
    pub window_px: usize,
}

impl Model {
    /// Opens a run's directory (`best_model.pth` and `config.json`) or a weights file, `.pth` or `.safetensors`, with the
    /// `config.json` beside it. Without a record, `skip` must say which variant the weights are of.
    ///
    /// # Errors
    /// A user error where files are missing or damaged, where `skip` contradicts the record, and where the weights are of
    /// another network than the record's.
    pub fn open(path: &Path, skip: Option<Skip>) -> Result<Self> {
        let weights = if path.is_dir() { path.join("best_model.pth") } else { path.to_path_buf() };
        if !weights.is_file() {
            let expected = "a training's directory with its best_model.pth, or a .pth or .safetensors file";
            return Err(Error::user(weights.display(), expected, "no such file", "check --model"));
        }
        let record_path = weights.with_file_name("config.json");
        let record = if record_path.is_file() { Some(RunRecord::read(&record_path)?) } else { None };
        let spec = match &record {
            Some(record) => recorded(record, skip, &record_path)?,
            None => guessed(&weights, skip)?,
        };
        let net = AttentionUNet::new(spec);
        let (tensors, _) = load_weights(&weights, &net)?;
        let threshold = record.as_ref().and_then(|record| record.threshold).unwrap_or(THRESHOLD);
        let window_px = record.as_ref().map_or(WINDOW_PX, |record| record.model.patch_size);
        let record_path = record.is_some().then_some(record_path);
        Ok(Self { weights, record, record_path, net, tensors, threshold, window_px })
    }

    /// Whether images need their intensity.
    pub fn uses_intensity(&self) -> bool {
        self.net.spec().in_channels == 3
    }
}

fn recorded(record: &RunRecord, skip: Option<Skip>, path: &Path) -> Result<Spec> {
    if let Some(skip) = skip.filter(|skip| *skip != record.model.skip) {
        let remedy = "leave --skip out: the model was trained as its config.json says";
        let expected = format!("--skip as the model has it, {:?}", record.model.skip);
        return Err(Error::user(path.display(), expected, format!("{skip:?}"), remedy));
    }
    Ok(Spec {
        in_channels: record.experiment().input_channels(),
        base_channels: record.model.base_channels,
        skip: record.model.skip,
    })
}

/// The network that weights without a record are of.
fn guessed(weights: &Path, skip: Option<Skip>) -> Result<Spec> {
    let first = read_dict(weights)?.into_iter().find(|tensor| tensor.name == FIRST);
    let Some(skip) = skip else {
        let expected = "--skip full or --skip pooled, for weights without a config.json beside them";
        let remedy = "weights of the PyTorch pipeline are pooled; the state dict is the same for both, the function is not";
        return Err(Error::user(weights.display(), expected, "neither", remedy));
    };
    let shape = first.map(|tensor| tensor.shape).unwrap_or_default();
    match shape[..] {
        [base_channels, in_channels @ 2..=3, 3, 3] if base_channels % 8 == 0 && base_channels > 0 => {
            Ok(Spec { in_channels, base_channels, skip })
        }
        _ => {
            let place = format!("{}: tensor '{FIRST}'", weights.display());
            let expected = "shape [a multiple of 8, 2 or 3, 3, 3], as the Attention U-Net has";
            let found = if shape.is_empty() { "no such tensor".into() } else { format!("{shape:?}") };
            Err(Error::user(place, expected, found, "give weights of this network"))
        }
    }
}

fn read_dict(path: &Path) -> Result<Vec<TensorData>> {
    match path.extension().is_some_and(|extension| extension == "safetensors") {
        true => read_safetensors(path),
        false => read_pth(path),
    }
}
