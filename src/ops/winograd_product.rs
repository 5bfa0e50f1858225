//! The products of [`super::winograd`] on a GPU, 36 or 16 matrix products side by side through workgroup memory.

use super::common::u;
use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::params;
use crate::tape::{Flops, Prepared, Tape, TensorId};

const SHADER: ShaderSource = ShaderSource {
    name: "conv2d_winograd_product",
    text: include_str!("../../shaders/conv2d_winograd_product.wgsl"),
};
/// This file's shaders.
pub(super) const SOURCES: &[ShaderSource] = &[SHADER];
/// Rows and blocks of 8 outputs that a workgroup owns, and its invocations.
const ROWS: usize = 128;
const BLOCKS: usize = 8;
const LANES: usize = 128;

params! {
    struct ProductParams {
        tiles: u32, groups: u32, blocks: u32, row_tiles: u32, out_tiles: u32, tiles_per_split: u32, splits: u32,
    }
}

/// The variant of a kernel that imports `tile_product`, as the device's registers allow.
pub(super) fn by_registers(variant: Variant, tape: &Tape) -> Variant {
    let few = tape.limits().few_registers;
    variant.with("PRODUCT_AHEAD", !few).with("PRODUCT_TOGETHER", u(if few { 1 } else { 4 }))
}

/// Matrices, tiles, groups of 4 input channels, blocks of 8 outputs.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub products: usize,
    pub tiles: usize,
    pub groups: usize,
    pub blocks: usize,
}

impl Size {
    fn params(&self, rows: usize, splits: usize) -> ProductParams {
        ProductParams {
            tiles: self.tiles as u32,
            groups: self.groups as u32,
            blocks: self.blocks as u32,
            row_tiles: rows.div_ceil(ROWS) as u32,
            out_tiles: self.blocks.div_ceil(BLOCKS) as u32,
            tiles_per_split: self.tiles.div_ceil(splits) as u32,
            splits: splits as u32,
        }
    }

    fn variant(&self, tape: &Tape) -> Variant {
        by_registers(Variant::new(), tape).with("PRODUCTS", u(self.products))
    }

    fn workgroups(&self, rows: usize) -> usize {
        self.products * rows.div_ceil(ROWS) * self.blocks.div_ceil(BLOCKS)
    }
}

/// Records `m = v u`: [products][tiles][blocks][8] of [products][tiles][groups][4] and
/// [products][blocks][groups][4][8].
pub(super) fn multiply(
    tape: &mut Tape,
    (v, u, m): (TensorId, Prepared, TensorId),
    size: &Size,
    flops: Flops,
) {
    let kernel = Kernel::new(SHADER, "multiply", size.variant(tape));
    let dispatch = tape.dispatch(kernel).tensor(v).prepared(u).tensor(m);
    dispatch.params(&size.params(size.tiles, 1)).flops(flops).groups(size.workgroups(size.tiles));
}

/// Invocations that one split of all products of a weight's gradient takes.
pub(super) fn gradient_lanes(size: &Size) -> usize {
    size.workgroups(size.groups * 4) * LANES
}

/// Records `part[split] = v' m` of each split of the tiles, or adds it to what an earlier range of tiles has left there
/// (`adds`): [splits][products][blocks][groups][4][8] of [products][tiles][groups][4] and [products][tiles][blocks][8].
pub(super) fn multiply_gradient(
    tape: &mut Tape,
    [v, m, part]: [TensorId; 3],
    size: &Size,
    adds: bool,
    flops: Flops,
) {
    let splits = tape.shape(part).dims()[0];
    let rows = size.groups * 4;
    let kernel = Kernel::new(SHADER, "multiply_gradient", size.variant(tape).with("ADD_TO", adds));
    let dispatch = tape.dispatch(kernel).tensor(v).tensor(m).tensor(part).read_and_written(adds);
    let params = size.params(rows, splits);
    dispatch.params(&params).flops(flops).groups(size.workgroups(rows) * splits);
}
