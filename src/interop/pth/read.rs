//! The reader of checkpoints: the archive, the state dict in it, and the elements of its tensors.

use std::collections::{HashMap, HashSet};
use std::io::Cursor;
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, Id, Pickle, Refusal, Value, View};
use crate::error::{Error, Result};
use crate::files;
use crate::interop::TensorData;

/// How a checkpoint starts that PyTorch wrote before version 1.6, or with its zip format switched off.
const LEGACY_START: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";

/// The keys under which a training checkpoint keeps its state dict, in the order of preference.
const NESTED: [&str; 2] = ["state_dict", "model_state_dict"];

/// Reads the state dict of a checkpoint in the order of its entries: a plain one, or one nested under `state_dict` or
/// `model_state_dict`. Floats of any width become `f32`, integers `i64`; views are made dense; the prefix `module.`
/// of `DataParallel` is removed; entries that are no tensors are left out. Nothing in the file is executed.
///
/// # Errors
/// A user error where the file cannot be read, is damaged or of the legacy format, or holds other than tensors.
pub fn read_pth(path: &Path) -> Result<Vec<TensorData>> {
    let bytes = files::read_bytes(path)?;
    read_bytes(&bytes).map_err(|Refused { found, remedy }| {
        Error::user(path.display(), "the weights of a PyTorch checkpoint", found, remedy)
    })
}

/// Why a file is refused, and what to do.
struct Refused {
    found: Refusal,
    remedy: &'static str,
}

const COPY_AGAIN: &str = "copy the file again: it may be cut off or damaged";
const SAVE_WEIGHTS: &str = "save the weights alone: torch.save(model.state_dict(), 'weights.pth')";

fn damaged(found: impl Into<Refusal>) -> Refused {
    Refused { found: found.into(), remedy: COPY_AGAIN }
}

fn not_weights(found: impl Into<Refusal>) -> Refused {
    Refused { found: found.into(), remedy: SAVE_WEIGHTS }
}

fn read_bytes(bytes: &[u8]) -> std::result::Result<Vec<TensorData>, Refused> {
    let mut archive = Archive::open(bytes)?;
    let pickle = pickle::parse(archive.entry("data.pkl")?).map_err(not_weights)?;
    let views = state_dict(&pickle)?;
    check_total(&views, bytes.len())?;
    let mut tensors = Vec::with_capacity(views.len());
    for (name, view) in views {
        let storage = archive.entry(&format!("data/{}", view.key))?;
        let values = materialise(view, storage).map_err(|e| damaged(format!("tensor `{name}`: {e}")))?;
        tensors.push(TensorData { name: name.to_string(), shape: view.shape.clone(), values });
    }
    strip_data_parallel(&mut tensors);
    Ok(tensors)
}

/// The zip archive, whose entries are stored and so can be lent out of the file's bytes.
struct Archive<'a> {
    bytes: &'a [u8],
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The folder that all entries lie in: `archive`, or the name under which the file was saved.
    root: String,
    /// Entries whose checksum was verified.
    verified: HashMap<String, &'a [u8]>,
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> std::result::Result<Self, Refused> {
        if bytes.starts_with(LEGACY_START) {
            let remedy = "re-save it with PyTorch 1.6 or later: torch.save(torch.load('old.pth'), 'new.pth')";
            return Err(Refused { found: "the legacy format from before PyTorch 1.6".into(), remedy });
        }
        if !bytes.starts_with(b"PK") {
            return Err(not_weights("no zip archive"));
        }
        let zip =
            ZipArchive::new(Cursor::new(bytes)).map_err(|e| damaged(format!("a zip archive with: {e}")))?;
        let root = root_of(&zip)?;
        let mut archive = Self { bytes, zip, root, verified: HashMap::new() };
        if archive.zip.index_for_name(&format!("{}/byteorder", archive.root)).is_some()
            && archive.entry("byteorder")? != b"little"
        {
            let remedy = "re-save it on a little-endian machine";
            return Err(Refused { found: "a byte order other than little".into(), remedy });
        }
        Ok(archive)
    }

    /// The bytes of an entry, verified against its checksum when first asked for.
    fn entry(&mut self, name: &str) -> std::result::Result<&'a [u8], Refused> {
        if let Some(bytes) = self.verified.get(name) {
            return Ok(bytes);
        }
        let bytes =
            self.locate(name).map_err(|e| damaged(format!("in the archive's entry `{name}`: {e}")))?;
        self.verified.insert(name.to_string(), bytes);
        Ok(bytes)
    }

    fn locate(&mut self, name: &str) -> std::result::Result<&'a [u8], Refusal> {
        let mut entry = self.zip.by_name(&format!("{}/{name}", self.root)).map_err(|e| e.to_string())?;
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err("compression or encryption".into());
        }
        std::io::copy(&mut entry, &mut std::io::sink()).map_err(|e| e.to_string())?;
        let start = entry.data_start().ok_or("no data")?;
        let end = start.checked_add(entry.size()).ok_or("a size beyond all bounds")?;
        let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        range
            .and_then(|(start, end)| self.bytes.get(start..end))
            .ok_or_else(|| "an end beyond the file's".into())
    }
}

fn root_of(zip: &ZipArchive<Cursor<&[u8]>>) -> std::result::Result<String, Refused> {
    let names = || zip.file_names().filter_map(std::result::Result::ok);
    if names().any(|name| name.ends_with("/constants.pkl")) {
        return Err(not_weights("a TorchScript program"));
    }
    let root = names().find_map(|name| name.strip_suffix("/data.pkl").map(String::from));
    root.ok_or_else(|| not_weights("a zip archive without an entry `data.pkl`"))
}

/// The tensors of the state dict, by name.
fn state_dict(pickle: &Pickle) -> std::result::Result<Vec<(&str, &View)>, Refused> {
    let root = entries(pickle, pickle.root).ok_or_else(|| not_weights("no dictionary at the top"))?;
    let nested = NESTED.iter().find_map(|key| {
        let (_, id) = root.iter().find(|(name, _)| name == key)?;
        entries(pickle, *id)
    });
    let dict = nested.unwrap_or_else(|| root.clone());
    let mut tensors = Vec::new();
    let mut seen = HashSet::new();
    for (name, id) in dict {
        if !seen.insert(name) {
            return Err(damaged(format!("the entry `{name}` twice")));
        }
        if let Value::Tensor(view) = &pickle.values[id] {
            tensors.push((name, view));
        }
    }
    if tensors.is_empty() {
        let shorten = |name: &str| name.chars().take(40).collect::<String>();
        let keys: Vec<String> = root.iter().take(8).map(|(name, _)| shorten(name)).collect();
        return Err(not_weights(format!("no tensors in the dictionary with the keys [{}]", keys.join(", "))));
    }
    Ok(tensors)
}

/// The entries of a dictionary whose keys are text.
fn entries(pickle: &Pickle, id: Id) -> Option<Vec<(&str, Id)>> {
    let Value::Dict(dict) = &pickle.values[id] else { return None };
    let named = dict.iter().filter_map(|&(key, value)| match &pickle.values[key] {
        Value::Text(name) => Some((name.as_str(), value)),
        _ => None,
    });
    Some(named.collect())
}

/// Refuses views that would blow a small file up: all tensors together may have as many elements as the file has
/// bytes, which leaves room for weights that are shared.
fn check_total(views: &[(&str, &View)], file_bytes: usize) -> std::result::Result<(), Refused> {
    let elements = |view: &View| view.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let total = views.iter().try_fold(0usize, |sum, (_, view)| sum.checked_add(elements(view)?));
    match total {
        Some(total) if total <= file_bytes => Ok(()),
        _ => Err(damaged("tensors with more elements than the file has bytes")),
    }
}

/// The elements of a view in row-major order.
fn materialise(view: &View, storage: &[u8]) -> std::result::Result<crate::interop::Values, Refusal> {
    let size = view.element.size_bytes();
    if view.storage_len.checked_mul(size) != Some(storage.len()) {
        return Err(format!("{} bytes for {} elements of {size}", storage.len(), view.storage_len));
    }
    let elements: usize = view.shape.iter().product();
    if elements == 0 {
        return Ok(view.element.decode(std::iter::empty()));
    }
    let axes = || view.shape.iter().zip(&view.strides);
    let last = axes().try_fold(view.offset, |at, (&n, &stride)| at.checked_add((n - 1).checked_mul(stride)?));
    if last.is_none_or(|last| last >= view.storage_len) {
        return Err(format!("a view beyond its storage of {} elements", view.storage_len));
    }
    let at = |index: usize| &storage[index * size..][..size];
    if is_contiguous(view) {
        return Ok(view.element.decode((view.offset..view.offset + elements).map(at)));
    }
    Ok(view.element.decode(Indices::of(view, elements).map(at)))
}

fn is_contiguous(view: &View) -> bool {
    let mut expected = 1;
    view.shape.iter().zip(&view.strides).rev().all(|(&n, &stride)| {
        let matches = n == 1 || stride == expected;
        expected *= n;
        matches
    })
}

/// The places of a view's elements in its storage, counted like an odometer.
struct Indices<'a> {
    view: &'a View,
    position: Vec<usize>,
    next: usize,
    left: usize,
}

impl<'a> Indices<'a> {
    fn of(view: &'a View, elements: usize) -> Self {
        Self { view, position: vec![0; view.shape.len()], next: view.offset, left: elements }
    }
}

impl Iterator for Indices<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let current = self.next;
        for axis in (0..self.position.len()).rev() {
            let (n, stride) = (self.view.shape[axis], self.view.strides[axis]);
            if self.position[axis] + 1 < n {
                self.position[axis] += 1;
                self.next += stride;
                break;
            }
            self.next -= self.position[axis] * stride;
            self.position[axis] = 0;
        }
        Some(current)
    }
}

/// `torch.nn.DataParallel` puts `module.` before every name.
fn strip_data_parallel(tensors: &mut [TensorData]) {
    const PREFIX: &str = "module.";
    if tensors.iter().all(|t| t.name.starts_with(PREFIX)) {
        tensors.iter_mut().for_each(|t| {
            t.name.drain(..PREFIX.len());
        });
    }
}
