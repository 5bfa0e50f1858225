//! The product of a weight gradient, V' M over tiles or pixels: of [`super::winograd`] on a processor, and of 1x1 convolutions.

use super::common::{Scatter, block_of, reading, split_sum, splits_of_loops, stored, u};
use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::params;
use crate::tape::{Read, Shape, Tape, TensorId};

const SHADER: ShaderSource = ShaderSource {
    name: "conv2d_gradient_product",
    text: include_str!("../../shaders/conv2d_gradient_product.wgsl"),
};
/// The shader.
pub(super) const SOURCES: &[ShaderSource] = &[SHADER];

params! {
    pub(super) struct ProductParams { width: u32, tiles: u32, groups: u32, blocks: u32, splits: u32, products: u32 }
}

/// Tiles at a time, where registers hold what is read of them.
const TILES: usize = 2;

/// How the product of a weight gradient is shared out.
pub(super) struct Product {
    entry: &'static str,
    /// What one invocation owns, or a workgroup loads.
    sizes: [(&'static str, usize); 3],
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
                sizes: [("V_LOADS", v_loads), ("M_LOADS", m_loads), ("TILES", TILES)],
                lanes: 8 * groups.div_ceil(8 * v_loads) * blocks.div_ceil(4 * m_loads),
            };
        }
        // A GPU's invocation holds a quarter of that in registers: half of it, and NVIDIA's compiler spills, AMD's keeps six waves.
        let (most_groups, most_blocks) = if limits.software { (4, 2) } else { (2, 1) };
        let tiles = if limits.few_registers { 1 } else { TILES };
        let (group_block, block_block) = (block_of(groups, most_groups), block_of(blocks, most_blocks));
        Self {
            entry: "multiply",
            sizes: [("GROUPS", group_block), ("BLOCKS", block_block), ("TILES", tiles)],
            lanes: groups.div_ceil(group_block) * blocks.div_ceil(block_block),
        }
    }

    pub(super) fn kernel(&self, stored: Variant) -> Kernel {
        let variant = self.sizes.iter().fold(stored, |variant, (name, size)| variant.with(name, u(*size)));
        Kernel::new(SHADER, self.entry, variant)
    }
}

/// Records the weight gradient of a 1x1 convolution for one source, as the same product over pixels; `squares` where
/// dy is the large side of a transposed convolution. For whole blocks of 8 outputs.
pub(super) fn pixel_weight_gradient(
    tape: &mut Tape,
    (read, first): (Read, usize),
    dy: TensorId,
    weight: TensorId,
    squares: bool,
) {
    let x = read.tensor;
    let [_, h, w, cx] = tape.shape(x).as_nhwc();
    let [blocks, row_groups] = [tape.shape(weight).dims()[0], tape.shape(weight).dims()[1]];
    let groups = cx / 4;
    let product = Product::new(tape, groups, blocks);
    let slices = tape.image_slices(&[x, dy]);
    let pixels = (slices[0].len() * h * w, 4);
    let splits = splits_of_loops(tape, pixels, product.lanes, 32, blocks * groups * 32);
    let part = tape.transient("weight part", Shape::new([splits, blocks, groups, 4, 8]));
    let variant = stored(stored(reading(Variant::new(), read), "X", tape, x), "M", tape, dy);
    let variant = if squares { variant.with("M_SQUARES", true) } else { variant };
    for images in slices {
        let pixels = images.len() * h * w;
        let params = ProductParams {
            width: w as u32,
            tiles: pixels as u32,
            groups: groups as u32,
            blocks: blocks as u32,
            splits: splits as u32,
            products: 1,
        };
        let kernel = product.kernel(variant.clone().with("ADD_TO", images.start > 0));
        tape.dispatch(kernel)
            .images(x, &images)
            .images(dy, &images)
            .tensor(part)
            .read_and_written(images.start > 0)
            .coefficients(read, weight)
            .params(&params)
            .flops(2 * pixels * cx * blocks * 8)
            .invocations(product.lanes * splits);
    }
    let target = tape.weight_gradient(weight);
    let scatter = Scatter { unit: 32, from_groups: groups, to_groups: row_groups, first };
    split_sum(tape, part, target, scatter);
}
