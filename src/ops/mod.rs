//! The operations: one file here, one or more shaders of the same name in `shaders/`, one line in [`OPS`].

pub mod check;
mod common;
pub mod conv2d;
pub mod conv_transpose2d;
mod convolution;

use crate::tape::OpEntry;

/// The one list of all operations: shader validation, comparisons with the references, gradient checks, benches and
/// the kernel list walk it.
pub const OPS: &[OpEntry] = &[
    OpEntry { name: "conv2d", cases: conv2d::cases },
    OpEntry { name: "conv_transpose2d", cases: conv_transpose2d::cases },
];
