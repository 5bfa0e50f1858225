//! Parameters: PyTorch's names and shapes on one side, packed ranges of a flat buffer on the other.

use rand::{Rng, RngExt};

use crate::ops::conv_transpose2d;
use crate::ops::conv2d::Packing;
use crate::tape::Shape;

/// A tensor as PyTorch names and shapes it.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// State-dict name.
    pub name: String,
    /// PyTorch's shape.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub values: Vec<f32>,
}

/// What a parameter is to its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [CO, CI, K, K] of a convolution; `physical_in` input channels on the device.
    Conv {
        /// Output channels.
        out_channels: usize,
        /// Input channels in PyTorch.
        in_channels: usize,
        /// Input channels on the device, rounded up to fours.
        physical_in: usize,
        /// 3 or 1.
        kernel: usize,
    },
    /// [CI, CO, 2, 2] of a transposed convolution.
    ConvTranspose {
        /// Input channels.
        in_channels: usize,
        /// Output channels.
        out_channels: usize,
    },
    /// [1, C, 1, 1] of a convolution onto one channel.
    Project {
        /// Input channels.
        in_channels: usize,
    },
    /// `[C]`: a bias, or a batch norm's parameter or statistic.
    Vector {
        /// Its length.
        len: usize,
    },
}

/// A parameter or a running statistic.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// State-dict name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// How it starts.
    pub init: Init,
    /// Trained (in the weights' buffer), or a running statistic (in the state's).
    pub trained: bool,
}

/// How a parameter starts, as in PyTorch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Uniform within plus and minus one over the root of the fan-in.
    Uniform {
        /// Inputs to a sum.
        fan_in: usize,
    },
    /// The same value everywhere.
    Constant(f32),
}

impl Kind {
    /// PyTorch's shape.
    pub fn torch_shape(&self) -> Vec<usize> {
        match *self {
            Self::Conv { out_channels, in_channels, kernel, .. } => {
                vec![out_channels, in_channels, kernel, kernel]
            }
            Self::ConvTranspose { in_channels, out_channels } => vec![in_channels, out_channels, 2, 2],
            Self::Project { in_channels } => vec![1, in_channels, 1, 1],
            Self::Vector { len } => vec![len],
        }
    }

    /// The shape on the device.
    pub fn packed_shape(&self) -> Shape {
        match *self {
            Self::Conv { out_channels, physical_in, kernel, .. } => {
                Packing { out_channels, in_channels: physical_in, kernel }.shape()
            }
            Self::ConvTranspose { in_channels, out_channels } => {
                conv_transpose2d::packing(in_channels, out_channels).shape()
            }
            Self::Project { in_channels } => Shape::new([in_channels]),
            Self::Vector { len } => Shape::new([len]),
        }
    }

    /// Visits the place on the device of each of PyTorch's elements, in order: loops, since a large network has 31 million.
    fn each_place(&self, mut visit: impl FnMut(usize)) {
        match *self {
            Self::Conv { out_channels, in_channels, physical_in, kernel } => {
                let packing = Packing { out_channels, in_channels: physical_in, kernel };
                for o in 0..out_channels {
                    for c in 0..in_channels {
                        (0..kernel * kernel).for_each(|tap| visit(packing.place(o, c, tap)));
                    }
                }
            }
            Self::ConvTranspose { in_channels, out_channels } => {
                conv_transpose2d::places(in_channels, out_channels).for_each(visit);
            }
            Self::Project { in_channels: len } | Self::Vector { len } => (0..len).for_each(visit),
        }
    }
}

impl Parameter {
    /// Elements in PyTorch.
    pub fn len(&self) -> usize {
        self.kind.torch_shape().iter().product()
    }

    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Draws its first values, in PyTorch's order.
    pub fn draw(&self, random: &mut impl Rng) -> Vec<f32> {
        match self.init {
            Init::Constant(value) => vec![value; self.len()],
            Init::Uniform { fan_in } => {
                let bound = 1.0 / (fan_in as f32).sqrt();
                (0..self.len()).map(|_| random.random_range(-bound..bound)).collect()
            }
        }
    }

    /// Writes PyTorch's values into the packed range; what is rounded up stays zero.
    pub fn pack(&self, values: &[f32], packed: &mut [f32]) {
        let mut values = values.iter();
        self.kind.each_place(|place| packed[place] = *values.next().expect("as many as PyTorch has"));
    }

    /// Reads PyTorch's values from the packed range.
    pub fn unpack(&self, packed: &[f32]) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.len());
        self.kind.each_place(|place| values.push(packed[place]));
        values
    }
}
