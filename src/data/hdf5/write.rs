//! Writing: whole files at once, chunked and compressed as h5py writes with `compression="gzip", shuffle=True`.

use std::io::Cursor;

use hdf5_writer::{
    AttributeBuilder, DatasetBuilder, FILTER_DEFLATE, FILTER_SHUFFLE, FilterDescription, Hdf5Builder,
    Hdf5Writer, WriteOptions,
};

use crate::error::{Error, Result};

/// h5py's own default level.
const GZIP_LEVEL: u32 = 4;
/// Chunks are squares of at most this side.
const CHUNK_PX: usize = 256;

/// The values of a dataset to write, in the type that they are stored as.
pub enum Plane<'a> {
    /// Masks.
    U8(&'a [u8]),
    /// Camera counts, instance labels.
    U16(&'a [u16]),
    /// Cell labels, as numpy's default for labels.
    I32(&'a [i32]),
    /// Anything, in the stacked layout.
    F32(&'a [f32]),
}

/// The value of an attribute.
pub enum Attribute<'a> {
    /// Words.
    Text(&'a str),
    /// A 64-bit float.
    Number(f64),
    /// A 64-bit integer.
    Integer(i64),
}

/// Encodes a file of `(name, shape, values)` datasets and attributes of the root group. The bytes depend on
/// the arguments alone.
///
/// # Errors
/// A failure where a shape does not fit its values.
pub fn encode(datasets: &[(&str, &[usize], Plane)], attributes: &[(&str, Attribute)]) -> Result<Vec<u8>> {
    let mut builder = Hdf5Builder::new();
    for (name, value) in attributes {
        let attribute = match value {
            Attribute::Text(text) => Ok(AttributeBuilder::fixed_string(*name, text)),
            Attribute::Number(number) => AttributeBuilder::scalar(*name, *number),
            Attribute::Integer(number) => AttributeBuilder::scalar(*name, *number),
        };
        builder = builder.attribute(attribute.map_err(|e| write_error(&e))?);
    }
    for (name, shape, values) in datasets {
        builder = builder.dataset(dataset(name, shape, values)?);
    }
    let plan = builder.into_plan().map_err(|e| write_error(&e))?;
    let writer = Hdf5Writer::new(Cursor::new(Vec::new()), WriteOptions::default());
    Ok(writer.finish(plan).map_err(|e| write_error(&e))?.into_inner())
}

fn dataset(name: &str, shape: &[usize], values: &Plane) -> Result<DatasetBuilder> {
    let dims: Vec<u64> = shape.iter().map(|&d| d as u64).collect();
    let (built, size_bytes) = match values {
        Plane::U8(v) => (DatasetBuilder::typed_data(name, dims, v), 1),
        Plane::U16(v) => (DatasetBuilder::typed_data(name, dims, v), 2),
        Plane::I32(v) => (DatasetBuilder::typed_data(name, dims, v), 4),
        Plane::F32(v) => (DatasetBuilder::typed_data(name, dims, v), 4),
    };
    let filter = |id, parameter| FilterDescription { id, name: None, client_data: vec![parameter] };
    Ok(built
        .map_err(|e| write_error(&e))?
        .chunked(chunk_shape(shape))
        .filter(filter(FILTER_SHUFFLE, size_bytes))
        .filter(filter(FILTER_DEFLATE, GZIP_LEVEL)))
}

/// One plane deep, at most `CHUNK_PX` in the last two axes.
fn chunk_shape(shape: &[usize]) -> Vec<u64> {
    let image_from = shape.len().saturating_sub(2);
    let side = |(axis, &d): (usize, &usize)| if axis < image_from { 1 } else { d.min(CHUNK_PX) as u64 };
    shape.iter().enumerate().map(side).collect()
}

fn write_error(error: &hdf5_writer::Error) -> Error {
    Error::failure(format!("HDF5 file could not be encoded: {error}"))
}
