//! Host arrays in f64, for the references that kernels are compared with.

use super::tensor::Shape;

/// A dense array in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Its shape.
    pub shape: Shape,
    /// Its values.
    pub data: Vec<f64>,
}

impl Array {
    /// Zeros.
    pub fn zeros(shape: Shape) -> Self {
        let data = vec![0.0; shape.len()];
        Self { shape, data }
    }

    /// An array of given values.
    ///
    /// # Panics
    /// Where their number does not fit the shape.
    pub fn new(shape: Shape, data: Vec<f64>) -> Self {
        assert_eq!(shape.len(), data.len(), "{shape}");
        Self { shape, data }
    }

    /// An array of f32 values.
    pub fn from_f32(shape: Shape, values: &[f32]) -> Self {
        Self::new(shape, values.iter().map(|v| f64::from(*v)).collect())
    }

    /// The values as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        self.data.iter().map(|v| *v as f32).collect()
    }

    /// Place of `[n, h, w, c]` in the data.
    pub fn at(&self, n: usize, h: usize, w: usize, c: usize) -> usize {
        let [_, height, width, channels] = self.shape.as_nhwc();
        ((n * height + h) * width + w) * channels + c
    }

    /// Applies a function to every value.
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { shape: self.shape.clone(), data: self.data.iter().map(|v| f(*v)).collect() }
    }

    /// Combines two arrays of one shape, value by value.
    pub fn zip(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        assert_eq!(self.shape, other.shape);
        let data = self.data.iter().zip(&other.data).map(|(a, b)| f(*a, *b)).collect();
        Self { shape: self.shape.clone(), data }
    }
}
