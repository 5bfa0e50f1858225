//! Winograd's F(4x4, 3x3) and F(2x2, 3x3) for [`super::convolution`]: four or 2.25 times fewer multiplications, in four passes over
//! ranges of tiles that are small enough for a binding, and not much larger than a cache.

use std::ops::Range;

use super::common::{block_of, blocks_a_lane, busy_invocations, by_eights, reading, splits_for, stored, u};
use super::convolution::{Call, Start};
use super::filtering::{FINISH, FLIPPED, Filtering, GRADIENT, INPUT, OUTPUT, WEIGHT};
use super::gradient_product::{Product, ProductParams};
use super::winograd_product::{self, Size};
use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::params;
use crate::tape::{Element, Flops, Moments, Prepared, Read, Shape, Tape, TensorId};

/// Transformed inputs and products of a range of tiles, at most, on a processor: beyond its nearest cache, since a range
/// is three dispatches more, and they cost more than that cache saves.
const RANGE_BYTES: usize = 32 << 20;
/// The same on a GPU: about what the caches of large ones hold.
const GPU_RANGE_BYTES: usize = 64 << 20;
/// Pixels of y whose moments one invocation gathers, at most.
const MOST_RUN_PIXELS: usize = 128;

const MULTIPLY: ShaderSource = ShaderSource {
    name: "conv2d_winograd_multiply",
    text: include_str!("../../shaders/conv2d_winograd_multiply.wgsl"),
};

/// The shaders of Winograd's passes.
pub(super) fn sources() -> impl Iterator<Item = ShaderSource> {
    [INPUT, OUTPUT, GRADIENT, WEIGHT, FLIPPED, FINISH].into_iter().flatten().flatten().chain([MULTIPLY])
}

/// Channels of an invocation.
fn channels_each(tape: &Tape, tensors: &[TensorId]) -> usize {
    if by_eights(tape, tensors) { 8 } else { 4 }
}

/// The same of a pass that keeps all of a tile: 36 numbers a channel are more than 128 registers hold of four.
fn fewer_channels(tape: &Tape, filtering: Filtering, tensors: &[TensorId]) -> usize {
    match filtering {
        Filtering::Four if tape.limits().few_registers => 2,
        _ => channels_each(tape, tensors),
    }
}

/// Sets the shader's type `alias` for the channels of an invocation, as a tensor stores them.
fn stored_channels(
    variant: Variant,
    (alias, channels): (&'static str, usize),
    tape: &Tape,
    id: TensorId,
) -> Variant {
    match (channels, tape.element(id)) {
        (2, Element::F16) => variant.with(alias, "vec2<f16>"),
        (2, Element::F32) => variant,
        _ => stored(variant, alias, tape, id),
    }
}

params! {
    struct WeightJob {
        first_group: u32, weight_at: u32, result_at: u32, count: u32, block_first: u32, groups: u32, weight_groups: u32,
        weight_first: u32, x_groups: u32, unused_0: u32, unused_1: u32, unused_2: u32,
    }
}

params! {
    struct FinishParams { count: u32, block_first: u32, groups: u32, splits: u32 }
}

params! {
    struct GradientParams {
        height: u32, width: u32, tile_rows: u32, tile_cols: u32, tile_first: u32, tiles: u32, m_groups: u32,
        out_first: u32, out_groups: u32,
    }
}

params! {
    struct WinogradParams {
        height: u32, width: u32, tile_rows: u32, tile_cols: u32, tile_first: u32, tiles: u32, x_groups: u32,
        v_groups: u32, v_first: u32,
    }
}

params! {
    struct MultiplyParams { tiles: u32, pairs: u32, blocks: u32, products: u32 }
}

params! {
    struct OutputParams {
        height: u32, width: u32, tile_rows: u32, tile_cols: u32, tile_first: u32, tiles: u32, m_groups: u32,
        out_first: u32, out_count: u32, out_groups: u32, tile_run: u32, moments_first: u32,
    }
}

/// Records `y = conv(x, weight) + bias` for all sources at once. Returns the transformed sources, where they are in one
/// piece.
pub(super) fn convolve(tape: &mut Tape, call: &Call, filtering: Filtering) -> Option<TensorId> {
    let [blocks, groups] = call.weight_dims(tape);
    let touched: Vec<TensorId> = call.sources.iter().map(|(x, _)| x.tensor).chain([call.y]).collect();
    let ranges = block_ranges(tape, filtering, blocks, groups);
    let tiles = Tiles::new(tape, filtering, &touched, groups, ranges[0].len());
    let moments = gathers(tape, call, &tiles);
    let mut transformed = tiles.reusable(tape, call.transformed);
    for outputs in ranges {
        let call = Call { transformed, sources: call.sources.clone(), ..*call };
        transformed = convolve_blocks(tape, &call, outputs, &tiles, moments);
    }
    transformed
}

/// How the batch is cut for all output blocks alike: into slices that fit a binding, and these into ranges of tiles.
struct Tiles {
    filtering: Filtering,
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
    fn new(tape: &Tape, filtering: Filtering, touched: &[TensorId], groups: usize, blocks: usize) -> Self {
        let [_, h, w, _] = tape.shape(touched[0]).as_nhwc();
        let (rows, cols) = (h.div_ceil(filtering.tile()), w.div_ceil(filtering.tile()));
        let slices = tape.image_slices(touched);
        let range = tiles_at_once(tape, filtering, groups, blocks).min(slices[0].len() * rows * cols);
        Self { filtering, height: h, width: w, rows, cols, slices, range }
    }

    /// Inputs that another pass has transformed, where it has by the same tiles, and all of them.
    fn reusable(&self, tape: &Tape, transformed: Option<TensorId>) -> Option<TensorId> {
        let tiles = [self.filtering.products(), self.range];
        transformed.filter(|v| self.is_whole() && tape.shape(*v).dims()[..2] == tiles)
    }

    /// Whether one range is all there is.
    fn is_whole(&self) -> bool {
        self.slices.len() == 1 && self.range == self.slices[0].len() * self.rows * self.cols
    }

    /// What the transform of inputs needs to know of a range.
    fn params(&self, first: usize, count: usize) -> WinogradParams {
        WinogradParams {
            height: self.height as u32,
            width: self.width as u32,
            tile_rows: self.rows as u32,
            tile_cols: self.cols as u32,
            tile_first: first as u32,
            tiles: count as u32,
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

/// As few equal ranges of output blocks as keep their transformed weights within a binding.
fn block_ranges(tape: &Tape, filtering: Filtering, blocks: usize, groups: usize) -> Vec<Range<usize>> {
    let most = (tape.limits().storage_binding_bytes / filtering.block_bytes(groups)) as usize;
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
    let (blocks, filtering) = (outputs.len(), tiles.filtering);
    let channels = fewer_channels(tape, filtering, &[call.y]);
    let out_first = outputs.start * 8 / channels;
    let mut last = OutputParams {
        height: tiles.height as u32,
        width: tiles.width as u32,
        tile_rows: tiles.rows as u32,
        tile_cols: tiles.cols as u32,
        m_groups: (blocks * 8 / channels) as u32,
        out_first: out_first as u32,
        out_count: ((outputs.end * 8).min(co) / channels - out_first) as u32,
        out_groups: (co / channels) as u32,
        ..bytemuck::Zeroable::zeroed()
    };
    let transformed = call.transformed.filter(|_| tiles.is_whole());
    let u = transform_weight(tape, call, &outputs, filtering);
    let v = transformed.unwrap_or_else(|| winograd_v(tape, tiles, groups));
    let m = tape.transient("winograd m", Shape::new([filtering.products(), tiles.range, blocks, 8]));
    let size = Size { products: filtering.products(), tiles: 0, groups, blocks };
    for (slice, images, first, count) in tiles.ranges() {
        (last.tile_first, last.tiles) = (first as u32, count as u32);
        if transformed.is_none() {
            transform_input(
                tape,
                (&call.sources, call.weight),
                (v, filtering),
                tiles.params(first, count),
                &images,
            );
        }
        let flops = filtering.flops(count, groups * 4, last.out_count as usize * channels);
        multiply(tape, (v, u, m), Size { tiles: count, ..size }, flops);
        if let Some(moments) = moments {
            let before = slice * moments.splits + first * filtering.tile().pow(2) / moments.split_pixels;
            last.moments_first = before as u32;
        }
        transform_output(tape, (call, m, filtering), moments, last, &images);
    }
    tiles.is_whole().then_some(v)
}

/// Tiles of a range: those of [`RANGE_BYTES`], or of [`GPU_RANGE_BYTES`].
fn tiles_at_once(tape: &Tape, filtering: Filtering, groups: usize, blocks: usize) -> usize {
    let limits = tape.limits();
    let (v_bytes, m_bytes) = (filtering.products() * groups * 16, filtering.products() * blocks * 32);
    let bound = limits.storage_binding_bytes as usize / v_bytes.max(m_bytes);
    let wanted = if limits.software { RANGE_BYTES } else { GPU_RANGE_BYTES } / (v_bytes + m_bytes);
    (wanted.max(64) / 64 * 64).min(bound)
}

fn transform_weight(tape: &mut Tape, call: &Call, outputs: &Range<usize>, filtering: Filtering) -> Prepared {
    let groups = call.weight_dims(tape)[1];
    let count = outputs.len() * groups * 8;
    let mut job = WeightJob {
        count: count as u32,
        block_first: outputs.start as u32,
        groups: groups as u32,
        ..bytemuck::Zeroable::zeroed()
    };
    let channels = if tape.limits().software { 8 } else { 4 };
    let mut kernel = filtering.kernel(WEIGHT, "transform_weight", channels, Variant::new());
    let mut invocations = count * 4 / channels;
    if let Some(first) = call.flip_from {
        let inputs = if tape.limits().software { 4 } else { 1 };
        kernel = filtering.kernel(FLIPPED, "transform_flipped", 4, Variant::new().with("INPUTS", u(inputs)));
        invocations = count / inputs;
        job.weight_groups = tape.shape(call.weight).dims()[1] as u32;
        job.weight_first = first as u32;
        job.x_groups = (tape.shape(call.y).as_nhwc()[3] / 4) as u32;
    }
    let len = filtering.products() * count * 4;
    tape.prepare(kernel, call.weight, &job, (len, Element::F32), invocations)
}

/// Room for transformed inputs of a range of tiles.
fn winograd_v(tape: &mut Tape, tiles: &Tiles, groups: usize) -> TensorId {
    tape.transient("winograd v", Shape::new([tiles.filtering.products(), tiles.range, groups, 4]))
}

fn transform_input(
    tape: &mut Tape,
    (sources, weight): (&[(Read, usize)], TensorId),
    (v, filtering): (TensorId, Filtering),
    params: WinogradParams,
    images: &Range<usize>,
) {
    let tensors: Vec<TensorId> = sources.iter().map(|(x, _)| x.tensor).collect();
    // All alike, as they are stored.
    let channels = fewer_channels(tape, filtering, &tensors);
    let v_channels = tape.shape(v).dims()[2] * 4;
    for (x, first) in sources {
        let x_groups = tape.shape(x.tensor).as_nhwc()[3] / channels;
        let params = WinogradParams {
            x_groups: x_groups as u32,
            v_groups: (v_channels / channels) as u32,
            v_first: (first * 4 / channels) as u32,
            ..params
        };
        let mut variant = stored(reading(Variant::new(), *x), "X", tape, x.tensor);
        if channels == 2 {
            variant = stored_channels(variant, ("Channels", channels), tape, x.tensor);
        }
        let dispatch = tape.dispatch(filtering.kernel(INPUT, "transform_input", channels, variant));
        let dispatch = dispatch.images(x.tensor, images).coefficients(*x, weight).tensor(v);
        dispatch.params(&params).invocations(params.tiles as usize * x_groups);
    }
}

fn multiply(tape: &mut Tape, (v, weights, m): (TensorId, Prepared, TensorId), size: Size, flops: Flops) {
    if !tape.limits().software {
        return winograd_product::multiply(tape, (v, weights, m), &size, flops);
    }
    let Size { products, tiles, groups, blocks } = size;
    // As many tiles a lane as leave no lane of a subgroup idle.
    let each = block_of(tiles / 8, 8);
    let blocks_each = blocks_a_lane(blocks, 2 * products * tiles * groups * 4 * blocks * 8);
    let workgroups = tiles.div_ceil(each * 8) * blocks.div_ceil(blocks_each) * products;
    let variant = Variant::new().with("TILES", u(each)).with("BLOCKS", u(blocks_each));
    let params = MultiplyParams {
        tiles: tiles as u32,
        pairs: (groups / 2) as u32,
        blocks: blocks as u32,
        products: products as u32,
    };
    let dispatch = tape.dispatch(Kernel::new(MULTIPLY, "multiply", variant));
    dispatch.tensor(v).prepared(weights).tensor(m).params(&params).flops(flops).groups(workgroups);
}

fn transform_output(
    tape: &mut Tape,
    (call, m, filtering): (&Call, TensorId, Filtering),
    moments: Option<Moments>,
    mut params: OutputParams,
    images: &Range<usize>,
) {
    let channels = fewer_channels(tape, filtering, &[call.y]);
    let (mut entry, mut runs) = ("transform_output", params.tiles as usize);
    let variant = stored_channels(Variant::new(), ("Y", channels), tape, call.y);
    let variant = variant.with("START", u(call.start as usize));
    if let Some(moments) = moments {
        let run = moments.split_pixels / filtering.tile().pow(2);
        (entry, runs) = ("transform_output_moments", runs.div_ceil(run));
        params.tile_run = run as u32;
    }
    let dispatch = tape.dispatch(filtering.kernel(OUTPUT, entry, channels, variant)).tensor(m);
    // Where there is no bias, something must be bound all the same.
    let dispatch = dispatch.tensor(call.bias.unwrap_or(call.weight)).images(call.y, images);
    let dispatch = dispatch.read_and_written(call.start == Start::Y);
    let dispatch = dispatch.also(moments.map(|moments| moments.part)).params(&params);
    dispatch.invocations(runs * params.out_count as usize);
}

/// Where the moments of y go, where they are wanted: not of images that end within a tile, whose tiles count unequally.
fn gathers(tape: &mut Tape, call: &Call, cut: &Tiles) -> Option<Moments> {
    let [_, h, w, co] = tape.shape(call.y).as_nhwc();
    let tile = cut.filtering.tile();
    if !h.is_multiple_of(tile) || !w.is_multiple_of(tile) {
        return None;
    }
    let slice_pixels = cut.slices[0].len() * h * w;
    let tiles = slice_pixels / tile.pow(2);
    // As long runs as leave the device busy; a range of tiles that another one follows is made of whole runs.
    let runs = tiles * co / fewer_channels(tape, cut.filtering, &[call.y]);
    let run = block_of(runs / busy_invocations(tape), MOST_RUN_PIXELS / tile.pow(2));
    let run = if cut.range == tiles || cut.range.is_multiple_of(run) { run } else { 1 };
    call.gathers(tape, call.sources.len() - 1, cut.slices.len(), slice_pixels, run * tile.pow(2))
}

/// Records the weight's gradient, for all sources at once; where they are there, from their transforms.
pub(super) fn weight_gradient(
    tape: &mut Tape,
    (sources, transformed): (&[(Read, usize)], Option<TensorId>),
    (dy, weight): (TensorId, TensorId),
    filtering: Filtering,
) {
    let [blocks, groups] = [tape.shape(weight).dims()[0], tape.shape(weight).dims()[1]];
    let touched: Vec<TensorId> = sources.iter().map(|(x, _)| x.tensor).chain([dy]).collect();
    let ranges = block_ranges(tape, filtering, blocks, groups);
    let tiles = Tiles::new(tape, filtering, &touched, groups, ranges[0].len());
    let mut transformed = tiles.reusable(tape, transformed);
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
    let (filtering, products) = (tiles.filtering, tiles.filtering.products());
    let v = transformed.unwrap_or_else(|| winograd_v(tape, tiles, groups));
    // Eight lanes with broadcasts, or a GPU's workgroups.
    let product = tape.limits().software.then(|| Product::new(tape, groups, blocks));
    let size = Size { products, tiles: tiles.range, groups, blocks };
    let (lanes, least) = match &product {
        Some(product) => (products * product.lanes, 8),
        None => (winograd_product::gradient_lanes(&size), 256),
    };
    let splits = splits_for(tape, tiles.range, lanes, least, products * blocks * groups * 32);
    let m = tape.transient("winograd m", Shape::new([products, tiles.range, blocks, 8]));
    let part = tape.transient("winograd part", Shape::new([splits, products, blocks, groups, 4, 8]));
    let channels = channels_each(tape, &[dy]);
    let mut params = GradientParams {
        height: tiles.height as u32,
        width: tiles.width as u32,
        tile_rows: tiles.rows as u32,
        tile_cols: tiles.cols as u32,
        tile_first: 0,
        tiles: 0,
        m_groups: (blocks * 8 / channels) as u32,
        out_first: (outputs.start * 8 / channels) as u32,
        out_groups: (co / channels) as u32,
    };
    let mut factors = ProductParams {
        width: tiles.width as u32,
        tiles: 0,
        groups: groups as u32,
        blocks: blocks as u32,
        splits: splits as u32,
        products: products as u32,
    };
    let mut adds = false;
    for (_, images, first, count) in tiles.ranges() {
        params.tile_first = first as u32;
        params.tiles = count as u32;
        if transformed.is_none() {
            transform_input(tape, (sources, weight), (v, filtering), tiles.params(first, count), &images);
        }
        let variant = stored(Variant::new(), "Y", tape, dy);
        tape.dispatch(filtering.kernel(GRADIENT, "transform_gradient", channels, variant))
            .images(dy, &images)
            .tensor(m)
            .params(&params)
            .invocations(count * params.m_groups as usize);
        let flops = filtering.flops(count, groups * 4, (blocks * 8).min(co - outputs.start * 8));
        if let Some(product) = &product {
            factors.tiles = params.tiles;
            let kernel = product.kernel(Variant::new().with("ADD_TO", adds));
            let dispatch = tape.dispatch(kernel).tensor(v).tensor(m).tensor(part).read_and_written(adds);
            let dispatch = dispatch.coefficients(v.into(), v);
            dispatch.params(&factors).flops(flops).invocations(splits * lanes);
        } else {
            let size = Size { tiles: count, ..size };
            winograd_product::multiply_gradient(tape, [v, m, part], &size, adds, flops);
        }
        adds = true;
    }
    finish(tape, part, weight, outputs.start, filtering);
    v
}

/// Adds the splits up and takes them back to taps, from this block of the weight on.
fn finish(tape: &mut Tape, part: TensorId, weight: TensorId, block_first: usize, filtering: Filtering) {
    let channels = if tape.limits().software { 8 } else { fewer_channels(tape, filtering, &[]) };
    let dims = tape.shape(part).dims();
    let (splits, groups, count) = (dims[0], dims[3], dims[2] * dims[3] * 32 / channels);
    let params = FinishParams {
        count: count as u32,
        block_first: block_first as u32,
        groups: groups as u32,
        splits: splits as u32,
    };
    let dw = tape.weight_gradient(weight);
    let kernel = filtering.kernel(
        FINISH,
        "finish",
        channels,
        Variant::new().with("ACCUMULATE", tape.accumulate() != 0),
    );
    let adds = tape.accumulate() != 0;
    tape.dispatch(kernel).tensor(part).tensor(dw).read_and_written(adds).params(&params).invocations(count);
}
