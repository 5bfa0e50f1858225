//! Training patches, cut and warped on the device from samples that stay there.
//!
//! A patch is 39 words ([`Patch`]) that the host draws from (seed, epoch, sample, draw); all else follows from them here.
//! Every geometric transform is part of one map from the patch's pixels to the sample's, which is sampled once: bilinear
//! for the channels, nearest for the target. No gradient: nothing before the channels is trained.
//!
//! `patches` [N, 39] words, `weights` [radius + 1] f32 -> `x` [N, P, P, 4], `y` [N, P, P, 1] f32.

use crate::gpu::{Kernel, Limits, ShaderSource, Variant};
use crate::params;
use crate::tape::{Shape, Store, Tape, TensorId};

const WARP: ShaderSource = ShaderSource { name: "warp", text: include_str!("../../shaders/warp.wgsl") };
const ELASTIC: ShaderSource =
    ShaderSource { name: "elastic", text: include_str!("../../shaders/elastic.wgsl") };

/// In place of the first word of the intensity, where a sample has none.
pub const NONE: u32 = u32::MAX;
/// Words of a [`Patch`].
pub const PATCH_WORDS: usize = size_of::<Patch>() / 4;
/// Most rectangles that a patch can have blanked.
pub const HOLES: usize = 5;
/// Bits of a pixel's byte in a sample on the device.
pub const BOUNDARY: u8 = 1;
/// See [`BOUNDARY`].
pub const CELL: u8 = 2;
/// See [`BOUNDARY`].
pub const ROSETTE: u8 = 4;

/// What a patch is made of, as the shaders read it (shared/patch.wgsl).
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Patch {
    /// Chunk of device memory that the sample lies in.
    pub chunk: u32,
    /// First word of its planes there.
    pub planes: u32,
    /// First word of its intensity, or [`NONE`].
    pub intensity: u32,
    /// Rows of the sample.
    pub height: u32,
    /// Columns of the sample.
    pub width: u32,
    /// 1: what lies outside the sample is its mirror image; 0: it is 0.
    pub mirror: u32,
    /// Of the noise.
    pub seed: [u32; 2],
    /// Rows `(yy, yx, y0)` and `(xy, xx, x0)` of the map from the patch, about its middle, to the sample.
    pub map: [[f32; 3]; 2],
    /// Factor of the smoothed noise in px; 0 where the patch is not displaced.
    pub displacement: f32,
    /// The intensity is multiplied by this.
    pub gain: f32,
    /// Exponent of the intensity.
    pub gamma: f32,
    /// Deviation of what is added to the intensity.
    pub noise: f32,
    /// Deviation of the Gaussian that blurs the intensity, in px.
    pub blur: f32,
    /// Top, left, bottom and right of blanked rectangles; all 0 where there is none.
    pub holes: [[u32; 4]; HOLES],
}

impl Patch {
    /// The same sample cut at `top`, `left` and left as it is.
    pub fn plain(&self, top: usize, left: usize, side: usize) -> Self {
        let corner = |at: usize| at as f32 + side as f32 / 2.0 - 0.5;
        Self {
            mirror: 0,
            map: [[1.0, 0.0, corner(top)], [0.0, 1.0, corner(left)]],
            displacement: 0.0,
            gain: 1.0,
            gamma: 1.0,
            noise: 0.0,
            blur: 0.0,
            holes: [[0; 4]; HOLES],
            ..*self
        }
    }
}

params! {
    struct ElasticParams { side: u32, first: u32, len: u32, radius: u32 }
}

params! {
    struct WarpParams { side: u32, first: u32, len: u32, chunk: u32 }
}

/// What a program must know of the samples and of the augmentation: its shape, not its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchSource {
    /// Buffers that samples lie in.
    pub chunks: usize,
    /// Words of each of them.
    pub chunk_words: usize,
    /// Weights of the smoothing Gaussian beside the middle one; none where no patch is ever displaced.
    pub radius: Option<usize>,
}

/// Tensors of recorded patches.
#[derive(Debug, Clone, Copy)]
pub struct RecordedPatches {
    /// [N, 39] words, uploaded.
    pub patches: TensorId,
    /// [radius + 1] f32, uploaded; none where no patch is ever displaced.
    pub weights: Option<TensorId>,
    /// Channels [N, P, P, 4].
    pub x: TensorId,
    /// Target [N, P, P, 1].
    pub y: TensorId,
}

/// Records the making of `count` patches of `side` px.
pub fn record(tape: &mut Tape, source: &PatchSource, count: usize, side: usize) -> RecordedPatches {
    let patches = tape.input("patches", Shape::new([count, PATCH_WORDS]));
    let weights = source.radius.map(|r| tape.input("smoothing weights", Shape::new([r + 1])));
    let x = tape.transient("x", Shape::nhwc(count, side, side, 4));
    let y = tape.transient("target", Shape::nhwc(count, side, side, 1));
    [x, y].into_iter().for_each(|id| tape.set_differentiable(id, false));
    let field = weights.map(|weights| displacement(tape, patches, weights, side));
    for chunk in 0..source.chunks {
        let samples =
            tape.stored("samples", Shape::new([source.chunk_words]), Store::Samples(chunk), 0, false);
        let bound: Vec<TensorId> = field.into_iter().chain([x, y]).collect();
        for images in tape.image_slices(&bound) {
            let len = images.len() * side * side;
            let params = WarpParams {
                side: side as u32,
                first: images.start as u32,
                len: len as u32,
                chunk: chunk as u32,
            };
            let entry = if field.is_some() { "displaced" } else { "still" };
            let dispatch = tape.dispatch(Kernel::new(WARP, entry, Variant::new())).tensor(patches);
            let dispatch = bound.iter().fold(dispatch.tensor(samples), |d, id| d.images(*id, &images));
            dispatch.params(&params).invocations(len);
        }
    }
    RecordedPatches { patches, weights, x, y }
}

/// Records the smoothed noise [N, P, P, 2].
fn displacement(tape: &mut Tape, patches: TensorId, weights: TensorId, side: usize) -> TensorId {
    let count = tape.shape(patches).dims()[0];
    let radius = tape.shape(weights).len() - 1;
    let mut field = |name: &str| {
        let id = tape.transient(name, Shape::nhwc(count, side, side, 2));
        tape.set_differentiable(id, false);
        id
    };
    let [noise, smooth_rows, smooth] = ["noise", "noise smoothed in rows", "displacement"].map(&mut field);
    let passes: [(&str, &[TensorId]); 3] =
        [("noise", &[noise]), ("rows", &[noise, smooth_rows]), ("columns", &[smooth_rows, smooth])];
    for (entry, fields) in passes {
        for images in tape.image_slices(fields) {
            let len = images.len() * side * side;
            let params = ElasticParams {
                side: side as u32,
                first: images.start as u32,
                len: len as u32,
                radius: radius as u32,
            };
            let dispatch = tape.dispatch(Kernel::new(ELASTIC, entry, Variant::new())).tensor(patches);
            let dispatch = if fields.len() > 1 { dispatch.tensor(weights) } else { dispatch };
            let dispatch = fields.iter().fold(dispatch, |d, id| d.images(*id, &images));
            dispatch.params(&params).invocations(len);
        }
    }
    smooth
}

/// Kernels of every form that patches are made by, for whoever checks them all.
pub fn kernels() -> Vec<Kernel> {
    let all =
        [(WARP, "still"), (WARP, "displaced"), (ELASTIC, "noise"), (ELASTIC, "rows"), (ELASTIC, "columns")];
    all.map(|(source, entry)| Kernel::new(source, entry, Variant::new())).into()
}

/// Most words that a chunk may have on a device.
pub fn most_chunk_words(limits: Limits) -> usize {
    // Words are counted in u32, and the last number is taken.
    let words = limits.storage_binding_bytes.min(limits.buffer_bytes) / 4;
    words.min(u64::from(u32::MAX - 1)) as usize
}

/// One half of a Gaussian of deviation `sigma_px`, cut off at four of them, from the middle outward; the whole adds
/// up to 1.
pub fn gaussian(sigma_px: f64) -> Vec<f32> {
    let radius = (4.0 * sigma_px + 0.5) as i32;
    let weight = |k: i32| (-0.5 * (f64::from(k) / sigma_px).powi(2)).exp();
    let total: f64 = (-radius..=radius).map(weight).sum();
    (0..=radius).map(|k| (weight(k) / total) as f32).collect()
}

/// The hash of shared/random.wgsl.
pub fn pcg4d(counter: [u32; 4]) -> [u32; 4] {
    let mut v = counter.map(|c| c.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let mix = |v: &mut [u32; 4]| {
        for (to, a, b) in [(0, 1, 3), (1, 2, 0), (2, 0, 1), (3, 1, 2)] {
            v[to] = v[to].wrapping_add(v[a].wrapping_mul(v[b]));
        }
    };
    mix(&mut v);
    v = v.map(|c| c ^ (c >> 16));
    mix(&mut v);
    v
}

/// A patch in f64, by the definitions above, pixel by pixel.
pub struct Reference {
    /// Channels [P, P, 4].
    pub x: Vec<f64>,
    /// Target [P, P].
    pub y: Vec<f64>,
    /// Row and column of the sample that each pixel [P, P] shows.
    pub at: Vec<[f64; 2]>,
}

/// Makes the patch on the processor. `samples` are the words of its chunk, `weights` those of [`gaussian`].
pub fn reference(patch: &Patch, samples: &[u32], weights: &[f32], side: usize) -> Reference {
    let field = reference_displacement(patch, weights, side);
    let middle = side as f64 / 2.0 - 0.5;
    let mut out = Reference { x: Vec::new(), y: Vec::new(), at: Vec::new() };
    for index in 0..side * side {
        let (row, column) = (index / side, index % side);
        let moved = field[index].map(|v| v * f64::from(patch.displacement));
        let p = [row as f64 - middle + moved[0], column as f64 - middle + moved[1]];
        let at = patch.map.map(|m| {
            let [a, b, c] = m.map(f64::from);
            a * p[0] + b * p[1] + c
        });
        let nearest = pixel(patch, (at[0] + 0.5).floor() as i64, (at[1] + 0.5).floor() as i64);
        let mut values = bilinear(patch, samples, at);
        if nearest.is_some() && patch.intensity != NONE {
            values[2] = exposed(patch, samples, at, index as u32, values[2]);
        }
        let blanked =
            |h: &[u32; 4]| (h[0]..h[2]).contains(&(row as u32)) && (h[1]..h[3]).contains(&(column as u32));
        if patch.holes.iter().any(blanked) {
            values = [0.0; 3];
        }
        out.x.extend([values[0], values[1], values[2], 0.0]);
        out.y.push(f64::from(u8::from(planes(patch, samples, nearest) & ROSETTE > 0)));
        out.at.push(at);
    }
    out
}

fn reference_displacement(patch: &Patch, weights: &[f32], side: usize) -> Vec<[f64; 2]> {
    if patch.displacement == 0.0 {
        return vec![[0.0; 2]; side * side];
    }
    let noise: Vec<[f64; 2]> = (0..side * side)
        .map(|at| {
            let words = pcg4d([at as u32, 0, patch.seed[0], patch.seed[1]]);
            [0, 1].map(|axis: usize| f64::from(words[axis] >> 8) / f64::from(1 << 23) - 1.0)
        })
        .collect();
    let smooth = |field: &[[f64; 2]], step: [usize; 2]| -> Vec<[f64; 2]> {
        let at = |index: usize, k: i64| {
            let wrap = |v: usize, by: usize| (v as i64 + k * by as i64).rem_euclid(side as i64) as usize;
            field[wrap(index / side, step[0]) * side + wrap(index % side, step[1])]
        };
        let reach = weights.len() as i64 - 1;
        let weighted = |index: usize, axis: usize| {
            (-reach..=reach).map(|k| f64::from(weights[k.unsigned_abs() as usize]) * at(index, k)[axis]).sum()
        };
        (0..side * side).map(|index| [weighted(index, 0), weighted(index, 1)]).collect()
    };
    smooth(&smooth(&noise, [0, 1]), [1, 0])
}

fn pixel(patch: &Patch, row: i64, column: i64) -> Option<usize> {
    let fold = |at: i64, length: u32| -> Option<usize> {
        let length = i64::from(length);
        if (0..length).contains(&at) {
            return Some(at as usize);
        }
        let period = (2 * (length - 1)).max(1);
        let folded = at.rem_euclid(period);
        (patch.mirror == 1).then(|| folded.min(period - folded).min(length - 1) as usize)
    };
    Some(fold(row, patch.height)? * patch.width as usize + fold(column, patch.width)?)
}

fn planes(patch: &Patch, samples: &[u32], at: Option<usize>) -> u8 {
    at.map_or(0, |at| samples[patch.planes as usize + at / 4].to_le_bytes()[at % 4])
}

fn bilinear(patch: &Patch, samples: &[u32], at: [f64; 2]) -> [f64; 3] {
    let corner = at.map(f64::floor);
    let part = [at[0] - corner[0], at[1] - corner[1]];
    let mut sum = [0.0; 3];
    for (down, right) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let weight = |step: i64, part: f64| if step == 0 { 1.0 - part } else { part };
        let place = pixel(patch, corner[0] as i64 + down, corner[1] as i64 + right);
        let bits = planes(patch, samples, place);
        let intensity = place
            .filter(|_| patch.intensity != NONE)
            .map_or(0.0, |at| f64::from(f32::from_bits(samples[patch.intensity as usize + at])));
        let values =
            [f64::from(u8::from(bits & BOUNDARY > 0)), f64::from(u8::from(bits & CELL > 0)), intensity];
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum += weight(down, part[0]) * weight(right, part[1]) * value;
        }
    }
    sum
}

fn exposed(patch: &Patch, samples: &[u32], at: [f64; 2], in_patch: u32, plain: f64) -> f64 {
    let [gain, gamma, noise, blur] = [patch.gain, patch.gamma, patch.noise, patch.blur].map(f64::from);
    let mut value = plain;
    if blur > 0.0 {
        let reach = (3.0 * blur).ceil() as i64;
        let offsets = (-reach..=reach).flat_map(|row| (-reach..=reach).map(move |column| [row, column]));
        let weighted = offsets.map(|[row, column]| {
            let weight = (-0.5 * (row * row + column * column) as f64 / (blur * blur)).exp();
            (weight, weight * bilinear(patch, samples, [at[0] + row as f64, at[1] + column as f64])[2])
        });
        let (total, sum) = weighted.fold((0.0, 0.0), |(a, b), (w, v)| (a + w, b + v));
        value = sum / total;
    }
    if value > 0.0 {
        value = value.powf(gamma);
    }
    value * gain + noise * normal(in_patch, patch.seed)
}

/// The sum of 24 uniform numbers, scaled to mean 0 and deviation 1.
fn normal(in_patch: u32, seed: [u32; 2]) -> f64 {
    let halves = |word: u32| u64::from(word & 0xffff) + u64::from(word >> 16);
    let words = (1..=3).flat_map(|part| pcg4d([in_patch, seed[0], seed[1], part]));
    let sum: u64 = words.map(halves).sum();
    (sum as f64 - 12.0 * 65_535.0) / (2.0 * (65_536.0_f64.powi(2) - 1.0)).sqrt()
}
