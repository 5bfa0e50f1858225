//! An array as it was stored, and its conversion into what training needs: labels, a target, an intensity.

use hdf5_reader::{ByteOrder, Datatype};

use crate::error::{Error, Result};

/// A dataset's values in their stored type. Shapes are row-major, slowest axis first.
#[derive(Debug)]
pub struct Array {
    place: String,
    shape: Vec<usize>,
    element: Element,
    bytes: Vec<u8>,
}

/// How one element is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Element {
    kind: Kind,
    size_bytes: usize,
    big_endian: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unsigned,
    Signed,
    Float,
}

/// One element, in the widest type of its kind.
#[derive(Debug, Clone, Copy)]
enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

impl Array {
    /// Takes `bytes` as elements of type `datatype`; `place` is what errors call the array.
    pub(super) fn new(place: String, shape: Vec<usize>, datatype: &Datatype, bytes: Vec<u8>) -> Result<Self> {
        let Some(element) = Element::of(datatype) else {
            let remedy = "store it as an integer, floating-point or boolean array";
            return Err(Error::user(place, "a numeric array", type_name(datatype), remedy));
        };
        let count = shape.iter().try_fold(element.size_bytes, |n, &d| n.checked_mul(d));
        if count != Some(bytes.len()) {
            let found = format!("{} bytes for shape {shape:?}", bytes.len());
            return Err(Error::user(place, "as many bytes as the shape says", found, super::REMEDY_DAMAGED));
        }
        Ok(Self { place, shape, element, bytes })
    }

    /// The shape as it is now.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Drops leading axes of length one until `rank` axes are left.
    ///
    /// # Errors
    /// A user error where that leaves another rank, or an array without elements.
    pub fn squeezed(mut self, rank: usize) -> Result<Self> {
        let stored = self.shape.clone();
        while self.shape.len() > rank && self.shape[0] == 1 {
            self.shape.remove(0);
        }
        if self.shape.len() != rank || self.bytes.is_empty() {
            let expected =
                format!("a {rank}-D array that is not empty (leading axes of length 1 are dropped)");
            let remedy = "store one image per file";
            return Err(Error::user(&self.place, expected, format!("shape {stored:?}"), remedy));
        }
        Ok(self)
    }

    /// Plane `index` along the first axis, called `name` in errors.
    ///
    /// # Panics
    /// Where the array has no such plane: callers look at [`Array::shape`] first.
    pub fn plane(&self, index: usize, name: &str) -> Self {
        let plane_bytes = self.bytes.len() / self.shape[0];
        let bytes = self.bytes[index * plane_bytes..(index + 1) * plane_bytes].to_vec();
        let place = format!("{} plane {index} ({name})", self.place);
        Self { place, shape: self.shape[1..].to_vec(), element: self.element, bytes }
    }

    /// The values as instance labels.
    ///
    /// # Errors
    /// A user error at the first value that is negative, not whole or beyond `u32`.
    pub fn to_labels(&self) -> Result<Vec<u32>> {
        let expected = "whole labels from 0 to 4294967295";
        self.numbers()
            .enumerate()
            .map(|(at, number)| number.label().ok_or_else(|| self.value_error(at, number, expected)))
            .collect()
    }

    /// The values as a binary mask: 1 where above zero.
    ///
    /// # Errors
    /// A user error at the first value that is not a number.
    pub fn to_mask(&self) -> Result<Vec<u8>> {
        let expected = "numbers (a rosette where above 0)";
        self.numbers()
            .enumerate()
            .map(|(at, number)| number.positive().ok_or_else(|| self.value_error(at, number, expected)))
            .collect()
    }

    /// The different values, ascending.
    pub fn distinct(&self) -> Vec<f64> {
        let mut bits: Vec<u64> = self.numbers().map(|number| number.value().to_bits()).collect();
        bits.sort_unstable();
        bits.dedup();
        let mut values: Vec<f64> = bits.into_iter().map(f64::from_bits).collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    }

    /// The values as f32.
    ///
    /// # Errors
    /// A user error at the first value that is not finite in f32.
    pub fn to_intensity(&self) -> Result<Vec<f32>> {
        let expected = "finite intensities";
        self.numbers()
            .enumerate()
            .map(|(at, number)| {
                let value = number.as_f32();
                if value.is_finite() { Ok(value) } else { Err(self.value_error(at, number, expected)) }
            })
            .collect()
    }

    fn numbers(&self) -> impl Iterator<Item = Number> + '_ {
        self.bytes.chunks_exact(self.element.size_bytes).map(|bytes| self.element.decode(bytes))
    }

    fn value_error(&self, at: usize, number: Number, expected: &str) -> Error {
        let width = self.shape.last().copied().unwrap_or(1).max(1);
        let found = format!("{} at row {}, column {}", number.text(), at / width, at % width);
        let remedy = "correct the value, or re-run training_data_preparation for this sample";
        Error::user(&self.place, expected, found, remedy)
    }
}

impl Element {
    /// `None` where the type is no number of 1, 2, 4 or 8 bytes. h5py stores bool as an enum over i8.
    fn of(datatype: &Datatype) -> Option<Self> {
        let (kind, size, order) = match datatype {
            Datatype::FixedPoint { size, signed: true, byte_order } => (Kind::Signed, *size, byte_order),
            Datatype::FixedPoint { size, signed: false, byte_order } => (Kind::Unsigned, *size, byte_order),
            Datatype::FloatingPoint { size, byte_order } => (Kind::Float, *size, byte_order),
            Datatype::Enum { base, .. } => return Self::of(base),
            _ => return None,
        };
        let known = matches!((kind, size), (Kind::Float, 2 | 4 | 8))
            || (kind != Kind::Float && matches!(size, 1 | 2 | 4 | 8));
        let big_endian = *order == ByteOrder::BigEndian;
        known.then_some(Self { kind, size_bytes: usize::from(size), big_endian })
    }

    fn decode(self, bytes: &[u8]) -> Number {
        let mut raw = [0; 8];
        raw[..bytes.len()].copy_from_slice(bytes);
        if self.big_endian {
            raw[..bytes.len()].reverse();
        }
        let bits = u64::from_le_bytes(raw);
        let unused_bits = 64 - 8 * self.size_bytes as u32;
        match (self.kind, self.size_bytes) {
            (Kind::Unsigned, _) => Number::Unsigned(bits),
            (Kind::Signed, _) => Number::Signed(((bits << unused_bits) as i64) >> unused_bits),
            (Kind::Float, 2) => Number::Float(half::f16::from_bits(bits as u16).to_f64()),
            (Kind::Float, 4) => Number::Float(f64::from(f32::from_bits(bits as u32))),
            (Kind::Float, _) => Number::Float(f64::from_bits(bits)),
        }
    }
}

impl Number {
    fn label(self) -> Option<u32> {
        match self {
            Self::Unsigned(v) => u32::try_from(v).ok(),
            Self::Signed(v) => u32::try_from(v).ok(),
            Self::Float(v) if v.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&v) => Some(v as u32),
            Self::Float(_) => None,
        }
    }

    fn positive(self) -> Option<u8> {
        match self {
            Self::Unsigned(v) => Some(u8::from(v > 0)),
            Self::Signed(v) => Some(u8::from(v > 0)),
            Self::Float(v) => (!v.is_nan()).then_some(u8::from(v > 0.0)),
        }
    }

    fn as_f32(self) -> f32 {
        match self {
            Self::Unsigned(v) => v as f32,
            Self::Signed(v) => v as f32,
            Self::Float(v) => v as f32,
        }
    }

    fn value(self) -> f64 {
        match self {
            Self::Unsigned(v) => v as f64,
            Self::Signed(v) => v as f64,
            Self::Float(v) => v,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Unsigned(v) => v.to_string(),
            Self::Signed(v) => v.to_string(),
            Self::Float(v) => v.to_string(),
        }
    }
}

fn type_name(datatype: &Datatype) -> &'static str {
    match datatype {
        Datatype::FixedPoint { .. } => "integers of an unusual width",
        Datatype::FloatingPoint { .. } => "floating-point numbers of an unusual width",
        Datatype::String { .. } => "text",
        Datatype::Compound { .. } => "compound records",
        Datatype::Array { .. } => "arrays as elements",
        Datatype::Enum { .. } => "an enumeration of an unusual type",
        Datatype::VarLen { .. } => "text or lists of varying length",
        Datatype::Opaque { .. } => "opaque bytes",
        Datatype::Reference { .. } => "references",
        Datatype::Bitfield { .. } => "bit fields",
    }
}
