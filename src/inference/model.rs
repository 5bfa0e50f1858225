//! A model as training left it, or bare weights with what must be known of them.

use std::path::{Path, PathBuf};

use crate::config::{Experiment, ModelConfig, Skip, TrainingConfig};
use crate::error::{Error, Result};
use crate::interop::{TensorData, is_safetensors, read_pth, read_safetensors_with};
use crate::model::{AttentionUNet, NamedTensor, Spec};
use crate::report::RunRecord;
use crate::train::{find_record, load_weights, weights_file};

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
    /// What its training wrote down, where there was one: the `config.json` beside the weights, or the same text within
    /// a safetensors file.
    pub record: Option<RunRecord>,
    /// Its `config.json`, where there is one.
    pub record_path: Option<PathBuf>,
    /// The network.
    pub net: AttentionUNet,
    /// Weights and running statistics.
    pub tensors: Vec<NamedTensor>,
    /// Batches that the running statistics have seen.
    pub batches_tracked: u64,
    /// Above this probability a pixel counts as rosette.
    pub threshold: f64,
    /// Side of the patches it was trained on.
    pub window_px: usize,
}

impl Model {
    /// Opens a run's directory (`best_model.pth` and `config.json`) or a weights file, `.pth` or `.safetensors`, with the
    /// record in it or the `config.json` beside it. Without a record, `skip` must say which variant the weights are of.
    ///
    /// # Errors
    /// A user error where files are missing or damaged, where `skip` contradicts the record, where the weights are of
    /// another network than the record's, and where the `config.json` beside them is that of other weights.
    pub fn open(path: &Path, skip: Option<Skip>) -> Result<Self> {
        let weights = weights_file(path);
        if !weights.is_file() {
            let expected = "a training's directory with its best_model.pth, or a .pth or .safetensors file";
            return Err(Error::user(weights.display(), expected, "no such file", "check --model"));
        }
        let (record, record_path) = find_record(&weights)?;
        let spec = match &record {
            Some(record) => recorded(record, skip, record_path.as_deref().unwrap_or(&weights))?,
            None => guessed(&weights, skip)?,
        };
        let net = AttentionUNet::new(spec);
        let (tensors, batches_tracked) = load_weights(&weights, &net)?;
        let threshold = record.as_ref().and_then(|record| record.threshold).unwrap_or(THRESHOLD);
        let window_px = record.as_ref().map_or(WINDOW_PX, |record| record.model.patch_size);
        Ok(Self { weights, record, record_path, net, tensors, batches_tracked, threshold, window_px })
    }

    /// The record, or one that says what is known of bare weights: the network; the settings of the training are the
    /// defaults.
    pub fn record_or_known(&self, name: &str) -> RunRecord {
        if let Some(record) = &self.record {
            return record.clone();
        }
        let spec = self.net.spec();
        let experiment = Experiment {
            name: name.to_string(),
            description: String::new(),
            model: ModelConfig {
                use_intensity: spec.in_channels == 3,
                base_channels: spec.base_channels,
                skip: spec.skip,
                patch_size: self.window_px,
                ..ModelConfig::default()
            },
            training: TrainingConfig::default(),
        };
        RunRecord::new(&experiment, self.net.parameter_count() as u64, "unknown")
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
    if is_safetensors(path) { Ok(read_safetensors_with(path)?.0) } else { read_pth(path) }
}
