//! What several operations share: how sums over pixels are split and added, and small conversions.

use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::params;
use crate::tape::{Element, Read, Shape, Tape, TensorId};

const SPLIT_SUM: ShaderSource =
    ShaderSource { name: "split_sum", text: include_str!("../../shaders/split_sum.wgsl") };
const COLUMN_SUM: ShaderSource =
    ShaderSource { name: "column_sum", text: include_str!("../../shaders/column_sum.wgsl") };

params! {
    struct SplitSumParams {
        len: u32, splits: u32, accumulate: u32, unit: u32, x_groups: u32, weight_groups: u32, weight_first: u32,
    }
}

params! {
    struct ColumnSumParams { pixels: u32, groups: u32, pixels_per_split: u32, splits: u32, split_first: u32 }
}

/// An unsigned constant as WGSL writes it.
pub(super) fn u(value: usize) -> String {
    format!("{value}u")
}

/// Elements that an invocation takes at once, and the shader's type for them: four where the length allows.
pub(super) fn vector(len: usize) -> (usize, &'static str) {
    if len.is_multiple_of(4) { (4, "vec4<f32>") } else { (1, "f32") }
}

/// A shader for invocations that access four numbers at once, and for those that access eight, by what each imports; `stored4` also
/// has single channels.
macro_rules! four_or_eight {
    ($name:literal) => {
        four_or_eight!($name, "stored4", "stored8")
    };
    ($name:literal, $four:literal, $eight:literal) => {
        [four_or_eight!(@one $name, $four), four_or_eight!(@one $name, $eight)]
    };
    (@one $name:literal, $imports:literal) => {
        $crate::gpu::ShaderSource {
            name: $name,
            text: concat!("#import ", $imports, "\n", include_str!(concat!("../../shaders/", $name, ".wgsl"))),
        }
    };
}
pub(super) use four_or_eight;

/// The kernel of a shader that imports `stored4` or `stored8`.
pub(super) fn group_kernel(
    source: [ShaderSource; 2],
    entry: &'static str,
    by_eights: bool,
    variant: Variant,
) -> Kernel {
    // What the import says: it tells the two shaders apart.
    let variant = variant.with("FOURS", u(1 + usize::from(by_eights)));
    Kernel::new(source[usize::from(by_eights)], entry, variant)
}

/// Whether an invocation takes eight channels of these tensors at once: of f32, a software adapter takes less time for one
/// access of eight than for two of four.
pub(super) fn by_eights(tape: &Tape, tensors: &[TensorId]) -> bool {
    let in_eights = |id: &TensorId| {
        tape.element(*id) == Element::F32
            && tape.shape(*id).dims().last().is_some_and(|channels| channels.is_multiple_of(8))
    };
    tape.limits().software && tensors.iter().all(in_eights)
}

/// A power of two of at most `most` that does not leave half of it idle.
pub(super) fn block_of(count: usize, most: usize) -> usize {
    [32, 16, 8, 4, 2, 1].into_iter().find(|block| *block <= most && *block <= count).unwrap_or(1)
}

/// Blocks of eight outputs that a lane owns of eight inputs at once, on a processor: they share the loads of its pixels or tiles.
/// 64 outputs where none is computed in vain for it and the dispatch's `flops` are worth what a driver takes to make such a kernel;
/// beyond that the sums leave the processor's first cache.
pub(super) fn blocks_a_lane(blocks: usize, flops: usize) -> usize {
    /// A fifth of them is half a millisecond.
    const WORTH_IT: usize = 1 << 27;
    if blocks.is_multiple_of(8) && flops >= WORTH_IT { 8 } else { block_of(blocks, 4) }
}

/// Sets the shader's type `alias` for four elements of a tensor; its declared default is that of f32.
pub(super) fn stored(variant: Variant, alias: &'static str, tape: &Tape, id: TensorId) -> Variant {
    match tape.element(id) {
        Element::F32 => variant,
        Element::F16 => variant.with(alias, "vec4<f16>"),
    }
}

/// Makes a kernel that imports `normalised_read` do with what it reads as `read` says.
pub(super) fn reading(variant: Variant, read: Read) -> Variant {
    match read.normalisation {
        Some(normalisation) => variant.with("NORMALISED", true).with("NORMALISED_RELU", normalisation.relu),
        None => variant,
    }
}

/// The variant for kernels whose activations are all stored alike.
///
/// # Panics
/// Where they are not.
pub(super) fn stored_alike(tape: &Tape, ids: &[TensorId]) -> Variant {
    let element = tape.element(ids[0]);
    assert!(ids.iter().all(|id| tape.element(*id) == element), "{}: stored alike", tape.info(ids[0]).name);
    stored(Variant::new(), "Stored", tape, ids[0])
}

/// Invocations that keep a device busy: a GPU hides latency with many, two cores want few and long ones.
pub(super) fn busy_invocations(tape: &Tape) -> usize {
    if tape.limits().software { 512 } else { 32_768 }
}

/// Invocations of a GPU that add up what they read and do nothing else: at half a microsecond a load and 16 bytes each, so many
/// have about as much under way as the memory of a large one delivers.
const SUMMING_INVOCATIONS: usize = 131_072;

/// Where the sum over splits of a packed weight lands within the weights of all sources.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scatter {
    /// Elements that stay together.
    pub unit: usize,
    /// Units in a row of the partial sums.
    pub from_groups: usize,
    /// Units in a row of the target.
    pub to_groups: usize,
    /// First unit of the target's row.
    pub first: usize,
}

impl Scatter {
    /// The partial sums and the target have one layout.
    pub(super) fn plain(len: usize) -> Self {
        Self { unit: len, from_groups: 1, to_groups: 1, first: 0 }
    }
}

/// Adds partial results, `part` [splits, len], into the gradient `y` of a weight, in a fixed order; added to what is
/// there where the program accumulates.
pub(super) fn split_sum(tape: &mut Tape, part: TensorId, y: TensorId, scatter: Scatter) {
    let accumulate = tape.accumulate();
    record_split_sum(tape, part, y, scatter, accumulate);
}

/// Sums partial sums [splits, ...] into a tensor of their own, without the first dimension.
pub(super) fn split_sums(tape: &mut Tape, part: TensorId) -> TensorId {
    let shape = Shape::new(tape.shape(part).dims()[1..].to_vec());
    let scatter = Scatter::plain(shape.len());
    let sums = tape.transient("sums", shape);
    record_split_sum(tape, part, sums, scatter, 0);
    sums
}

fn record_split_sum(tape: &mut Tape, part: TensorId, y: TensorId, scatter: Scatter, accumulate: u32) {
    let dims = tape.shape(part).dims();
    let (splits, len) = (dims[0], dims[1..].iter().product::<usize>());
    let (width, alias) = match tape.limits().software && scatter.unit.is_multiple_of(8) {
        true => (8, "mat2x4<f32>"),
        false => vector(scatter.unit),
    };
    let params = SplitSumParams {
        len: (len / width) as u32,
        splits: splits as u32,
        accumulate,
        unit: (scatter.unit / width) as u32,
        x_groups: scatter.from_groups as u32,
        weight_groups: scatter.to_groups as u32,
        weight_first: scatter.first as u32,
    };
    let lanes = SumLanes::new(tape, len / width, splits);
    let kernel = Kernel::new(SPLIT_SUM, "sum", lanes.variant(Variant::new().with("V", alias)));
    let dispatch = tape.dispatch(kernel).tensor(part).tensor(y).read_and_written(accumulate != 0);
    let dispatch = dispatch.params(&params).flops(len * splits);
    dispatch.groups(lanes.groups(len / width));
}

/// Sums an activation [N, H, W, C] over its pixels into the gradient [C] of a bias.
pub(super) fn bias_gradient(tape: &mut Tape, dy: TensorId, bias: TensorId) {
    let [_, h, w, c] = tape.shape(dy).as_nhwc();
    let (width, alias) = vector(c);
    assert!(width == 4 || c == 1, "channels come in fours, or alone");
    let groups = c / width;
    let slices = tape.image_slices(&[dy]);
    let splits = pixel_splits(tape, slices[0].len() * h * w, groups, 64, slices.len() * c);
    let part = tape.transient("bias part", Shape::new([splits * slices.len(), c]));
    let kernel = Kernel::new(COLUMN_SUM, "column_sum", stored_alike(tape, &[dy]).with("V", alias));
    for (place, images) in slices.iter().enumerate() {
        let pixels = images.len() * h * w;
        let params = ColumnSumParams {
            pixels: pixels as u32,
            groups: groups as u32,
            pixels_per_split: pixels.div_ceil(splits) as u32,
            splits: splits as u32,
            split_first: (place * splits) as u32,
        };
        let dispatch = tape.dispatch(kernel.clone()).images(dy, images).tensor(part).params(&params);
        dispatch.flops(pixels * c).invocations(splits * groups);
    }
    let target = tape.weight_gradient(bias);
    split_sum(tape, part, target, Scatter::plain(c));
}

/// How many invocations share each of so many sums over `count` partial results.
#[derive(Debug, Clone, Copy)]
pub(super) struct SumLanes(usize);

impl SumLanes {
    /// As many as leave each some terms to add: on a GPU a single one would wait for most of its loads in turn, while the
    /// device has nothing else to do. On a processor barriers cost more than few splits do.
    pub(super) fn new(tape: &Tape, sums: usize, count: usize) -> Self {
        /// Terms that are worth an invocation.
        const TERMS: usize = 8;
        const MOST: usize = 256;
        if tape.limits().software {
            return Self(1);
        }
        let busy = SUMMING_INVOCATIONS.div_ceil(sums);
        Self(1 << (count / TERMS).min(busy).clamp(1, MOST).ilog2())
    }

    /// Invocations of a workgroup.
    fn group(self) -> usize {
        self.0.max(64)
    }

    /// For kernels that import `shared/ordered_sum`.
    pub(super) fn variant(self, variant: Variant) -> Variant {
        variant.with("SUM_LANES", u(self.0)).with("SUM_GROUP", u(self.group()))
    }

    /// Workgroups for so many sums.
    pub(super) fn groups(self, sums: usize) -> usize {
        sums.div_ceil(self.group() / self.0)
    }
}

/// How many invocations share the channel groups of a pixel where each pixel is a sum over its channels: neighbours read
/// neighbouring channels on a GPU; a software adapter gains nothing by it and would wait for them.
pub(super) fn pixel_lanes(tape: &Tape, groups: usize) -> usize {
    if tape.limits().software { 1 } else { 1 << groups.min(8).ilog2() }
}

/// Pixels that an invocation takes one after the other, which share what it loads for its channels: fewer where a GPU would lack
/// invocations, of which each pixel has `parallel`.
pub(super) fn pixels_each(tape: &Tape, pixels: usize, parallel: usize) -> usize {
    const MOST: usize = 8;
    if tape.limits().software {
        MOST
    } else {
        1 << (pixels * parallel / SUMMING_INVOCATIONS).clamp(1, MOST).ilog2()
    }
}

/// Rounds of all its loops that an invocation should take on a software adapter: half of what Mesa's grants before it ends
/// them without a word.
const ROUNDS: usize = 32_768;
/// More would be too many.
const MOST_ROUNDS: usize = 65_000;

/// Splits that a loop of so many rounds needs at least.
pub(super) fn least_splits(tape: &Tape, rounds: usize) -> usize {
    if tape.limits().software { rounds.div_ceil(ROUNDS) } else { 1 }
}

/// Into how many parts to split a sum over `items`, when `parallel` sums go on side by side: enough to keep the device
/// busy, with at least `least` items each. One split of every slice takes `len` elements; all fit one binding.
pub(super) fn splits_for(tape: &Tape, items: usize, parallel: usize, least: usize, len: usize) -> usize {
    splits_of_loops(tape, (items, 1), parallel, least, len)
}

/// [`splits_for`] a sum over pixels by channel, `groups` of which go side by side: there is nothing to do between one load and
/// the next, so that a GPU needs many more of them under way.
pub(super) fn pixel_splits(tape: &Tape, pixels: usize, groups: usize, least: usize, len: usize) -> usize {
    let busy = if tape.limits().software { busy_invocations(tape) } else { SUMMING_INVOCATIONS };
    splits_of(tape, (pixels, 1), busy.div_ceil(groups), least, len)
}

/// [`splits_for`] where an item takes several rounds of a loop.
///
/// # Panics
/// Where a software adapter would not go on to the end: with so few splits that fit a binding sums would be wrong.
pub(super) fn splits_of_loops(
    tape: &Tape,
    (items, rounds): (usize, usize),
    parallel: usize,
    least: usize,
    len: usize,
) -> usize {
    splits_of(tape, (items, rounds), busy_invocations(tape).div_ceil(parallel), least, len)
}

/// [`splits_of_loops`] of each slice of a weight's gradient that takes `flops` in all. The more parts there are, the less of a GPU stands
/// idle while the last workgroups end, half of the W that run at once on average: flops / R * W / (2 workgroups). But the sums of each
/// part are written and read again, in 8 len / B. There are as many as make both together least.
pub(super) fn splits_of_products(
    tape: &Tape,
    (items, rounds): (usize, usize),
    (parallel, flops): (usize, usize),
    least: usize,
    len: usize,
) -> usize {
    /// W, two for each processor of a large GPU, in invocations.
    const AT_ONCE: f64 = 256.0 * 128.0;
    /// R / B: operations in the time of a byte.
    const FLOPS_A_BYTE: f64 = 100.0;
    let busy = busy_invocations(tape).div_ceil(parallel);
    let best = (flops as f64 * AT_ONCE / (16.0 * parallel as f64 * len as f64 * FLOPS_A_BYTE)).sqrt();
    let wanted = if tape.limits().software { busy } else { busy.max(best as usize) };
    splits_of(tape, (items, rounds), wanted, least, len)
}

fn splits_of(tape: &Tape, (items, rounds): (usize, usize), wanted: usize, least: usize, len: usize) -> usize {
    let wanted = wanted.max(least_splits(tape, items * rounds));
    let fitting = tape.limits().storage_binding_bytes as usize / (len * 4);
    let splits = wanted.min(fitting).min(items / least).max(1);
    let whole = !tape.limits().software || items.div_ceil(splits) * rounds <= MOST_ROUNDS;
    assert!(whole, "{items} items in {splits} splits: loops too long for the software adapter");
    splits
}

/// All `[n, h, w, c]` in order.
pub(super) fn indices(
    n: usize,
    h: usize,
    w: usize,
    c: usize,
) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..n * h * w * c).map(move |at| (at / (h * w * c), at / (w * c) % h, at / c % w, at % c))
}
