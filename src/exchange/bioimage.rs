//! A BioImage.IO package (<https://bioimage.io>): one archive with the network as ONNX and as PyTorch's state dict, the
//! class that loads the latter, a description, an image to test it with, documentation and a cover.

use std::path::PathBuf;

use prost::Message;
use sha2::{Digest, Sha256};

use super::archive::{Entry, archive, npy, tiff_stack};
use super::description::{description, documentation};
use super::network::onnx_model;
use super::trial::Trial;
use crate::error::{Error, Result};
use crate::files;
use crate::inference::Model;
use crate::interop::pth_bytes;
use crate::train::state_dict;

/// The class that loads the state dict: the documentation's, too.
const ARCHITECTURE: &[u8] = include_bytes!("../../python/rosette_unet.py");

/// What a package says beyond the model itself.
#[derive(Debug, Clone)]
pub struct Package {
    /// The model's name; that of the experiment where there is none.
    pub name: Option<String>,
    /// Who made it, at least one.
    pub authors: Vec<String>,
    /// What others may do with it: an identifier of <https://spdx.org/licenses>.
    pub licence: String,
    /// An image to test it with; synthetic tissue where there is none.
    pub sample: Option<PathBuf>,
    /// Number or name of the adapter that predicts the test image.
    pub adapter: Option<String>,
}

/// What is in a package; the names of its files.
pub(super) struct Content {
    /// The settings.
    pub package: Package,
    /// The name, made fit.
    pub name: String,
    /// All files but the description.
    pub entries: Vec<Entry>,
}

impl Content {
    /// The checksum of a file.
    pub fn sha256(&self, name: &str) -> String {
        self.entries.iter().find(|entry| entry.name == name).expect("a file of the package").sha256()
    }
}

/// The names of a package's files.
pub(super) mod names {
    pub const DESCRIPTION: &str = "rdf.yaml";
    pub const ONNX: &str = "weights.onnx";
    pub const STATE_DICT: &str = "best_model.pth";
    pub const ARCHITECTURE: &str = "rosette_unet.py";
    pub const INPUT: &str = "test_input.npy";
    pub const OUTPUT: &str = "test_output.npy";
    pub const SAMPLE_INPUT: &str = "sample_input.tif";
    pub const SAMPLE_OUTPUT: &str = "sample_output.tif";
    pub const COVER: &str = "cover.png";
    pub const DOCUMENTATION: &str = "README.md";
    pub const RECORD: &str = "config.json";
}

/// The package's bytes.
pub(super) fn package(model: &Model, settings: &Package) -> Result<Vec<u8>> {
    let name = check(model, settings)?;
    let trial = Trial::run(model, settings.sample.as_deref(), settings.adapter.as_deref())?;
    let side_px = trial.side_px();
    let input_shape = [1, model.net.spec().in_channels, side_px, side_px];
    let state_dict = pth_bytes(&state_dict(&model.tensors, model.batches_tracked))?;
    let mut record = model.record_or_known(&name);
    record.weights_sha256 = Some(files::hex(&Sha256::digest(&state_dict)));
    let mut record = serde_json::to_string_pretty(&record).expect("numbers and text");
    record.push('\n');
    let entry = |name, bytes| Entry { name, bytes };
    let entries = vec![
        entry(names::ONNX, onnx_model(model)?.encode_to_vec()),
        entry(names::STATE_DICT, state_dict),
        entry(names::ARCHITECTURE, ARCHITECTURE.to_vec()),
        entry(names::INPUT, npy(&input_shape, &trial.input())),
        entry(names::OUTPUT, npy(&[1, 1, side_px, side_px], trial.output())),
        entry(names::SAMPLE_INPUT, tiff_stack(side_px, &trial.input())?),
        entry(names::SAMPLE_OUTPUT, tiff_stack(side_px, trial.output())?),
        entry(names::COVER, trial.cover(model.threshold)?),
        entry(names::RECORD, record.into_bytes()),
        entry(names::DOCUMENTATION, documentation(model, &name).into_bytes()),
    ];
    let mut content = Content { package: settings.clone(), name, entries };
    let described = entry(names::DESCRIPTION, description(model, &content)?.into_bytes());
    content.entries.insert(0, described);
    archive(&content.entries)
}

/// The name, made of the characters that the format knows.
fn check(model: &Model, settings: &Package) -> Result<String> {
    let is_person = |name: &String| {
        let parts = name.rsplit_once(" @").unwrap_or((name, "no account"));
        !parts.0.trim().is_empty() && !parts.1.trim().is_empty() && !name.contains(['/', '\\'])
    };
    if settings.authors.is_empty() || !settings.authors.iter().all(is_person) {
        let found = if settings.authors.is_empty() { "none".into() } else { settings.authors.join(", ") };
        let remedy = "--author 'Given Family', once for each";
        return Err(Error::user("--author", "who made the model, without slashes", found, remedy));
    }
    if spdx::license_id(&settings.licence).is_none() {
        let remedy =
            "take one of https://spdx.org/licenses: CC-BY-4.0 is usual for models, CC0-1.0 asks for nothing";
        return Err(Error::user("--license", "the identifier of a licence", &settings.licence, remedy));
    }
    let given = settings.name.clone().unwrap_or_else(|| match &model.record {
        Some(record) => format!("Rosettes in epithelia ({})", record.experiment_name),
        None => "Rosettes in epithelia".into(),
    });
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_+- ()".contains(c);
    let name: String = given.chars().map(|c| if is_plain(c) { c } else { '_' }).take(64).collect();
    if name.chars().count() < 5 {
        return Err(Error::user("--name", "5 to 64 characters", name, "name the tissue, or the experiment"));
    }
    Ok(name)
}
