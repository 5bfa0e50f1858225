//! HDF5 files, read and written in pure Rust. The only module that names `hdf5-reader` or `hdf5-writer`.
//!
//! What a file claims about itself is not believed: sizes are bounded by the file's own length before anything is
//! allocated, and whatever does not decode becomes an error that names the file and the dataset.

mod array;
mod lzf;
mod write;

use std::path::{Path, PathBuf};

use hdf5_reader::error::Error as ReadError;
use hdf5_reader::filters::FilterRegistry;
use hdf5_reader::group::Group;
use hdf5_reader::{Dataset, Hdf5File, OpenOptions};

use crate::error::{Error, Result};

pub use array::Array;
pub use write::{Attribute, Plane, encode};

/// The most bytes one dataset may decode to.
const MAX_DATASET_BYTES: u64 = 2 << 30;
/// What a small file may decode to in any case: unwritten chunks take no room in a file.
const MIN_DATASET_BYTES: u64 = 64 << 20;
/// The most that deflate, the densest of the filters, can shrink anything.
const MAX_COMPRESSION: u64 = 1100;
/// How deep, and how many, datasets are listed for an error message.
const LIST_DEPTH: usize = 4;
const LIST_LENGTH: usize = 40;

const REMEDY_DAMAGED: &str = "copy the file again, or re-run training_data_preparation for this sample";

/// An open HDF5 file.
pub struct File {
    path: PathBuf,
    inner: Hdf5File,
}

impl File {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// A user error where the file is missing, not HDF5, or shorter than its own header says.
    pub fn open(path: &Path) -> Result<Self> {
        let length = file_length(path)?;
        let inner = Hdf5File::open_with_options(path, options(length));
        Self::checked(path, inner, length)
    }

    /// Reads a file that is already in memory; `path` is what errors call it.
    ///
    /// # Errors
    /// As [`File::open`].
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let length = bytes.len() as u64;
        let inner = Hdf5File::from_vec_with_options(bytes, options(length));
        Self::checked(path, inner, length)
    }

    fn checked(path: &Path, inner: hdf5_reader::error::Result<Hdf5File>, length: u64) -> Result<Self> {
        let inner = inner.map_err(|e| open_error(path, length, &e))?;
        let block = inner.superblock();
        let expected = block.eof_address.saturating_add(block.base_address);
        if expected > length && block.eof_address != u64::MAX {
            let found = format!("only {length} bytes: the file is truncated");
            return Err(Error::user(path.display(), format!("{expected} bytes"), found, REMEDY_DAMAGED));
        }
        Ok(Self { path: path.to_path_buf(), inner })
    }

    /// The file's path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether `name` can be opened as a dataset.
    pub fn has(&self, name: &str) -> bool {
        self.inner.dataset(name).is_ok()
    }

    /// The paths of the datasets in the file, sorted; at most a screenful.
    pub fn dataset_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        if let Ok(root) = self.inner.root_group() {
            list_datasets(&root, "", LIST_DEPTH, &mut names);
        }
        names.sort();
        names
    }

    /// Reads a whole dataset.
    ///
    /// # Errors
    /// A user error where the dataset is missing (with the ones there are), is not numeric, is too large, is
    /// damaged, or is stored in a way that cannot be read.
    pub fn read(&self, name: &str) -> Result<Array> {
        let place = self.place(name);
        let dataset = self.inner.dataset(name).map_err(|e| self.dataset_error(name, &e))?;
        let bytes = dataset.read_raw_bytes().map_err(|e| read_error(&place, &e))?;
        Array::new(place, shape_of(&dataset), dataset.dtype(), bytes)
    }

    /// How errors name a dataset of this file.
    pub fn place(&self, name: &str) -> String {
        format!("{}: dataset '{name}'", self.path.display())
    }

    fn dataset_error(&self, name: &str, error: &ReadError) -> Error {
        if matches!(root_cause(error), ReadError::DatasetNotFound(_) | ReadError::GroupNotFound(_)) {
            return self.missing(name);
        }
        read_error(&self.place(name), error)
    }

    /// The error for a dataset that is not there: lists what is, and suggests the nearest name.
    pub fn missing(&self, name: &str) -> Error {
        let names = self.dataset_names();
        let found = match names.len() {
            0 => "no dataset at all".to_string(),
            _ => format!("only {}", names.join(", ")),
        };
        let remedy = match nearest(name, &names) {
            Some(near) => format!("rename '{near}' to '{name}' if that is what it holds"),
            None => "re-run training_data_preparation for this sample".to_string(),
        };
        Error::user(self.path.display(), format!("a dataset '{name}'"), found, remedy)
    }
}

fn file_length(path: &Path) -> Result<u64> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, "a file to read", &e))?;
    if meta.is_dir() {
        return Err(Error::user(path.display(), "an HDF5 file", "a directory", "check the path"));
    }
    Ok(meta.len())
}

fn options(file_length: u64) -> OpenOptions {
    let mut filters = FilterRegistry::new();
    filters.register(lzf::FILTER_ID, Box::new(|filter, bytes, _| lzf::filter(filter, bytes)));
    let limit = file_length.saturating_mul(MAX_COMPRESSION).clamp(MIN_DATASET_BYTES, MAX_DATASET_BYTES);
    OpenOptions::default().with_filter_registry(filters).with_max_read_bytes(limit as usize)
}

fn shape_of(dataset: &Dataset) -> Vec<usize> {
    // A dimension beyond usize could not have been read.
    dataset.shape().iter().map(|&d| usize::try_from(d).unwrap_or(usize::MAX)).collect()
}

fn list_datasets(group: &Group, prefix: &str, depth: usize, names: &mut Vec<String>) {
    let Ok((groups, datasets)) = group.member_names() else { return };
    names.extend(datasets.iter().take(LIST_LENGTH).map(|name| format!("{prefix}{name}")));
    if depth == 0 {
        return;
    }
    for name in groups {
        if names.len() >= LIST_LENGTH {
            return;
        }
        if let Ok(child) = group.group(&name) {
            list_datasets(&child, &format!("{prefix}{name}/"), depth - 1, names);
        }
    }
}

/// The name that `wanted` was probably written as: the same in a group, in other letters, or with a slip.
fn nearest<'a>(wanted: &str, names: &'a [String]) -> Option<&'a String> {
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_lowercase();
    let score = |name: &String| strsim::jaro_winkler(&last(name), wanted);
    let best = names.iter().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.85).then_some(best)
}

fn root_cause(error: &ReadError) -> &ReadError {
    match error {
        ReadError::Context { source, .. } => root_cause(source),
        other => other,
    }
}

fn open_error(path: &Path, length: u64, error: &ReadError) -> Error {
    match root_cause(error) {
        ReadError::Io(source) => Error::io(path, "a file to read", source),
        _ if length == 0 => Error::user(path.display(), "an HDF5 file", "an empty file", REMEDY_DAMAGED),
        ReadError::InvalidMagic => {
            let remedy = "give the .h5 file that training_data_preparation wrote";
            Error::user(path.display(), "an HDF5 file", "no HDF5 signature", remedy)
        }
        other => read_error(&path.display().to_string(), other),
    }
}

/// An error of the reader in the user's terms: cut short, not supported, too large, or damaged.
fn read_error(place: &str, error: &ReadError) -> Error {
    use ReadError as E;
    let cause = root_cause(error);
    match cause {
        E::Io(source) => Error::failure(format!("{place}: {source}")),
        E::UnexpectedEof { .. } | E::OffsetOutOfBounds(_) => {
            let found = format!("a file that ends too early ({cause})");
            Error::user(place, "readable data", found, REMEDY_DAMAGED)
        }
        E::ResourceLimit(what) => {
            let remedy = "crop the image, or check that the file is not damaged";
            Error::user(place, "a size that the file can hold", what, remedy)
        }
        E::UnsupportedFilter(_) | E::UnsupportedEncoding(_) | E::UnsupportedLayoutClass(_) => {
            let remedy = "rewrite it with h5py, compression='gzip' or none";
            Error::user(place, "gzip, LZF, LZ4, szip, shuffle or plain storage", cause, remedy)
        }
        _ => Error::user(place, "readable data", format!("damaged data ({cause})"), REMEDY_DAMAGED),
    }
}
