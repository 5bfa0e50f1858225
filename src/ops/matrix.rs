//! Matrix units for [`super::convolution`]: activations stored as f16, weights rounded to f16, sums in f32.

use std::ops::Range;

use super::choice::{Form, Pass};
use super::common::{SumLanes, reading, splits_of_products, u};
use super::convolution::{Call, Start, seen};
use crate::gpu::{Kernel, Limits, MatrixUnits, ShaderSource, Variant};
use crate::params;
use crate::tape::{Element, Prepared, Read, Shape, Tape, TensorId};

/// A shader after the shared file for one kind of matrix units.
macro_rules! for_units {
    ($name:literal, $file:literal, $units:literal) => {
        ShaderSource {
            name: concat!($name, "_", $units),
            text: concat!("#import ", $units, "\n", include_str!(concat!("../../shaders/", $file))),
        }
    };
}

const FORWARD: [ShaderSource; 3] = [
    for_units!("conv2d", "conv2d_matrix.wgsl", "matrix8"),
    for_units!("conv2d", "conv2d_matrix.wgsl", "matrix16"),
    for_units!("conv2d", "conv2d_matrix.wgsl", "matrix_emulated"),
];
const FORWARD_ROWS: [ShaderSource; 3] = [
    for_units!("conv2d_rows", "conv2d_matrix_rows.wgsl", "matrix8"),
    for_units!("conv2d_rows", "conv2d_matrix_rows.wgsl", "matrix16"),
    for_units!("conv2d_rows", "conv2d_matrix_rows.wgsl", "matrix_emulated"),
];
const GRADIENT: [ShaderSource; 3] = [
    for_units!("conv2d_gradient", "conv2d_matrix_gradient.wgsl", "matrix8"),
    for_units!("conv2d_gradient", "conv2d_matrix_gradient.wgsl", "matrix16"),
    for_units!("conv2d_gradient", "conv2d_matrix_gradient.wgsl", "matrix_emulated"),
];
const GRADIENT_ROWS: [ShaderSource; 3] = [
    for_units!("conv2d_gradient_rows", "conv2d_matrix_gradient_rows.wgsl", "matrix8"),
    for_units!("conv2d_gradient_rows", "conv2d_matrix_gradient_rows.wgsl", "matrix16"),
    for_units!("conv2d_gradient_rows", "conv2d_matrix_gradient_rows.wgsl", "matrix_emulated"),
];
const PACK: ShaderSource =
    ShaderSource { name: "conv2d_matrix_pack", text: include_str!("../../shaders/conv2d_matrix_pack.wgsl") };
const GATHER: ShaderSource = ShaderSource {
    name: "conv2d_matrix_gather",
    text: include_str!("../../shaders/conv2d_matrix_gather.wgsl"),
};
/// The shaders of matrix units.
pub(super) const SOURCES: &[ShaderSource] = &[
    PACK,
    GATHER,
    FORWARD[0],
    FORWARD[1],
    FORWARD[2],
    FORWARD_ROWS[0],
    FORWARD_ROWS[1],
    FORWARD_ROWS[2],
    GRADIENT[0],
    GRADIENT[1],
    GRADIENT[2],
    GRADIENT_ROWS[0],
    GRADIENT_ROWS[1],
    GRADIENT_ROWS[2],
];

params! {
    struct MatrixParams {
        pixels: u32, height: u32, width: u32, x_groups: u32, weight_groups: u32, weight_first: u32, out_groups: u32,
        pixel_tiles: u32, start_from: u32, moments_first: u32, second_groups: u32, second_first: u32,
    }
}

params! {
    struct PackJob {
        first_group: u32, weight_at: u32, result_at: u32, taps: u32, groups: u32, weight_groups: u32, weight_first: u32,
        out_groups: u32,
    }
}

params! {
    struct GradientParams {
        pixels: u32, height: u32, width: u32, x_groups: u32, out_groups: u32, channel_tiles: u32, out_tiles: u32,
        per_split: u32, splits: u32, split_first: u32,
    }
}

params! {
    struct GatherParams {
        x_groups: u32, out_groups: u32, rows: u32, columns: u32, splits: u32, weight_groups: u32, weight_first: u32,
        accumulate: u32,
    }
}

/// Invocations of a workgroup.
const LANES: usize = 128;
/// Outputs of layers that get tiles of their own: few, and more.
pub(super) const OUTS: [usize; 2] = [64, 128];
/// Columns of the patches of an image whose taps share what they read.
const PATCH_COLUMNS: usize = 16;
/// Of a split of a weight's gradient.
const LEAST_PIXELS: usize = 512;

/// Whether a device has the matrix units of a form, and the memory for its workgroups in a layer of so many outputs.
pub(super) fn fits(form: Form, (pass, outs): (Pass, usize), limits: Limits) -> bool {
    let bytes = Tile::of(form, pass, outs).on(limits.matrix).workgroup_bytes(limits.matrix, pass);
    limits.matrix != MatrixUnits::None && bytes <= limits.workgroup_bytes as usize
}

/// The tiles of every form, for the tuner's digest.
pub(super) fn shapes() -> String {
    let passes = [Pass::Forward, Pass::WeightGradient];
    let tiles =
        Form::MATRIX.iter().flat_map(|form| passes.map(|pass| OUTS.map(|outs| Tile::of(*form, pass, outs))));
    format!("{:?}", tiles.collect::<Vec<_>>())
}

/// What a workgroup computes: rows (pixels, or input channels of a weight gradient) by outputs, and into how many parts
/// each is divided among subgroups: rows, outputs, and what is summed over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    rows: usize,
    outs: usize,
    shares: [usize; 3],
    /// Channels, or pixels of a weight gradient, a step.
    depth: usize,
    /// Taps that a workgroup computes of what it has read.
    taps: usize,
}

impl Tile {
    /// For layers with many channels on both sides.
    const WIDE: Self = Self { rows: 128, outs: 128, shares: [2, 2, 1], depth: 32, taps: 1 };
    /// For layers of 64 channels or less.
    const NARROW: Self = Self { rows: 128, outs: 64, shares: [4, 1, 1], depth: 32, taps: 1 };
    /// For the same layers where there are many pixels: a subgroup's part is as large as in the wide one.
    const TALL: Self = Self { rows: 256, outs: 64, shares: [4, 1, 1], depth: 32, taps: 1 };
    /// The narrow one for weight gradients, whose rows are channels too.
    const SMALL: Self = Self { rows: 64, outs: 64, shares: [2, 2, 1], depth: 32, taps: 1 };
    /// The tall one for weight gradients: every subgroup has the whole tile, of a quarter of the pixels.
    const DEEP: Self = Self { rows: 64, outs: 64, shares: [1, 1, 4], depth: 64, taps: 1 };
    /// The small one for a row of three taps.
    const ROWS: Self = Self { taps: 3, ..Self::SMALL };
    /// The wide and the tall one of patches of an image, for a row of three taps a step.
    const WIDE_PATCH: Self = Self { depth: 16, taps: 3, ..Self::WIDE };
    const TALL_PATCH: Self = Self { depth: 16, taps: 3, ..Self::TALL };

    /// The tile of a form that runs on matrix units, for a layer of so many outputs.
    pub(super) fn of(form: Form, pass: Pass, outs: usize) -> Self {
        match (form, pass) {
            (Form::MatrixNarrow, Pass::WeightGradient) => Self::SMALL,
            (Form::MatrixNarrow, _) => Self::NARROW,
            (Form::MatrixTall, Pass::WeightGradient) => Self::DEEP,
            (Form::MatrixTall, _) => Self::TALL,
            (Form::MatrixRows, Pass::WeightGradient) => Self::ROWS,
            (Form::MatrixRows, _) if outs <= OUTS[0] => Self::TALL_PATCH,
            (Form::MatrixRows, _) => Self::WIDE_PATCH,
            _ => Self::WIDE,
        }
    }

    /// The tile on a device: where units are emulated, half as much on both sides, since a lane does the work of many.
    fn on(self, units: MatrixUnits) -> Self {
        match units {
            MatrixUnits::Emulated => Self { rows: self.rows / 2, outs: self.outs / 2, ..self },
            _ => self,
        }
    }

    /// What a workgroup holds of both tiles, of the sums that are written and of moments (`matrix_shares.wgsl`).
    fn workgroup_bytes(self, units: MatrixUnits, pass: Pass) -> usize {
        let side = if units == MatrixUnits::Eight { 8 } else { 16 };
        let cells = |channels: usize| channels / 4 + 2;
        let tiles = match pass {
            // Two runs, each with a pixel more of x on both sides.
            Pass::WeightGradient if self.taps > 1 => {
                2 * ((self.depth + self.taps - 1) * cells(self.rows) + self.depth * cells(self.outs))
            }
            Pass::WeightGradient => self.depth * (cells(self.rows) + cells(self.outs)),
            // A patch with a pixel more on every side.
            _ if self.taps > 1 => {
                let around = (self.patch_rows() + self.taps - 1) * (PATCH_COLUMNS + self.taps - 1);
                (around + self.taps * self.outs) * cells(self.depth)
            }
            _ => (self.rows + self.outs) * cells(self.depth),
        };
        let written = (self.outs / self.shares[1]).min(32);
        let scratch = (self.shares.iter().product::<usize>() + 1) * side * (written + 4);
        let moments = if pass == Pass::Forward { 2 * LANES } else { 0 };
        tiles * 8 + scratch * 4 + moments * 16 + 4
    }

    /// Rows of the image in a patch.
    fn patch_rows(self) -> usize {
        self.rows / PATCH_COLUMNS
    }

    /// Into how many tiles an image of these sides is cut, where a tile is a patch; and whether all are whole.
    fn patches(self, h: usize, w: usize) -> (usize, bool) {
        let whole = h.is_multiple_of(self.patch_rows()) && w.is_multiple_of(PATCH_COLUMNS);
        (h.div_ceil(self.patch_rows()) * w.div_ceil(PATCH_COLUMNS), whole)
    }

    fn variant(self, rows: &'static str, kernel: usize) -> Variant {
        Variant::new()
            .with("DEPTH", u(self.depth))
            .with("K", u(kernel))
            .with(rows, u(self.rows))
            .with("OUTS", u(self.outs))
            .with("SHARES_M", u(self.shares[0]))
            .with("SHARES_N", u(self.shares[1]))
    }
}

fn source(of: &[ShaderSource; 3], tape: &Tape) -> ShaderSource {
    match tape.limits().matrix {
        MatrixUnits::Eight => of[0],
        MatrixUnits::Sixteen => of[1],
        MatrixUnits::Emulated => of[2],
        MatrixUnits::None => panic!("only for devices with matrix units"),
    }
}

/// Records `y = conv(x, weight) + bias` for all sources, one after the other or two at once.
pub(super) fn convolve(tape: &mut Tape, call: &Call, kernel: usize, tile: Tile) {
    let tile = tile.on(tape.limits().matrix);
    let [_, h, w, co] = seen(tape, call.y, call.y_squares);
    let (packed, weight_groups) = pack(tape, call, kernel, co);
    let plain = tile.variant("PIXELS", kernel);
    let (shaders, variant) = match tile.taps {
        1 => (&FORWARD, plain.with("X_SQUARES", call.x_squares).with("Y_SQUARES", call.y_squares)),
        _ => (&FORWARD_ROWS, plain.with("PATCH_COLUMNS", u(PATCH_COLUMNS))),
    };
    let (patches, all_whole) = tile.patches(h, w);
    // Moments are of tiles that are all alike, but for the last one of those that follow one another.
    let gathers = tile.taps == 1 || all_whole;
    let each = together(call, tile);
    for (chunk, pair) in call.sources.chunks(each).enumerate() {
        let ((read, first), second) = (pair[0], pair.get(1));
        let x = read.tensor;
        let channels = |id| seen(tape, id, call.x_squares)[3];
        let (cx, second_channels) = (channels(x), second.map_or(0, |(read, _)| channels(read.tensor)));
        let start = if chunk == 0 { call.start } else { Start::Y };
        let touched: Vec<TensorId> = pair.iter().map(|(read, _)| read.tensor).chain([call.y]).collect();
        let slices = tape.image_slices(&touched);
        let slice_pixels = slices[0].len() * h * w;
        let last = chunk * each + pair.len() - 1;
        let moments =
            gathers.then(|| call.gathers(tape, last, slices.len(), slice_pixels, tile.rows)).flatten();
        let entry = if moments.is_some() { "forward_moments" } else { "forward" };
        let variant = reading(variant.clone(), read);
        let variant = if tile.taps > 1 { variant.with("TWO", second.is_some()) } else { variant };
        let kernel_of = Kernel::new(source(shaders, tape), entry, variant);
        for (slice, images) in slices.into_iter().enumerate() {
            let pixels = images.len() * h * w;
            let pixel_tiles = match tile.taps {
                1 => pixels.div_ceil(tile.rows),
                _ => images.len() * patches,
            };
            let params = MatrixParams {
                pixels: pixels as u32,
                height: h as u32,
                width: w as u32,
                x_groups: (cx / 4) as u32,
                weight_groups: weight_groups as u32,
                weight_first: if call.flip_from.is_some() { 0 } else { first as u32 },
                out_groups: (co / 4) as u32,
                pixel_tiles: pixel_tiles as u32,
                start_from: start as u32,
                moments_first: moments.map_or(0, |moments| (slice * moments.splits) as u32),
                second_groups: (second_channels / 4) as u32,
                second_first: second.map_or(0, |(_, first)| *first as u32),
            };
            let dispatch = tape
                .dispatch(kernel_of.clone())
                .images(x, &images)
                .prepared(packed)
                .tensor(call.bias.unwrap_or(call.weight))
                .images(call.y, &images)
                .read_and_written(start == Start::Y)
                .coefficients(read, call.weight)
                .also(moments.map(|moments| moments.part));
            let dispatch = match second {
                Some((read, _)) => dispatch.images(read.tensor, &images),
                None if tile.taps > 1 => dispatch.nothing(call.weight),
                None => dispatch,
            };
            dispatch
                .params(&params)
                .flops(2 * pixels * (cx + second_channels) * co * kernel * kernel)
                .groups(pixel_tiles * co.div_ceil(tile.outs));
        }
    }
}

/// How many sources a dispatch takes: one, or where taps share what they read two that need not be normalised. Then y is rounded once less
/// than between two dispatches.
fn together(call: &Call, tile: Tile) -> usize {
    let is_plain = call.sources.iter().all(|(read, _)| read.normalisation.is_none());
    if tile.taps > 1 && is_plain { 2 } else { 1 }
}

/// The weight as f16 [K*K][CO][groups * 4], turned round for an input gradient; with its groups of input channels.
fn pack(tape: &mut Tape, call: &Call, kernel: usize, co: usize) -> (Prepared, usize) {
    let groups = call.weight_dims(tape)[1];
    let job = PackJob {
        taps: (kernel * kernel) as u32,
        groups: groups as u32,
        weight_groups: tape.shape(call.weight).dims()[1] as u32,
        weight_first: call.flip_from.unwrap_or(0) as u32,
        out_groups: (co / 4) as u32,
        ..bytemuck::Zeroable::zeroed()
    };
    let cells = kernel * kernel * co * groups;
    let variant = Variant::new().with("Stored", "vec4<f16>").with("FLIP", call.flip_from.is_some());
    let kernel = Kernel::new(PACK, "pack", variant);
    (tape.prepare(kernel, call.weight, &job, (cells * 4, Element::F16), cells), groups)
}

/// Records the gradient of a weight for one source, which starts at a group of the weight's.
pub(super) fn weight_gradient(
    tape: &mut Tape,
    (read, first): (Read, usize),
    dy: TensorId,
    weight: TensorId,
    (kernel, squares, tile): (usize, bool, Tile),
) {
    let [n, h, w, cx] = tape.shape(read.tensor).as_nhwc();
    let co = seen(tape, dy, squares)[3];
    let slices = tape.image_slices(&[read.tensor, dy]);
    let units = tape.limits().matrix;
    // Where the sums of all parts do not fit a binding, the smaller tile has one part.
    let len = |tile: Tile| {
        kernel * kernel * cx.next_multiple_of(tile.rows) * co.next_multiple_of(tile.outs) * tile.shares[2]
    };
    let tile = Some(tile.on(units))
        .filter(|tile| slices.len() * len(*tile) * 4 <= tape.limits().storage_binding_bytes as usize)
        .unwrap_or(Tile::SMALL.on(units));
    let tiles = [cx.div_ceil(tile.rows), co.div_ceil(tile.outs)];
    let per_split = kernel * kernel / tile.taps * tiles[0] * tiles[1];
    // What is summed over is pixels, or runs of them.
    let (items, least) = match tile.taps {
        1 => (slices[0].len() * h * w, LEAST_PIXELS),
        _ => (slices[0].len() * h * w.div_ceil(tile.depth), LEAST_PIXELS / tile.depth),
    };
    let flops = 2 * n * h * w * cx * co * kernel * kernel;
    let products = (per_split * LANES, flops);
    let splits = splits_of_products(tape, (items, 1), products, least, slices.len() * len(tile));
    // Every split has a sum for each part of its pixels.
    let all = splits * slices.len() * tile.shares[2];
    let (rows, columns) = (tiles[0] * tile.rows, tiles[1] * tile.outs);
    let part = tape.transient("matrix part", Shape::new([all, kernel * kernel, rows, columns]));
    let sums = PartialSums { read, dy, weight, kernel, squares, tile, tiles, splits, part };
    for (place, images) in slices.iter().enumerate() {
        sums.multiply(tape, place, images);
    }
    let dw = tape.weight_gradient(weight);
    let params = GatherParams {
        x_groups: (cx / 4) as u32,
        out_groups: (co / 4) as u32,
        rows: rows as u32,
        columns: columns as u32,
        splits: all as u32,
        weight_groups: tape.shape(weight).dims()[1] as u32,
        weight_first: first as u32,
        accumulate: tape.accumulate(),
    };
    let len = kernel * kernel * cx * co;
    let lanes = SumLanes::new(tape, len, all);
    let gather = Kernel::new(GATHER, "gather", lanes.variant(Variant::new().with("K", u(kernel))));
    let dispatch = tape.dispatch(gather).tensor(part).tensor(dw).read_and_written(params.accumulate != 0);
    dispatch.params(&params).groups(lanes.groups(len));
}

/// What the dispatches have in common that add up a weight's gradient, slice by slice.
struct PartialSums {
    read: Read,
    dy: TensorId,
    weight: TensorId,
    kernel: usize,
    squares: bool,
    tile: Tile,
    /// Tiles of input channels and of outputs.
    tiles: [usize; 2],
    splits: usize,
    part: TensorId,
}

impl PartialSums {
    fn multiply(&self, tape: &mut Tape, place: usize, images: &Range<usize>) {
        let [_, h, w, cx] = tape.shape(self.read.tensor).as_nhwc();
        let co = seen(tape, self.dy, self.squares)[3];
        let pixels = images.len() * h * w;
        let (shaders, items) = match self.tile.taps {
            1 => (&GRADIENT, pixels),
            _ => (&GRADIENT_ROWS, images.len() * h * w.div_ceil(self.tile.depth)),
        };
        let params = GradientParams {
            pixels: pixels as u32,
            height: h as u32,
            width: w as u32,
            x_groups: (cx / 4) as u32,
            out_groups: (co / 4) as u32,
            channel_tiles: self.tiles[0] as u32,
            out_tiles: self.tiles[1] as u32,
            per_split: items.div_ceil(self.splits) as u32,
            splits: self.splits as u32,
            split_first: (place * self.splits) as u32,
        };
        let mut variant = self.tile.variant("CHANNELS", self.kernel).with("SHARES_K", u(self.tile.shares[2]));
        if self.tile.taps == 1 {
            variant = variant.with("Y_SQUARES", self.squares);
        }
        let taps = self.kernel * self.kernel;
        tape.dispatch(Kernel::new(source(shaders, tape), "multiply", reading(variant, self.read)))
            .images(self.read.tensor, images)
            .images(self.dy, images)
            .tensor(self.part)
            .coefficients(self.read, self.weight)
            .params(&params)
            .flops(2 * pixels * cx * co * taps)
            .groups(taps / self.tile.taps * self.tiles[0] * self.tiles[1] * self.splits);
    }
}
