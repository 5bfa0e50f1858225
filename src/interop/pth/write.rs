//! The writer of checkpoints: what `torch.save(state_dict)` writes, for contiguous tensors on the CPU.

use std::io::{Cursor, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, System, ZipWriter};

use super::op;
use crate::error::{Error, Result};
use crate::files;
use crate::interop::{TensorData, Values};

/// PyTorch aligns the data of its entries so that it can map them into memory.
const ALIGNMENT_BYTES: u16 = 64;

/// Writes a state dict that `torch.load(path, weights_only=True)` reads (PyTorch 1.13 and later) as an ordered
/// dictionary of tensors in the given order. The same tensors give the same bytes.
///
/// # Errors
/// A user error where the file cannot be written.
///
/// # Panics
/// Where a tensor has another number of values than its shape.
pub fn write_pth(path: &Path, tensors: &[TensorData]) -> Result<()> {
    files::write_atomic(path, &pth_bytes(tensors)?)
}

/// The bytes that [`write_pth`] writes.
///
/// # Errors
/// A failure where they cannot be put together.
///
/// # Panics
/// As [`write_pth`].
pub fn pth_bytes(tensors: &[TensorData]) -> Result<Vec<u8>> {
    tensors.iter().for_each(TensorData::assert_consistent);
    archive(tensors).map_err(|e| Error::failure(format!("a state dict: {e}")))
}

fn archive(tensors: &[TensorData]) -> zip::result::ZipResult<Vec<u8>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let mut add = |name: &str, bytes: &[u8]| -> zip::result::ZipResult<()> {
        zip.start_file(format!("archive/{name}"), options(bytes.len()))?;
        Ok(zip.write_all(bytes)?)
    };
    add("data.pkl", &state_dict(tensors))?;
    add("byteorder", b"little")?;
    for (key, tensor) in tensors.iter().enumerate() {
        add(&format!("data/{key}"), &tensor.values.to_le_bytes())?;
    }
    add("version", b"3\n")?;
    Ok(zip.finish()?.into_inner())
}

/// Stored, aligned, and dated alike whenever and wherever it is written.
fn options(len_bytes: usize) -> SimpleFileOptions {
    SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::DEFAULT)
        .system(System::Unix)
        .with_alignment(ALIGNMENT_BYTES)
        .large_file(len_bytes > u32::MAX as usize)
}

/// The pickle: `OrderedDict([(name, _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())), ...])`.
fn state_dict(tensors: &[TensorData]) -> Vec<u8> {
    let mut out = Pickler(vec![op::PROTO, 2]);
    out.empty_ordered_dict();
    out.0.push(op::MARK);
    for (key, tensor) in tensors.iter().enumerate() {
        out.text(&tensor.name);
        out.tensor(key, tensor);
    }
    out.0.extend([op::SETITEMS, op::STOP]);
    out.0
}

/// Pickle protocol 2, without the memo: the little that is written twice is not worth its bookkeeping.
struct Pickler(Vec<u8>);

impl Pickler {
    fn tensor(&mut self, key: usize, tensor: &TensorData) {
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.0.push(op::MARK);
        self.storage(key, &tensor.values);
        self.int(0);
        self.sizes(&tensor.shape);
        self.sizes(&contiguous_strides(&tensor.shape));
        self.0.push(op::NEWFALSE);
        self.empty_ordered_dict();
        self.0.extend([op::TUPLE, op::REDUCE]);
    }

    fn storage(&mut self, key: usize, values: &Values) {
        self.0.push(op::MARK);
        self.text("storage");
        match values {
            Values::F32(_) => self.global("torch", "FloatStorage"),
            Values::I64(_) => self.global("torch", "LongStorage"),
        }
        self.text(&key.to_string());
        self.text("cpu");
        self.int(values.len());
        self.0.extend([op::TUPLE, op::BINPERSID]);
    }

    fn sizes(&mut self, sizes: &[usize]) {
        self.0.push(op::MARK);
        sizes.iter().for_each(|&n| self.int(n));
        self.0.push(op::TUPLE);
    }

    fn empty_ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.0.extend([op::EMPTY_TUPLE, op::REDUCE]);
    }

    fn global(&mut self, module: &str, name: &str) {
        self.0.push(op::GLOBAL);
        self.0.extend(format!("{module}\n{name}\n").bytes());
    }

    fn text(&mut self, text: &str) {
        self.0.push(op::BINUNICODE);
        self.0.extend(u32::try_from(text.len()).expect("a name is short").to_le_bytes());
        self.0.extend(text.bytes());
    }

    fn int(&mut self, n: usize) {
        if let Ok(byte) = u8::try_from(n) {
            self.0.extend([op::BININT1, byte]);
        } else if let Ok(int) = i32::try_from(n) {
            self.0.push(op::BININT);
            self.0.extend(int.to_le_bytes());
        } else {
            self.0.extend([op::LONG1, 8]);
            self.0.extend((n as i64).to_le_bytes());
        }
    }
}

fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}
