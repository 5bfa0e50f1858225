//! Weights from elsewhere, as a directory that `predict`, `evaluate`, `threshold` and `train --init-weights` take.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::Skip;
use crate::error::{Error, Result};
use crate::files;
use crate::inference::Model;
use crate::train::save_weights;

/// What to import.
#[derive(Debug, Clone)]
pub struct Import {
    /// A `.pth` or `.safetensors` file.
    pub weights: PathBuf,
    /// Where the skips are taken, for weights that do not say so themselves.
    pub skip: Option<Skip>,
    /// Side of the patches that the network was trained on, for weights that do not say so themselves.
    pub patch_px: Option<usize>,
    /// The model's name; that of the file where there is none.
    pub name: Option<String>,
    /// Where `best_model.pth` and `config.json` go.
    pub output_dir: PathBuf,
}

/// Reads weights and writes them, with what is known of them, as a model's directory.
///
/// # Errors
/// A user error where the weights are wrong, where it is not said which variant they are of, and where the directory
/// holds a model already.
pub fn import(wanted: &Import) -> Result<Model> {
    let [weights, record_path] = ["best_model.pth", "config.json"].map(|name| wanted.output_dir.join(name));
    if let Some(there) = [&weights, &record_path].into_iter().find(|path| path.exists()) {
        let remedy = "give another --output-dir, or move that model away";
        return Err(Error::user(there.display(), "a directory without a model", "one with", remedy));
    }
    let mut model = Model::open(&wanted.weights, wanted.skip)?;
    if let Some(patch_px) = wanted.patch_px {
        check_patch(patch_px)?;
        model.window_px = patch_px;
    }
    let stem = wanted.weights.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut record = model.record_or_known(&stem);
    record.model.patch_size = model.window_px;
    if let Some(name) = &wanted.name {
        record.experiment_name.clone_from(name);
    }
    record.imported_from = Some(source(&wanted.weights)?);
    save_weights(&weights, &model.tensors, model.batches_tracked)?;
    record.weights_sha256 = Some(files::hex(&Sha256::digest(files::read_bytes(&weights)?)));
    record.write(&record_path)?;
    Ok(Model { weights, record: Some(record), record_path: Some(record_path), ..model })
}

fn check_patch(patch_px: usize) -> Result<()> {
    if (16..=4096).contains(&patch_px) && patch_px.is_multiple_of(16) {
        return Ok(());
    }
    Err(Error::user("--patch-size", "a multiple of 16 from 16 to 4096", patch_px, "512 is the pipeline's"))
}

/// The file's name with its checksum.
fn source(path: &Path) -> Result<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(format!("{name}, SHA-256 {}", files::hex(&Sha256::digest(files::read_bytes(path)?))))
}
