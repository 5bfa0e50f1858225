//! A model's weights in other formats.

use std::path::Path;

use prost::Message;

use super::bioimage::{Package, package};
use super::network::onnx_model;
use crate::error::{Error, Result};
use crate::files;
use crate::inference::Model;
use crate::interop::{write_pth, write_safetensors_with};
use crate::report::RunRecord;
use crate::train::state_dict;

/// What a model is exported as.
#[derive(Debug, Clone)]
pub enum Format {
    /// PyTorch's state dict.
    Pth,
    /// Tensors, with the model's record in the header.
    Safetensors,
    /// The network with its weights.
    Onnx,
    /// All there is to it, for the programs that read the BioImage Model Zoo's format.
    BioImage(Box<Package>),
}

/// Writes a model to `output`.
///
/// # Errors
/// A user error where the file cannot be written, where it is one of the model's own, or where the format cannot hold the
/// model.
pub fn export(model: &Model, format: &Format, output: &Path) -> Result<()> {
    check_is_another(model, output)?;
    match format {
        Format::Pth => write_pth(output, &state_dict(&model.tensors, model.batches_tracked)),
        Format::Safetensors => {
            let name = output.file_stem().unwrap_or_default().to_string_lossy();
            let record = model.record_or_known(&name).to_text();
            let dict = state_dict(&model.tensors, model.batches_tracked);
            write_safetensors_with(output, &dict, &[(RunRecord::KEY.to_string(), record)])
        }
        Format::Onnx => files::write_atomic(output, &onnx_model(model)?.encode_to_vec()),
        Format::BioImage(settings) => files::write_atomic(output, &package(model, settings)?),
    }
}

/// A model is not written over itself, whatever the path is called.
fn check_is_another(model: &Model, output: &Path) -> Result<()> {
    let Ok(written) = output.canonicalize() else { return Ok(()) };
    let own = [model.weights.clone(), model.weights.with_file_name("config.json")];
    if own.iter().any(|path| path.canonicalize().is_ok_and(|path| path == written)) {
        let remedy = "give another --output";
        return Err(Error::user(output.display(), "a file to write", "one of the model's own", remedy));
    }
    Ok(())
}
