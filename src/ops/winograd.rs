//! Winograd's F(4x4, 3x3) for [`super::convolution`]: four times fewer multiplications, in four passes over ranges of
//! tiles that are small enough for a binding, and not much larger than a cache.

use std::ops::Range;

use super::common::{
    Scatter, block_of, busy_invocations, reading, split_sum, splits_for, splits_of_loops, stored, u,
};
use super::convolution::Call;
use super::winograd_product::{self, PRODUCTS, Product, Size};
use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::params;
use crate::tape::{Element, Moments, Prepared, Read, Shape, Tape, TensorId};

const SHADER: ShaderSource =
    ShaderSource { name: "conv2d_winograd", text: include_str!("../../shaders/conv2d_winograd.wgsl") };
/// Transformed inputs and products of a range of tiles, at most, on a processor: beyond its nearest cache, since a range
/// is three dispatches more, and they cost more than that cache saves.
const RANGE_BYTES: usize = 32 << 20;
/// The same on a GPU: about what the caches of large ones hold.
const GPU_RANGE_BYTES: usize = 64 << 20;
/// Outputs of a tile, a side.
const TILE: usize = 4;

const OUTPUT: ShaderSource = ShaderSource {
    name: "conv2d_winograd_output",
    text: include_str!("../../shaders/conv2d_winograd_output.wgsl"),
};
const GRADIENT: ShaderSource = ShaderSource {
    name: "conv2d_winograd_gradient",
    text: include_str!("../../shaders/conv2d_winograd_gradient.wgsl"),
};
const WEIGHT: ShaderSource = ShaderSource {
    name: "conv2d_winograd_weight",
    text: include_str!("../../shaders/conv2d_winograd_weight.wgsl"),
};

const FINISH: ShaderSource = ShaderSource {
    name: "conv2d_winograd_finish",
    text: include_str!("../../shaders/conv2d_winograd_finish.wgsl"),
};

/// The shaders of Winograd's passes.
pub(super) const SOURCES: &[ShaderSource] = &[SHADER, OUTPUT, GRADIENT, WEIGHT, FINISH];

params! {
    struct WeightJob {
        first_group: u32, weight_at: u32, result_at: u32, count: u32, block_first: u32, groups: u32, weight_groups: u32,
        weight_first: u32, x_groups: u32, unused_0: u32, unused_1: u32, unused_2: u32,
    }
}

params! {
    struct FinishParams { count: u32, block_first: u32, groups: u32, splits: u32, accumulate: u32 }
}

params! {
    struct GradientParams {
        height: u32, width: u32, tile_rows: u32, tile_cols: u32, tile_first: u32, tiles: u32, blocks: u32,
        out_first: u32, out_groups: u32,
    }
}

params! {
    struct ProductParams { width: u32, tiles: u32, groups: u32, blocks: u32, splits: u32 }
}

params! {
    struct WinogradParams {
        height: u32, width: u32, tile_rows: u32, tile_cols: u32, tile_first: u32, tiles: u32, x_groups: u32,
        v_groups: u32, v_first: u32, blocks: u32,
    }
}

params! {
    struct OutputParams {
        height: u32, width: u32, tile_rows: u32, tile_cols: u32, tile_first: u32, tiles: u32, blocks: u32,
        out_first: u32, out_count: u32, out_groups: u32, moments_first: u32,
    }
}

/// Where a range of tiles goes through.
struct Work<'a> {
    call: &'a Call,
    u: Prepared,
    v: TensorId,
    m: TensorId,
    /// Channels of y, those that this is about.
    outputs: usize,
}

/// Records `y = conv(x, weight) + bias` for all sources at once. Returns the transformed sources, where they are in one
/// piece.
pub(super) fn convolve(tape: &mut Tape, call: &Call) -> Option<TensorId> {
    let [blocks, groups] = call.weight_dims(tape);
    let touched: Vec<TensorId> = call.sources.iter().map(|(x, _)| x.tensor).chain([call.y]).collect();
    let ranges = block_ranges(tape, blocks, groups);
    let tiles = Tiles::new(tape, &touched, groups, ranges[0].len());
    let moments = gathers(tape, call, &tiles);
    let mut transformed = call.transformed;
    for outputs in ranges {
        let call = Call { transformed, sources: call.sources.clone(), ..*call };
        transformed = convolve_blocks(tape, &call, outputs, &tiles, moments);
    }
    transformed
}

/// How the batch is cut for all output blocks alike: into slices that fit a binding, and these into ranges of tiles.
struct Tiles {
    height: usize,
    width: usize,
    rows: usize,
    cols: usize,
    slices: Vec<Range<usize>>,
    /// Tiles of a range, all but the last one's of a slice.
    range: usize,
}

impl Tiles {
    /// For bindings to `touched`, transformed inputs of `groups` and products of `blocks` at most.
    fn new(tape: &Tape, touched: &[TensorId], groups: usize, blocks: usize) -> Self {
        let [_, h, w, _] = tape.shape(touched[0]).as_nhwc();
        let (rows, cols) = (h.div_ceil(TILE), w.div_ceil(TILE));
        let slices = tape.image_slices(touched);
        let range = tiles_at_once(tape, groups, blocks).min(slices[0].len() * rows * cols);
        Self { height: h, width: w, rows, cols, slices, range }
    }

    /// Whether one range is all there is.
    fn is_whole(&self) -> bool {
        self.slices.len() == 1 && self.range == self.slices[0].len() * self.rows * self.cols
    }

    /// What the transform of inputs of `groups` and the products need to know of a range.
    fn params(&self, groups: usize, first: usize, count: usize) -> WinogradParams {
        WinogradParams {
            height: self.height as u32,
            width: self.width as u32,
            tile_rows: self.rows as u32,
            tile_cols: self.cols as u32,
            tile_first: first as u32,
            tiles: count as u32,
            v_groups: groups as u32,
            ..bytemuck::Zeroable::zeroed()
        }
    }

    /// Slice, images, first tile and number of tiles of each range.
    fn ranges(&self) -> impl Iterator<Item = (usize, Range<usize>, usize, usize)> {
        self.slices.iter().enumerate().flat_map(move |(slice, images)| {
            let tiles = images.len() * self.rows * self.cols;
            let ranges = (0..tiles).step_by(self.range);
            ranges.map(move |first| (slice, images.clone(), first, self.range.min(tiles - first)))
        })
    }
}

/// What a range of tiles may take, for the tuner's digest.
pub(super) fn ranges() -> String {
    format!("{RANGE_BYTES} {GPU_RANGE_BYTES}")
}

/// Bytes of a block of 8 outputs among the transformed weights, or their gradient's partial sums.
pub(super) fn block_bytes(groups: usize) -> u64 {
    (PRODUCTS * groups * 32 * 4) as u64
}

/// As few equal ranges of output blocks as keep their transformed weights within a binding.
fn block_ranges(tape: &Tape, blocks: usize, groups: usize) -> Vec<Range<usize>> {
    let most = (tape.limits().storage_binding_bytes / block_bytes(groups)) as usize;
    let each = blocks.div_ceil(blocks.div_ceil(most));
    (0..blocks).step_by(each).map(|first| first..(first + each).min(blocks)).collect()
}

/// [`convolve`] for a range of blocks of outputs.
fn convolve_blocks(
    tape: &mut Tape,
    call: &Call,
    outputs: Range<usize>,
    tiles: &Tiles,
    moments: Option<Moments>,
) -> Option<TensorId> {
    let co = tape.shape(call.y).as_nhwc()[3];
    let groups = call.weight_dims(tape)[1];
    let blocks = outputs.len();
    let mut last = OutputParams {
        height: tiles.height as u32,
        width: tiles.width as u32,
        tile_rows: tiles.rows as u32,
        tile_cols: tiles.cols as u32,
        blocks: blocks as u32,
        out_first: (outputs.start * 2) as u32,
        out_count: (outputs.end * 2).min(co / 4) as u32 - (outputs.start * 2) as u32,
        out_groups: (co / 4) as u32,
        ..bytemuck::Zeroable::zeroed()
    };
    let transformed = call.transformed.filter(|_| tiles.is_whole());
    let u = transform_weight(tape, call, &outputs);
    let v = transformed.unwrap_or_else(|| winograd_v(tape, tiles.range, groups));
    let m = tape.transient("winograd m", Shape::new([PRODUCTS, tiles.range, blocks, 8]));
    let work = Work { call, u, v, m, outputs: last.out_count as usize * 4 };
    for (slice, images, first, count) in tiles.ranges() {
        let params = WinogradParams { blocks: blocks as u32, ..tiles.params(groups, first, count) };
        (last.tile_first, last.tiles) = (first as u32, count as u32);
        if transformed.is_none() {
            transform_input(tape, (&call.sources, call.weight), v, params, &images);
        }
        multiply(tape, &work, params);
        if let Some(moments) = moments {
            let before = slice * moments.splits + first * TILE * TILE / moments.split_pixels;
            last.moments_first = before as u32;
        }
        transform_output(tape, &work, moments, last, &images);
    }
    tiles.is_whole().then_some(v)
}

/// Tiles of a range: those of [`RANGE_BYTES`], or of [`GPU_RANGE_BYTES`].
fn tiles_at_once(tape: &Tape, groups: usize, blocks: usize) -> usize {
    let limits = tape.limits();
    let (v_bytes, m_bytes) = (PRODUCTS * groups * 16, PRODUCTS * blocks * 32);
    let bound = limits.storage_binding_bytes as usize / v_bytes.max(m_bytes);
    let wanted = if limits.software { RANGE_BYTES } else { GPU_RANGE_BYTES } / (v_bytes + m_bytes);
    (wanted.max(64) / 64 * 64).min(bound)
}

fn transform_weight(tape: &mut Tape, call: &Call, outputs: &Range<usize>) -> Prepared {
    let groups = call.weight_dims(tape)[1];
    let count = outputs.len() * groups * 8;
    let mut job = WeightJob {
        count: count as u32,
        block_first: outputs.start as u32,
        groups: groups as u32,
        ..bytemuck::Zeroable::zeroed()
    };
    let (mut entry, mut invocations) = ("transform_weight", count);
    if let Some(first) = call.flip_from {
        (entry, invocations) = ("transform_flipped", count / 4);
        job.weight_groups = tape.shape(call.weight).dims()[1] as u32;
        job.weight_first = first as u32;
        job.x_groups = (tape.shape(call.y).as_nhwc()[3] / 4) as u32;
    }
    let kernel = Kernel::new(WEIGHT, entry, Variant::new());
    tape.prepare(kernel, call.weight, &job, (PRODUCTS * count * 4, Element::F32), invocations)
}

/// Room for transformed inputs of so many tiles.
fn winograd_v(tape: &mut Tape, tiles: usize, groups: usize) -> TensorId {
    tape.transient("winograd v", Shape::new([PRODUCTS, tiles, groups, 4]))
}

fn transform_input(
    tape: &mut Tape,
    (sources, weight): (&[(Read, usize)], TensorId),
    v: TensorId,
    params: WinogradParams,
    images: &Range<usize>,
) {
    for (x, first) in sources {
        let x_groups = tape.shape(x.tensor).as_nhwc()[3] / 4;
        let params = WinogradParams { x_groups: x_groups as u32, v_first: *first as u32, ..params };
        let variant = stored(reading(Variant::new(), *x), "X", tape, x.tensor);
        let dispatch = tape.dispatch(Kernel::new(SHADER, "transform_input", variant));
        let dispatch = dispatch.images(x.tensor, images).coefficients(*x, weight).tensor(v);
        dispatch.params(&params).invocations(params.tiles as usize * x_groups);
    }
}

fn multiply(tape: &mut Tape, work: &Work, params: WinogradParams) {
    let (tiles, blocks) = (params.tiles as usize, params.blocks as usize);
    // Counted as the convolution that it stands for, so that forms compare.
    let flops = 2 * tiles * TILE * TILE * 9 * params.v_groups as usize * 4 * work.outputs;
    if !tape.limits().software {
        let size = Size { tiles, groups: params.v_groups as usize, blocks };
        return winograd_product::multiply(tape, (work.v, work.u, work.m), &size, flops);
    }
    // As many tiles a lane as leave no lane of a subgroup idle.
    let each = block_of(tiles / 8, 8);
    // More outputs a lane share the loads of its tiles; beyond 32 the sums leave the processor's first cache.
    let blocks_each = block_of(blocks, 4);
    let groups = tiles.div_ceil(each * 8) * blocks.div_ceil(blocks_each) * PRODUCTS;
    let variant = Variant::new().with("TILES", u(each)).with("BLOCKS", u(blocks_each));
    let dispatch = tape.dispatch(Kernel::new(SHADER, "multiply", variant));
    dispatch.tensor(work.v).prepared(work.u).tensor(work.m).params(&params).flops(flops).groups(groups);
}

fn transform_output(
    tape: &mut Tape,
    work: &Work,
    moments: Option<Moments>,
    params: OutputParams,
    images: &Range<usize>,
) {
    let call = work.call;
    let (mut entry, mut runs) = ("transform_output", params.tiles as usize);
    let mut variant = stored(Variant::new(), "Y", tape, call.y).with("START", u(call.start as usize));
    if let Some(moments) = moments {
        let run = moments.split_pixels / (TILE * TILE);
        (entry, runs) = ("transform_output_moments", runs.div_ceil(run));
        variant = variant.with("TILE_RUN", u(run));
    }
    let dispatch = tape.dispatch(Kernel::new(OUTPUT, entry, variant)).tensor(work.m);
    // Where there is no bias, something must be bound all the same.
    let dispatch = dispatch.tensor(call.bias.unwrap_or(call.weight)).images(call.y, images);
    let dispatch = dispatch.also(moments.map(|moments| moments.part)).params(&params);
    dispatch.invocations(runs * params.out_count as usize);
}

/// Where the moments of y go, where they are wanted: not of images that end within a tile, whose tiles count unequally.
fn gathers(tape: &mut Tape, call: &Call, cut: &Tiles) -> Option<Moments> {
    let [_, h, w, co] = tape.shape(call.y).as_nhwc();
    if !h.is_multiple_of(TILE) || !w.is_multiple_of(TILE) {
        return None;
    }
    let slice_pixels = cut.slices[0].len() * h * w;
    let tiles = slice_pixels / (TILE * TILE);
    // As long runs as leave the device busy; a range of tiles that another one follows is made of whole runs.
    let run = block_of(tiles * co / 4 / busy_invocations(tape), 8);
    let run = if cut.range == tiles || cut.range.is_multiple_of(run) { run } else { 1 };
    call.gathers(tape, call.sources.len() - 1, cut.slices.len(), slice_pixels, run * TILE * TILE)
}

/// Records the weight's gradient, for all sources at once; where they are there, from their transforms.
pub(super) fn weight_gradient(
    tape: &mut Tape,
    (sources, transformed): (&[(Read, usize)], Option<TensorId>),
    dy: TensorId,
    weight: TensorId,
) {
    let [blocks, groups] = [tape.shape(weight).dims()[0], tape.shape(weight).dims()[1]];
    let touched: Vec<TensorId> = sources.iter().map(|(x, _)| x.tensor).chain([dy]).collect();
    let ranges = block_ranges(tape, blocks, groups);
    let tiles = Tiles::new(tape, &touched, groups, ranges[0].len());
    let mut transformed = transformed.filter(|_| tiles.is_whole());
    for outputs in ranges {
        let v = weight_gradient_blocks(tape, (sources, transformed), (dy, weight), outputs, &tiles);
        transformed = Some(v).filter(|_| tiles.is_whole());
    }
}

/// [`weight_gradient`] for a range of blocks of outputs. Returns the transformed sources, those of the last range of tiles.
fn weight_gradient_blocks(
    tape: &mut Tape,
    (sources, transformed): (&[(Read, usize)], Option<TensorId>),
    (dy, weight): (TensorId, TensorId),
    outputs: Range<usize>,
    tiles: &Tiles,
) -> TensorId {
    let co = tape.shape(dy).as_nhwc()[3];
    let (blocks, groups) = (outputs.len(), tape.shape(weight).dims()[1]);
    let v = transformed.unwrap_or_else(|| winograd_v(tape, tiles.range, groups));
    // Eight lanes with broadcasts, or a GPU's workgroups.
    let product = tape.limits().software.then(|| Product::new(tape, groups, blocks));
    let (lanes, least) = match &product {
        Some(product) => (PRODUCTS * product.lanes, 8),
        None => (winograd_product::gradient_lanes(groups, blocks), 256),
    };
    let splits = splits_for(tape, tiles.range, lanes, least, PRODUCTS * blocks * groups * 32);
    let m = tape.transient("winograd m", Shape::new([PRODUCTS, tiles.range, blocks, 8]));
    let part = tape.transient("winograd part", Shape::new([splits, PRODUCTS, blocks, groups, 4, 8]));
    let mut params = GradientParams {
        height: tiles.height as u32,
        width: tiles.width as u32,
        tile_rows: tiles.rows as u32,
        tile_cols: tiles.cols as u32,
        tile_first: 0,
        tiles: 0,
        blocks: blocks as u32,
        out_first: (outputs.start * 2) as u32,
        out_groups: (co / 4) as u32,
    };
    let mut factors = ProductParams {
        width: tiles.width as u32,
        tiles: 0,
        groups: groups as u32,
        blocks: blocks as u32,
        splits: splits as u32,
    };
    let mut adds = false;
    for (_, images, first, count) in tiles.ranges() {
        params.tile_first = first as u32;
        params.tiles = count as u32;
        if transformed.is_none() {
            transform_input(tape, (sources, weight), v, tiles.params(groups, first, count), &images);
        }
        transform_gradient(tape, (dy, m), params, &images);
        let flops = 2 * count * TILE * TILE * 9 * groups * 4 * (blocks * 8).min(co - outputs.start * 8);
        if let Some(product) = &product {
            factors.tiles = params.tiles;
            let kernel = product.kernel(Variant::new().with("ADD_TO", adds));
            let dispatch = tape.dispatch(kernel).tensor(v).tensor(m).tensor(part).coefficients(v.into(), v);
            dispatch.params(&factors).flops(flops).invocations(splits * lanes);
        } else {
            let size = Size { tiles: count, groups, blocks };
            winograd_product::multiply_gradient(tape, [v, m, part], &size, adds, flops);
        }
        adds = true;
    }
    finish(tape, part, weight, outputs.start);
    v
}

/// Adds the splits up and takes them back to taps, from this block of the weight on.
fn finish(tape: &mut Tape, part: TensorId, weight: TensorId, block_first: usize) {
    let dims = tape.shape(part).dims();
    let (splits, groups, count) = (dims[0], dims[3], dims[2] * dims[3] * 8);
    let params = FinishParams {
        count: count as u32,
        block_first: block_first as u32,
        groups: groups as u32,
        splits: splits as u32,
        accumulate: tape.accumulate(),
    };
    let dw = tape.weight_gradient(weight);
    let kernel = Kernel::new(FINISH, "finish", Variant::new());
    tape.dispatch(kernel).tensor(part).tensor(dw).params(&params).invocations(count);
}

fn transform_gradient(
    tape: &mut Tape,
    (dy, m): (TensorId, TensorId),
    params: GradientParams,
    images: &Range<usize>,
) {
    let kernel = Kernel::new(GRADIENT, "transform_gradient", stored(Variant::new(), "Y", tape, dy));
    let dispatch = tape.dispatch(kernel).images(dy, images).tensor(m).params(&params);
    dispatch.invocations(params.tiles as usize * params.blocks as usize * 2);
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
    let variant = variant.with("PRODUCTS", u(1)).with("M_SQUARES", squares);
    for images in slices {
        let pixels = images.len() * h * w;
        let params = ProductParams {
            width: w as u32,
            tiles: pixels as u32,
            groups: groups as u32,
            blocks: blocks as u32,
            splits: splits as u32,
        };
        let kernel = product.kernel(variant.clone().with("ADD_TO", images.start > 0));
        tape.dispatch(kernel)
            .images(x, &images)
            .images(dy, &images)
            .tensor(part)
            .coefficients(read, weight)
            .params(&params)
            .flops(2 * pixels * cx * blocks * 8)
            .invocations(product.lanes * splits);
    }
    let target = tape.weight_gradient(weight);
    let scatter = Scatter { unit: 32, from_groups: groups, to_groups: row_groups, first };
    split_sum(tape, part, target, scatter);
}
