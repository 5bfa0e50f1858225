//! Images to predict on: samples of the pipeline with or without a target, and label images.

use std::path::Path;

use crate::data::channels::Prepared;
use crate::data::hdf5::File;
use crate::data::sample::{Sample, sample_path};
use crate::error::{Error, Result};

/// An image's planes.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// The network's input planes, and the target, all 0 where there is none.
    pub planes: Prepared,
    /// The target is known.
    pub has_target: bool,
    /// Rosette instances [height * width], where the file holds them: 0 none, 1.. rosettes.
    pub rosettes: Option<Vec<u32>>,
}

/// Loads sample `name` below a data directory.
///
/// # Errors
/// Those of [`Sample::load`], but for a missing target.
pub fn load_sample(data_dir: &Path, name: &str, with_intensity: bool) -> Result<Image> {
    check_sample(data_dir, name)?;
    from_hdf5(&sample_path(data_dir, name), name, with_intensity)
}

/// A user error where the sample has no file.
pub(super) fn check_sample(data_dir: &Path, name: &str) -> Result<()> {
    let path = sample_path(data_dir, name);
    if path.is_file() {
        return Ok(());
    }
    let expected = format!("the file of sample '{name}'");
    Err(Error::user(path.display(), expected, "no such file", "check --data-dir and --samples"))
}

/// What the image in a file is called: the file without its extension, and without the pipeline's prefix.
pub(super) fn image_name(path: &Path) -> String {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    stem.strip_prefix("processed_data_").unwrap_or(&stem).to_string()
}

/// Loads one file: a sample (`.h5`), or an image of cell labels (`.png`, `.tif`), 0 between the cells.
///
/// # Errors
/// A user error where the file cannot be read, is of another kind, or lacks the intensity that is asked for.
pub fn load_image(path: &Path, with_intensity: bool) -> Result<Image> {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name = image_name(path);
    let (labels, height, width) = match extension.as_str() {
        "h5" | "hdf5" => return from_hdf5(path, &name, with_intensity),
        "png" => read_png(path)?,
        "tif" | "tiff" => read_tiff(path)?,
        _ => {
            let expected = "a sample (.h5) or an image of cell labels (.png, .tif)";
            return Err(Error::user(path.display(), expected, format!("'.{extension}'"), "convert it first"));
        }
    };
    if with_intensity {
        let remedy = "give the HDF5 sample with its raw image, or take a model without use_intensity";
        let expected = "an image with intensity, which this model uses";
        return Err(Error::user(path.display(), expected, "cell labels alone", remedy));
    }
    let target = vec![0; labels.len()];
    let sample = Sample { name, path: path.to_path_buf(), height, width, labels, target, intensity: None };
    Ok(Image { planes: Prepared::new(sample), has_target: false, rosettes: None })
}

fn from_hdf5(path: &Path, name: &str, with_intensity: bool) -> Result<Image> {
    let file = File::open(path)?;
    let (sample, has_target) = Sample::from_file_without_target(&file, name, with_intensity)?;
    let rosettes = Sample::rosettes(&file)?.filter(|rosettes| rosettes.len() == sample.labels.len());
    Ok(Image { planes: Prepared::new(sample), has_target, rosettes })
}

/// Row-major labels with height and width.
type Labels = (Vec<u32>, usize, usize);

fn damaged(path: &Path, what: &str, found: impl std::fmt::Display) -> Error {
    Error::user(path.display(), what, found, "export the labels again, as one grey channel of whole numbers")
}

fn read_png(path: &Path) -> Result<Labels> {
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, "a file to read", &e))?;
    let fail = |e: png::DecodingError| damaged(path, "a PNG of cell labels", e);
    let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().map_err(fail)?;
    let (color, depth) = reader.output_color_type();
    if !matches!(color, png::ColorType::Grayscale | png::ColorType::Indexed) {
        return Err(damaged(path, "a PNG with one grey channel", format!("{color:?}")));
    }
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| damaged(path, "a PNG of a possible size", "a larger one"))?;
    let mut bytes = vec![0; size];
    let info = reader.next_frame(&mut bytes).map_err(fail)?;
    let (height, width) = (info.height as usize, info.width as usize);
    let bits = depth as usize;
    let labels = bytes.chunks(info.line_size).take(height).flat_map(|line| {
        (0..width).map(move |column| match bits {
            16 => u32::from(u16::from_be_bytes([line[2 * column], line[2 * column + 1]])),
            8 => u32::from(line[column]),
            _ => {
                let (byte, within) = (column * bits / 8, column * bits % 8);
                u32::from(line[byte] >> (8 - bits - within)) & ((1 << bits) - 1)
            }
        })
    });
    Ok((labels.collect(), height, width))
}

fn read_tiff(path: &Path) -> Result<Labels> {
    use tiff::decoder::{Decoder, DecodingResult};
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, "a file to read", &e))?;
    let fail = |e: tiff::TiffError| damaged(path, "a TIFF of cell labels", e);
    let mut decoder = Decoder::new(std::io::BufReader::new(file)).map_err(fail)?;
    let (width, height) = decoder.dimensions().map_err(fail)?;
    let (height, width) = (height as usize, width as usize);
    let whole = |values: Vec<f64>| -> Result<Vec<u32>> {
        let is_label = |v: &f64| v.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(v);
        match values.iter().find(|v| !is_label(v)) {
            Some(v) => Err(damaged(path, "whole numbers from 0", v)),
            None => Ok(values.into_iter().map(|v| v as u32).collect()),
        }
    };
    // The decoder turns such values round, as is right for pictures and not for labels.
    let white_is_zero = Some(0);
    let photometric = decoder.find_tag_unsigned::<u16>(tiff::tags::Tag::PhotometricInterpretation);
    if photometric.map_err(fail)? == white_is_zero {
        return Err(damaged(path, "a TIFF in which 0 is black", "one in which 0 is white"));
    }
    let labels = match decoder.read_image().map_err(fail)? {
        DecodingResult::U8(v) => v.into_iter().map(u32::from).collect(),
        DecodingResult::U16(v) => v.into_iter().map(u32::from).collect(),
        DecodingResult::U32(v) => v,
        DecodingResult::I16(v) => whole(v.into_iter().map(f64::from).collect())?,
        DecodingResult::I32(v) => whole(v.into_iter().map(f64::from).collect())?,
        DecodingResult::F32(v) => whole(v.into_iter().map(f64::from).collect())?,
        DecodingResult::F64(v) => whole(v)?,
        _ => return Err(damaged(path, "labels of 8, 16 or 32 bits", "another kind of number")),
    };
    if labels.len() != height * width {
        return Err(damaged(path, "a TIFF with one grey channel", format!("{} values", labels.len())));
    }
    if decoder.more_images() {
        return Err(damaged(path, "a TIFF of one page", "a stack"));
    }
    Ok((labels, height, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiff::encoder::{TiffEncoder, colortype::Gray8};

    /// The decoder inverts what is stored with 0 as white, and the gaps between cells became a cell.
    #[test]
    fn labels_stored_with_zero_as_white_are_refused() {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let mut encoder = TiffEncoder::new(&mut bytes).expect("a writable file");
        encoder.write_image::<Gray8>(2, 1, &[0, 7]).expect("an image");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("labels.tif");
        let mut bytes = bytes.into_inner();
        std::fs::write(&path, &bytes).expect("a writable file");
        assert_eq!(read_tiff(&path).expect("labels").0, [0, 7]);
        // The entry of tag 262: one 16-bit number, 1 where 0 is black.
        let entry = [6, 1, 3, 0, 1, 0, 0, 0, 1, 0];
        let at = bytes.windows(entry.len()).position(|bytes| bytes == entry).expect("the tag");
        bytes[at + 8] = 0;
        std::fs::write(&path, &bytes).expect("a writable file");
        let said = read_tiff(&path).expect_err("inverted").to_string();
        assert!(said.contains("one in which 0 is white"), "{said}");
    }
}
