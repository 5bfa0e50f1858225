//! Weights between the network and files: PyTorch's state dict, whole and in the pipeline's order.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files;
use crate::interop::{
    TensorData, Values, is_safetensors, read_pth, read_safetensors, read_safetensors_with, write_pth,
};
use crate::model::{AttentionUNet, NamedTensor};
use crate::report::RunRecord;

/// Weights and running statistics as PyTorch's state dict: each batch norm's statistics are followed by its
/// `num_batches_tracked`.
pub fn state_dict(tensors: &[NamedTensor], batches_tracked: u64) -> Vec<TensorData> {
    let mut dict = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        dict.push(TensorData::f32(&tensor.name, &tensor.shape, tensor.values.clone()));
        if let Some(norm) = tensor.name.strip_suffix("running_var") {
            dict.push(TensorData::i64(
                format!("{norm}num_batches_tracked"),
                &[],
                vec![batches_tracked as i64],
            ));
        }
    }
    dict
}

/// Writes a `.pth` that `torch.load(weights_only=True)` reads and `load_state_dict(strict=True)` takes.
///
/// # Errors
/// Where the file cannot be written.
pub fn save_weights(path: &Path, tensors: &[NamedTensor], batches_tracked: u64) -> Result<()> {
    write_pth(path, &state_dict(tensors, batches_tracked))
}

/// The weights' file of a run's directory, or the file itself.
pub fn weights_file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("best_model.pth") } else { path.to_path_buf() }
}

/// What was written down of a weights file, within it or in the `config.json` beside it, and where, if in a file of its
/// own.
///
/// # Errors
/// A user error where a file cannot be read, and where the `config.json` is that of other weights.
pub fn find_record(weights: &Path) -> Result<(Option<RunRecord>, Option<PathBuf>)> {
    if is_safetensors(weights) {
        let (_, texts) = read_safetensors_with(weights)?;
        if let Some(text) = texts.get(RunRecord::KEY) {
            return Ok((Some(RunRecord::parse(text, weights)?), None));
        }
    }
    let path = weights.with_file_name("config.json");
    if !path.is_file() {
        return Ok((None, None));
    }
    let record = RunRecord::read(&path)?;
    check_hash(&record, &path, weights)?;
    Ok((Some(record), Some(path)))
}

/// Weights of another variant or with another threshold load as well, and predict something else. A training that has
/// not ended has no checksum yet.
fn check_hash(record: &RunRecord, path: &Path, weights: &Path) -> Result<()> {
    let Some(known) = &record.weights_sha256 else { return Ok(()) };
    let found = files::hex(&Sha256::digest(files::read_bytes(weights)?));
    if found == *known {
        return Ok(());
    }
    let expected = format!("the weights that {} is of, SHA-256 {known}", path.display());
    let remedy =
        "put the weights into a directory without a config.json, and `rosette import` them with --skip";
    Err(Error::user(weights.display(), expected, format!("others, SHA-256 {found}"), remedy))
}

/// Reads weights for a network from a `.pth` or `.safetensors` file: the tensors in the network's order, and the
/// batches that the running statistics have seen.
///
/// # Errors
/// A user error that names the tensor where one is missing, has another shape, is not finite, or belongs to another
/// network.
pub fn load_weights(path: &Path, net: &AttentionUNet) -> Result<(Vec<NamedTensor>, u64)> {
    let dict = if is_safetensors(path) { read_safetensors(path)? } else { read_pth(path)? };
    let mut by_name: HashMap<String, TensorData> = dict.into_iter().map(|t| (t.name.clone(), t)).collect();
    let mut tensors = Vec::with_capacity(net.parameters().len());
    for parameter in net.parameters() {
        let place = format!("{}: tensor '{}'", path.display(), parameter.name);
        let shape = parameter.kind.torch_shape();
        let Some(found) = by_name.remove(&parameter.name) else {
            return Err(mismatch(&place, format!("shape {shape:?}"), "no such tensor".into(), net));
        };
        let values = match found.values {
            Values::F32(values) if found.shape == shape => values,
            _ => {
                return Err(mismatch(
                    &place,
                    format!("floats of shape {shape:?}"),
                    format!("{:?}", found.shape),
                    net,
                ));
            }
        };
        check_values(&place, &values, parameter.name.ends_with("running_var"))?;
        tensors.push(NamedTensor { name: parameter.name.clone(), shape, values });
    }
    let tracked = by_name.get("enc1.1.num_batches_tracked").and_then(|t| match &t.values {
        Values::I64(values) => values.first().copied(),
        Values::F32(_) => None,
    });
    by_name.retain(|name, _| !name.ends_with("num_batches_tracked"));
    if let Some(name) = by_name.keys().min() {
        let place = format!("{}: tensor '{name}'", path.display());
        return Err(mismatch(
            &place,
            "no such tensor".into(),
            "one that the network does not have".into(),
            net,
        ));
    }
    Ok((tensors, tracked.unwrap_or(0).max(0) as u64))
}

/// Finds numbers that no network can have.
fn check_values(place: &str, values: &[f32], are_variances: bool) -> Result<()> {
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        let found = format!("{} at element {at}", values[at]);
        let remedy = "take the weights of a run that did not diverge";
        return Err(Error::user(place, "finite numbers", found, remedy));
    }
    match values.iter().position(|v| *v < 0.0).filter(|_| are_variances) {
        Some(at) => {
            let found = format!("{} at element {at}", values[at]);
            Err(Error::user(place, "variances, from 0 up", found, "the file is damaged: export it again"))
        }
        None => Ok(()),
    }
}

fn mismatch(place: &str, expected: String, found: String, net: &AttentionUNet) -> Error {
    let spec = net.spec();
    let remedy = format!(
        "the network has {} input channels and base_channels {}: set use_intensity and base_channels to those of the \
         file, or take another file",
        spec.in_channels, spec.base_channels
    );
    Error::user(place, expected, found, remedy)
}
