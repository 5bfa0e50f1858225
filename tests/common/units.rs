//! A GPU with matrix units, as recordings see it.

use rosette::gpu::{Limits, MatrixUnits};

/// Matrices of 16 x 16, subgroups of 32, and workgroups for every tile.
pub const UNITS: Limits = Limits {
    f16: true,
    matrix: MatrixUnits::Sixteen,
    subgroup_lanes: 32,
    workgroup_bytes: 48 << 10,
    ..Limits::WEBGPU
};
