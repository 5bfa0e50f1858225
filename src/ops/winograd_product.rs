//! The products of [`super::winograd`] on a GPU, 36 or 16 matrix products side by side through workgroup memory; and how a processor
//! shares out those of a weight gradient.

use super::common::{block_of, u};
use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::params;
use crate::tape::{Prepared, Tape, TensorId};

const SHADER: ShaderSource = ShaderSource {
    name: "conv2d_winograd_product",
    text: include_str!("../../shaders/conv2d_winograd_product.wgsl"),
};
const PRODUCT: ShaderSource = ShaderSource {
    name: "conv2d_gradient_product",
    text: include_str!("../../shaders/conv2d_gradient_product.wgsl"),
};
/// This file's shaders.
pub(super) const SOURCES: &[ShaderSource] = &[SHADER, PRODUCT];
/// Rows and blocks of 8 outputs that a workgroup owns, and its invocations.
const ROWS: usize = 128;
const BLOCKS: usize = 8;
const LANES: usize = 128;

params! {
    struct ProductParams {
        tiles: u32, groups: u32, blocks: u32, row_tiles: u32, out_tiles: u32, tiles_per_split: u32,
    }
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
    fn params(&self, rows: usize, tiles_per_split: usize) -> ProductParams {
        ProductParams {
            tiles: self.tiles as u32,
            groups: self.groups as u32,
            blocks: self.blocks as u32,
            row_tiles: rows.div_ceil(ROWS) as u32,
            out_tiles: self.blocks.div_ceil(BLOCKS) as u32,
            tiles_per_split: tiles_per_split as u32,
        }
    }

    fn variant(&self) -> Variant {
        Variant::new().with("PRODUCTS", u(self.products))
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
    flops: usize,
) {
    let kernel = Kernel::new(SHADER, "multiply", size.variant());
    let dispatch = tape.dispatch(kernel).tensor(v).prepared(u).tensor(m);
    dispatch.params(&size.params(size.tiles, size.tiles)).flops(flops).groups(size.workgroups(size.tiles));
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
    flops: usize,
) {
    let splits = tape.shape(part).dims()[0];
    let rows = size.groups * 4;
    let kernel = Kernel::new(SHADER, "multiply_gradient", size.variant().with("ADD_TO", adds));
    let dispatch = tape.dispatch(kernel).tensor(v).tensor(m).tensor(part);
    let params = size.params(rows, size.tiles.div_ceil(splits));
    dispatch.params(&params).flops(flops).groups(size.workgroups(rows) * splits);
}

/// How the product of a weight gradient is shared out.
pub(super) struct Product {
    entry: &'static str,
    /// What one invocation owns, or a workgroup loads.
    sizes: [(&'static str, usize); 2],
    /// Invocations for each split of each matrix.
    pub lanes: usize,
}

impl Product {
    pub(super) fn new(tape: &Tape, groups: usize, blocks: usize) -> Self {
        // Eight lanes together, where each finds work: four channels of outputs, and inputs to pass round.
        let limits = tape.limits();
        if limits.software && limits.subgroup_lanes >= 8 && groups >= 8 && blocks >= 4 {
            let [v_loads, m_loads] = [block_of(groups / 8, 2), block_of(blocks / 4, 2)];
            return Self {
                entry: "multiply_wide",
                sizes: [("V_LOADS", v_loads), ("M_LOADS", m_loads)],
                lanes: 8 * groups.div_ceil(8 * v_loads) * blocks.div_ceil(4 * m_loads),
            };
        }
        // What a GPU's invocation can hold in registers is half as much.
        let most = if limits.software { 4 } else { 2 };
        let (group_block, block_block) = (block_of(groups, most), block_of(blocks, 2));
        Self {
            entry: "multiply",
            sizes: [("GROUPS", group_block), ("BLOCKS", block_block)],
            lanes: groups.div_ceil(group_block) * blocks.div_ceil(block_block),
        }
    }

    pub(super) fn kernel(&self, stored: Variant) -> Kernel {
        let variant = self.sizes.iter().fold(stored, |variant, (name, size)| variant.with(name, u(*size)));
        Kernel::new(PRODUCT, self.entry, variant)
    }
}
