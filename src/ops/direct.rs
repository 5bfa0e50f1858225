//! The direct form of a 3x3 convolution for [`super::convolution`]: any channels, and few of them on a processor.

use super::common::{four_or_eight, reading, stored, u};
use super::convolution::{Call, Source, Start};
use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::params;
use crate::tape::{Element, Tape};

const DIRECT: ShaderSource =
    ShaderSource { name: "conv2d_direct", text: include_str!("../../shaders/conv2d_direct.wgsl") };
/// For sources of four channels and of eight.
const NARROW: [ShaderSource; 2] =
    four_or_eight!("conv2d_narrow", "lane4\n#import read4", "lane8\n#import read8");
/// The shaders.
pub(super) const SOURCES: [ShaderSource; 3] = [DIRECT, NARROW[0], NARROW[1]];

params! {
    struct DirectParams {
        images: u32, height: u32, width: u32, x_groups: u32, weight_groups: u32, weight_first: u32, blocks: u32,
        out_channels: u32, tile_rows: u32, tile_cols: u32, groups_per_block: u32,
    }
}

/// Whether a processor computes so many outputs from so many inputs by the kernel for few channels, all stored as f32. With 16 inputs
/// that is as fast as Winograd's kernels forward, which leave transformed inputs to the weight's gradient.
pub(super) fn is_narrow(in_channels: usize, out_channels: usize) -> bool {
    [4, 8].contains(&in_channels) && out_channels.is_multiple_of(8)
}

/// Records what one source adds to y.
pub(super) fn convolve(tape: &mut Tape, call: &Call, source: Source) {
    let (rows, cols) = (2, 4);
    let x = source.x.tensor;
    let [_, h, w, cx] = tape.shape(x).as_nhwc();
    let co = tape.shape(call.y).as_nhwc()[3];
    let [blocks, weight_groups] = call.weight_dims(tape);
    let variant = reading(Variant::new(), source.x)
        .with("ROWS", u(rows))
        .with("COLS", u(cols))
        .with("START", u(source.start as usize));
    let of_floats = [x, call.y].iter().all(|id| tape.element(*id) == Element::F32);
    let kernel = if tape.limits().software && of_floats && is_narrow(cx, co) {
        // What the import says: it tells the two shaders apart.
        Kernel::new(NARROW[usize::from(cx == 8)], "forward", variant.with("V_FLOATS", u(cx)))
    } else {
        Kernel::new(DIRECT, "forward", stored(stored(variant, "X", tape, x), "Y", tape, call.y))
    };
    let (tile_rows, tile_cols) = (h.div_ceil(rows), w.div_ceil(cols));
    for images in tape.image_slices(&[x, call.y]) {
        let groups_per_block = (images.len() * tile_rows * tile_cols).div_ceil(64);
        let params = DirectParams {
            images: images.len() as u32,
            height: h as u32,
            width: w as u32,
            x_groups: (cx / 4) as u32,
            weight_groups: weight_groups as u32,
            weight_first: source.first as u32,
            blocks: blocks as u32,
            out_channels: co as u32,
            tile_rows: tile_rows as u32,
            tile_cols: tile_cols as u32,
            groups_per_block: groups_per_block as u32,
        };
        tape.dispatch(kernel.clone())
            .images(x, &images)
            .weight_of(call)
            .tensor(call.bias.unwrap_or(call.weight))
            .images(call.y, &images)
            .read_and_written(source.start == Start::Y)
            .coefficients(source.x, call.weight)
            .params(&params)
            .flops(2 * images.len() * h * w * cx * co * 9)
            .groups(groups_per_block * blocks);
    }
}
