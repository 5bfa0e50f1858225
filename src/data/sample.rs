//! One training sample as training_data_preparation left it: cell labels, target and, where wanted, intensity.

use std::path::{Path, PathBuf};

use crate::data::hdf5::{Array, File};
use crate::error::{Error, Result};

const LABELS: &str = "segmentation_outlines";
const TARGET: &str = "rosettes_binary";
const ROSETTES: &str = "rosettes_individual";
const INTENSITY: [&str; 2] = ["raw_image", "raw_data"];
/// The older layout: one array of four planes.
const STACK: &str = "data";
const STACK_PLANES: [&str; 4] = ["instance labels", "rosette binary", "rosette instances", "raw intensity"];

/// A sample in full. All planes are row-major [height, width].
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The sample's name, that of its directory.
    pub name: String,
    /// The file it was read from.
    pub path: PathBuf,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Cell instance labels [height, width]: 0 background, 1.. cells.
    pub labels: Vec<u32>,
    /// The target [height, width]: 1 in rosettes, else 0.
    pub target: Vec<u8>,
    /// Microscope intensity [height, width] as stored, where it was asked for.
    pub intensity: Option<Vec<f32>>,
}

/// Three arrays of one shape, not yet converted.
struct Planes {
    labels: Array,
    target: Option<Array>,
    intensity: Option<Array>,
}

/// Where a sample's file is: `<data_dir>/<name>/processed_data_<name>.h5`.
pub fn sample_path(data_dir: &Path, name: &str) -> PathBuf {
    data_dir.join(name).join(format!("processed_data_{name}.h5"))
}

/// The names of all samples under `data_dir`, sorted.
///
/// # Errors
/// A user error where the directory cannot be read or holds no sample.
pub fn discover(data_dir: &Path) -> Result<Vec<String>> {
    let fail = |e: std::io::Error| Error::io(data_dir, "a directory of samples", &e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(data_dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        names.extend(name.to_str().filter(|name| sample_path(data_dir, name).is_file()).map(str::to_string));
    }
    if names.is_empty() {
        let expected = "directories NAME with a file processed_data_NAME.h5";
        let remedy = "give the output directory of training_data_preparation";
        return Err(Error::user(data_dir.display(), expected, "none", remedy));
    }
    names.sort();
    Ok(names)
}

impl Sample {
    /// Reads sample `name` below `data_dir`, in either layout: separate datasets, or the older stack of four planes.
    ///
    /// # Errors
    /// A user error naming the file and the dataset where something is missing, misshapen or holds values that
    /// cannot be what they should be; also where intensity is wanted and the file has none.
    pub fn load(data_dir: &Path, name: &str, with_intensity: bool) -> Result<Self> {
        let path = sample_path(data_dir, name);
        if !data_dir.is_dir() {
            let found = if data_dir.exists() { "a file" } else { "no such directory" };
            let remedy = "give the output directory of training_data_preparation";
            return Err(Error::user(data_dir.display(), "a directory of samples", found, remedy));
        }
        if !path.is_file() {
            let remedy = format!(
                "run training_data_preparation for '{name}', or take it out of the split or the list"
            );
            let expected = format!("the file of sample '{name}'");
            return Err(Error::user(path.display(), expected, "no such file", remedy));
        }
        Self::from_file(&File::open(&path)?, name, with_intensity)
    }

    /// Reads sample `name` from an open file. Errors are those of [`Sample::load`].
    pub fn from_file(file: &File, name: &str, with_intensity: bool) -> Result<Self> {
        Ok(Self::read(file, name, with_intensity, true)?.0)
    }

    /// Reads a sample that may lack its target, which is all 0 then; whether it has one. Errors are those of
    /// [`Sample::load`] but for that.
    pub fn from_file_without_target(file: &File, name: &str, with_intensity: bool) -> Result<(Self, bool)> {
        Self::read(file, name, with_intensity, false)
    }

    /// The rosettes' instance labels [height, width] of an open file, where it holds them.
    ///
    /// # Errors
    /// A user error where they are no labels.
    pub fn rosettes(file: &File) -> Result<Option<Vec<u32>>> {
        if file.has(STACK) && !file.has(LABELS) {
            let stack = file.read(STACK)?.squeezed(3)?;
            let has_it = stack.shape()[0] == STACK_PLANES.len();
            return has_it.then(|| stack.plane(2, STACK_PLANES[2]).to_labels()).transpose();
        }
        file.has(ROSETTES).then(|| file.read(ROSETTES)?.squeezed(2)?.to_labels()).transpose()
    }

    /// Whether an open file holds an intensity.
    pub fn has_intensity(file: &File) -> bool {
        INTENSITY.iter().any(|name| file.has(name)) || (file.has(STACK) && !file.has(LABELS))
    }

    /// The values that the target of an open file takes, ascending.
    ///
    /// # Errors
    /// A user error where there is no target.
    pub fn target_values(file: &File) -> Result<Vec<f64>> {
        if file.has(STACK) && !file.has(LABELS) {
            return Ok(file.read(STACK)?.squeezed(3)?.plane(1, STACK_PLANES[1]).distinct());
        }
        Ok(file.read(TARGET)?.distinct())
    }

    fn read(file: &File, name: &str, with_intensity: bool, needs_target: bool) -> Result<(Self, bool)> {
        let planes = match file.has(STACK) && !file.has(LABELS) {
            true => stacked(file, with_intensity)?,
            false => separate(file, with_intensity, needs_target)?,
        };
        let (height, width) = (planes.labels.shape()[0], planes.labels.shape()[1]);
        let target = planes.target.map(|array| array.to_mask()).transpose()?;
        let has_target = target.is_some();
        let sample = Self {
            name: name.to_string(),
            path: file.path().to_path_buf(),
            height,
            width,
            labels: planes.labels.to_labels()?,
            target: target.unwrap_or_else(|| vec![0; height * width]),
            intensity: planes.intensity.map(|array| array.to_intensity()).transpose()?,
        };
        Ok((sample, has_target))
    }
}

fn separate(file: &File, with_intensity: bool, needs_target: bool) -> Result<Planes> {
    let labels = file.read(LABELS)?.squeezed(2)?;
    let read_alike = |name: &str| {
        let array = file.read(name)?.squeezed(2)?;
        check_shape(file, name, &array, &labels)?;
        Ok(array)
    };
    let target = (needs_target || file.has(TARGET)).then(|| read_alike(TARGET)).transpose()?;
    let intensity = match with_intensity {
        true => Some(read_alike(intensity_name(file)?)?),
        false => None,
    };
    Ok(Planes { labels, target, intensity })
}

fn intensity_name(file: &File) -> Result<&'static str> {
    INTENSITY.into_iter().find(|name| file.has(name)).ok_or_else(|| {
        let expected = "a dataset 'raw_image' or 'raw_data', which use_intensity: true needs";
        let found = format!("only {}", file.dataset_names().join(", "));
        let remedy = "set model.use_intensity to false, or prepare the data with the raw image";
        Error::user(file.path().display(), expected, found, remedy)
    })
}

fn check_shape(file: &File, name: &str, array: &Array, labels: &Array) -> Result<()> {
    if array.shape() == labels.shape() {
        return Ok(());
    }
    let expected = format!("shape {:?}, as '{LABELS}' has", labels.shape());
    let found = format!("shape {:?}", array.shape());
    let remedy = "re-run training_data_preparation: all datasets of a sample must show the same image";
    Err(Error::user(file.place(name), expected, found, remedy))
}

fn stacked(file: &File, with_intensity: bool) -> Result<Planes> {
    let stack = file.read(STACK)?.squeezed(3)?;
    if stack.shape()[0] != STACK_PLANES.len() {
        let expected = format!("shape [4, height, width]: {}", STACK_PLANES.join(", "));
        let remedy = format!("re-run training_data_preparation, or store '{LABELS}' and '{TARGET}' apart");
        return Err(Error::user(file.place(STACK), expected, format!("shape {:?}", stack.shape()), remedy));
    }
    let plane = |index: usize| stack.plane(index, STACK_PLANES[index]);
    Ok(Planes { labels: plane(0), target: Some(plane(1)), intensity: with_intensity.then(|| plane(3)) })
}
