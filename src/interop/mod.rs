//! Weights to and from other programs: PyTorch's `.pth` ([`pth`]), safetensors ([`safetensors`]) and ONNX ([`onnx`]).

pub mod onnx;
pub mod pth;
pub mod safetensors;

pub use pth::{pth_bytes, read_pth, write_pth};
pub use safetensors::{
    is_safetensors, read_safetensors, read_safetensors_with, write_safetensors, write_safetensors_with,
};

/// A named tensor of a state dict, dense and row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorData {
    /// The name in the state dict, e.g. `enc1.0.weight`.
    pub name: String,
    /// Sizes in PyTorch's order; empty for a scalar.
    pub shape: Vec<usize>,
    /// As many values as the shape has elements.
    pub values: Values,
}

/// The elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// 32-bit floats; what is read from narrower or wider floats is converted.
    F32(Vec<f32>),
    /// 64-bit integers, such as `num_batches_tracked`.
    I64(Vec<i64>),
}

impl Values {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::I64(v) => v.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as little-endian bytes.
    fn to_le_bytes(&self) -> Vec<u8> {
        match self {
            Self::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }
}

impl TensorData {
    /// A tensor of 32-bit floats.
    pub fn f32(name: impl Into<String>, shape: &[usize], values: Vec<f32>) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), values: Values::F32(values) }
    }

    /// A tensor of 64-bit integers.
    pub fn i64(name: impl Into<String>, shape: &[usize], values: Vec<i64>) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), values: Values::I64(values) }
    }

    /// Panics where shape and values disagree: a writer must not pass such a tensor on.
    fn assert_consistent(&self) {
        let elements: usize = self.shape.iter().product();
        assert_eq!(elements, self.values.len(), "tensor {} of shape {:?}", self.name, self.shape);
    }
}

/// The types of elements that files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    F16,
    BF16,
    F32,
    F64,
    I32,
    I64,
}

impl Element {
    fn size_bytes(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    /// Decodes little-endian elements, which `chunks` yields one by one: each of [`Self::size_bytes`] bytes.
    fn decode<'a>(self, chunks: impl Iterator<Item = &'a [u8]>) -> Values {
        match self {
            Self::F16 => Values::F32(chunks.map(|c| half::f16::from_le_bytes(fixed(c)).to_f32()).collect()),
            Self::BF16 => Values::F32(chunks.map(|c| half::bf16::from_le_bytes(fixed(c)).to_f32()).collect()),
            Self::F32 => Values::F32(chunks.map(|c| f32::from_le_bytes(fixed(c))).collect()),
            Self::F64 => Values::F32(chunks.map(|c| f64::from_le_bytes(fixed(c)) as f32).collect()),
            Self::I32 => Values::I64(chunks.map(|c| i32::from_le_bytes(fixed(c)).into()).collect()),
            Self::I64 => Values::I64(chunks.map(|c| i64::from_le_bytes(fixed(c))).collect()),
        }
    }
}

/// A chunk of known length as an array.
fn fixed<const N: usize>(chunk: &[u8]) -> [u8; N] {
    chunk.try_into().expect("a chunk has the size of its element")
}
