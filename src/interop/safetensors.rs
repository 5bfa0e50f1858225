//! The safetensors format: a JSON header and raw little-endian data (<https://github.com/huggingface/safetensors>).

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView, View, serialize};

use super::{Element, TensorData, Values};
use crate::error::{Error, Result};
use crate::files;

/// Whether a path is named as a safetensors file.
pub fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors")
}

/// Writes tensors; the same tensors give the same bytes.
///
/// # Errors
/// A user error where the file cannot be written.
///
/// # Panics
/// Where a tensor has another number of values than its shape.
pub fn write_safetensors(path: &Path, tensors: &[TensorData]) -> Result<()> {
    write_safetensors_with(path, tensors, &[("format".to_string(), "pt".to_string())])
}

/// [`write_safetensors`] with texts of one's own in the header. Several texts come in any order: for the same bytes each
/// time, put all there is to say into one.
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_safetensors_with(
    path: &Path,
    tensors: &[TensorData],
    metadata: &[(String, String)],
) -> Result<()> {
    tensors.iter().for_each(TensorData::assert_consistent);
    let metadata: HashMap<String, String> = metadata.iter().cloned().collect();
    let bytes = serialize(tensors.iter().map(|t| (t.name.as_str(), t)), Some(metadata))
        .map_err(|e| Error::failure(format!("{}: {e}", path.display())))?;
    files::write_atomic(path, &bytes)
}

/// Reads tensors, sorted by name; floats of any width become `f32`, integers `i64`.
///
/// # Errors
/// A user error where the file cannot be read, is damaged, or holds elements of another type.
pub fn read_safetensors(path: &Path) -> Result<Vec<TensorData>> {
    Ok(read_safetensors_with(path)?.0)
}

/// [`read_safetensors`] with the texts of the header.
///
/// # Errors
/// As [`read_safetensors`].
pub fn read_safetensors_with(path: &Path) -> Result<(Vec<TensorData>, HashMap<String, String>)> {
    let bytes = files::read_bytes(path)?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(path, &e))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(path, &e))?;
    let mut tensors: Vec<TensorData> =
        file.iter().map(|(name, view)| read_one(path, name, &view)).collect::<Result<_>>()?;
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((tensors, header.metadata().clone().unwrap_or_default()))
}

fn damaged(path: &Path, error: &SafeTensorError) -> Error {
    let remedy = "it may be cut off or of another format: copy or export it again";
    Error::user(path.display(), "a safetensors file", error.to_string(), remedy)
}

fn read_one(path: &Path, name: &str, view: &TensorView) -> Result<TensorData> {
    let element = match view.dtype() {
        Dtype::F16 => Element::F16,
        Dtype::BF16 => Element::BF16,
        Dtype::F32 => Element::F32,
        Dtype::F64 => Element::F64,
        Dtype::I32 => Element::I32,
        Dtype::I64 => Element::I64,
        other => {
            let place = format!("{}: {name}", path.display());
            let remedy = "convert the tensor to f32 before exporting it";
            return Err(Error::user(place, "floats or 32- or 64-bit integers", format!("{other:?}"), remedy));
        }
    };
    let values = element.decode(view.data().chunks_exact(element.size_bytes()));
    Ok(TensorData { name: name.to_string(), shape: view.shape().to_vec(), values })
}

impl View for &TensorData {
    fn dtype(&self) -> Dtype {
        match self.values {
            Values::F32(_) => Dtype::F32,
            Values::I64(_) => Dtype::I64,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match &self.values {
            // As it lies in memory: a checkpoint has hundreds of megabytes.
            Values::F32(values) if cfg!(target_endian = "little") => {
                Cow::Borrowed(bytemuck::cast_slice(values))
            }
            values => Cow::Owned(values.to_le_bytes()),
        }
    }

    fn data_len(&self) -> usize {
        match &self.values {
            Values::F32(v) => v.len() * 4,
            Values::I64(v) => v.len() * 8,
        }
    }
}
