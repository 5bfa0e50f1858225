//! Files of a package: a zip archive of stored entries, numpy's arrays, TIFF stacks.

use std::io::{Cursor, Write};

use sha2::{Digest, Sha256};
use tiff::encoder::TiffEncoder;
use tiff::encoder::colortype::Gray32Float;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, System, ZipWriter};

use crate::error::{Error, Result};
use crate::files;

/// A file of a package.
pub(super) struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl Entry {
    /// Its checksum, in hexadecimal digits.
    pub fn sha256(&self) -> String {
        files::hex(&Sha256::digest(&self.bytes))
    }
}

/// The archive; the same entries give the same bytes.
pub(super) fn archive(entries: &[Entry]) -> Result<Vec<u8>> {
    let fail = |e: &dyn std::fmt::Display| Error::failure(format!("the package: {e}"));
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for entry in entries {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::DEFAULT)
            .system(System::Unix)
            .large_file(entry.bytes.len() > u32::MAX as usize);
        zip.start_file(entry.name, options).map_err(|e| fail(&e))?;
        zip.write_all(&entry.bytes).map_err(|e| fail(&e))?;
    }
    Ok(zip.finish().map_err(|e| fail(&e))?.into_inner())
}

/// Row-major 32-bit floats in numpy's format, version 1.0, which aligns the data to 64 bytes.
pub(super) fn npy(shape: &[usize], values: &[f32]) -> Vec<u8> {
    assert_eq!(shape.iter().product::<usize>(), values.len());
    assert!(shape.len() > 1, "one axis alone is written with a trailing comma");
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", sizes.join(", "));
    let before = 10;
    while !(before + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(header.len()).expect("a header is short").to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// Square planes of `side_px` as the pages of a TIFF, for programs that show pictures.
pub(super) fn tiff_stack(side_px: usize, planes: &[f32]) -> Result<Vec<u8>> {
    let fail = |e: tiff::TiffError| Error::failure(format!("a TIFF: {e}"));
    let side = u32::try_from(side_px).expect("the side of a small image");
    let mut bytes = Cursor::new(Vec::new());
    let mut encoder = TiffEncoder::new(&mut bytes).map_err(fail)?;
    for plane in planes.chunks_exact(side_px * side_px) {
        encoder.write_image::<Gray32Float>(side, side, plane).map_err(fail)?;
    }
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_numpys() {
        // numpy.save of numpy.array([[1, -2]], numpy.float32)
        let bytes = npy(&[1, 2], &[1.0, -2.0]);
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert!(bytes[10..].starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), } "));
        assert_eq!(&bytes[127..], [b"\n".as_slice(), &1f32.to_le_bytes(), &(-2f32).to_le_bytes()].concat());
    }
}
