//! What a training patch is made of: the crop and every random transform, drawn from (seed, epoch, sample, draw) and
//! nothing else, as the one coordinate map that the device samples once (see [`crate::ops::warp`]).
//!
//! A pixel of the patch is displaced (elastic), then taken through affine, scale, the elastic transform's own affine,
//! quarter turns and flips, about the crop's middle, to where it lies in the whole image: a rotated patch shows true
//! tissue wherever the image has it. What lies outside the image is 0; it is the image's mirror image where the patch is
//! displaced and neither affine nor scaled, and the image is no smaller than the patch. Lengths in the configuration are
//! for patches of 512 px and shrink with the patch.
//!
//! Every number is drawn whether it is used or not: one probability does not change what another transform does.

use rand::{Rng, RngExt};

use crate::config::{AugmentationConfig, MagnitudeConfig};
use crate::data::channels::Prepared;
use crate::data::patches::Crop;
use crate::data::random::{Purpose, generator};
use crate::ops::warp::{self, HOLES, NONE, Patch};

/// The patch that the configuration's lengths are meant for.
const NOMINAL_PX: f64 = 512.0;

/// Where a sample lies in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which buffer.
    pub chunk: usize,
    /// First word there.
    pub first_word: usize,
}

/// `source = linear * p + shift`, in rows and columns.
#[derive(Debug, Clone, Copy)]
struct Map {
    linear: [[f64; 2]; 2],
    shift: [f64; 2],
}

impl Map {
    const IDENTITY: Self = Self::linear([[1.0, 0.0], [0.0, 1.0]]);

    const fn linear(linear: [[f64; 2]; 2]) -> Self {
        Self { linear, shift: [0.0; 2] }
    }

    fn apply(&self, p: [f64; 2]) -> [f64; 2] {
        [0, 1].map(|row: usize| self.linear[row][0] * p[0] + self.linear[row][1] * p[1] + self.shift[row])
    }

    /// First `inner`, then this.
    fn after(&self, inner: &Self) -> Self {
        let column = |c: usize| [inner.linear[0][c], inner.linear[1][c]];
        let product = |row: usize, c: [f64; 2]| self.linear[row][0] * c[0] + self.linear[row][1] * c[1];
        let linear = [0, 1].map(|row| [product(row, column(0)), product(row, column(1))]);
        Self { linear, shift: self.apply(inner.shift) }
    }

    /// The quarter turns, exactly.
    fn quarter_turns(count: usize) -> Self {
        let (sine, cosine) = [(0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0)][count % 4];
        Self::linear([[cosine, -sine], [sine, cosine]])
    }
}

/// The weights of the Gaussian that smooths the noise of displaced patches, where any are: see [`warp::gaussian`].
pub fn smoothing_weights(augmentation: &AugmentationConfig, patch_px: usize) -> Option<Vec<f32>> {
    let sigma = augmentation.magnitudes.elastic_sigma * patch_px as f64 / NOMINAL_PX;
    (augmentation.elastic_transform > 0.0).then(|| warp::gaussian(sigma))
}

/// Draws how patch number `draw` of sample number `sample` in `epoch`, cut at `crop`, is warped.
///
/// # Panics
/// Where the place or the image exceeds what 32 bits count: device buffers are smaller.
pub fn draw_patch(
    image: &Prepared,
    place: Place,
    crop: Crop,
    patch_px: usize,
    augmentation: &AugmentationConfig,
    seed: u64,
    numbers: [u64; 3],
) -> Patch {
    let mut rng = generator(Purpose::Augmentation, seed, numbers);
    let scale = patch_px as f64 / NOMINAL_PX;
    let magnitudes = &augmentation.magnitudes;
    let right_left = chance(&mut rng, augmentation.horizontal_flip);
    let top_down = chance(&mut rng, augmentation.vertical_flip);
    let sign = |flipped: bool| if flipped { -1.0 } else { 1.0 };
    let flips = Map::linear([[sign(top_down), 0.0], [0.0, sign(right_left)]]);
    let turned = chance(&mut rng, augmentation.rotation);
    let turns = rng.random_range(0..4u32) as usize;
    let turns = Map::quarter_turns(if turned { turns } else { 0 });
    let is_elastic = chance(&mut rng, augmentation.elastic_transform);
    let bend = draw_bend(&mut rng, magnitudes.elastic_affine * scale, patch_px);
    let is_affine = chance(&mut rng, augmentation.affine_transform);
    let affine = draw_affine(&mut rng, magnitudes, patch_px);
    let is_scaled = chance(&mut rng, augmentation.random_scale);
    let zoom = 1.0 / within(&mut rng, 1.0 - magnitudes.scale, 1.0 + magnitudes.scale);
    let mut map = flips.after(&turns);
    let parts =
        [(is_elastic, bend), (is_scaled, Map::linear([[zoom, 0.0], [0.0, zoom]])), (is_affine, affine)];
    for (_, part) in parts.iter().filter(|(applies, _)| *applies) {
        map = map.after(part);
    }
    let covers = image.height >= patch_px && image.width >= patch_px;
    let words = |at: usize| u32::try_from(at).expect("device buffers have fewer words");
    let planes = place.first_word;
    let intensity = image.intensity.as_ref().map_or(NONE, |_| words(planes + plane_words(image)));
    let corner = [crop.top, crop.left].map(|at| at as f64 + patch_px as f64 / 2.0 - 0.5);
    let row =
        |r: usize| [map.linear[r][0] as f32, map.linear[r][1] as f32, (map.shift[r] + corner[r]) as f32];
    let patch = Patch {
        chunk: words(place.chunk),
        planes: words(planes),
        intensity,
        height: words(image.height),
        width: words(image.width),
        mirror: u32::from(is_elastic && !is_affine && !is_scaled && covers),
        seed: [rng.random(), rng.random()],
        map: [row(0), row(1)],
        // Noise that is smoothed over more pixels is weaker by as much: the displacement shrinks with the patch.
        displacement: if is_elastic { (magnitudes.elastic_alpha * scale * scale) as f32 } else { 0.0 },
        gain: 1.0,
        gamma: 1.0,
        noise: 0.0,
        blur: 0.0,
        holes: draw_holes(&mut rng, augmentation, patch_px),
    };
    exposed(patch, &mut rng, augmentation)
}

/// Words of a sample's planes on the device: a byte a pixel.
pub(super) fn plane_words(image: &Prepared) -> usize {
    image.target.len().div_ceil(4)
}

fn chance(rng: &mut impl Rng, probability: f64) -> bool {
    rng.random::<f64>() < probability
}

fn within(rng: &mut impl Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

/// The affine map that moves three control points, a third of the side from the middle, by up to `reach` px.
fn draw_bend(rng: &mut impl Rng, reach: f64, patch_px: usize) -> Map {
    let mut moved = || [within(rng, -reach, reach), within(rng, -reach, reach)];
    let (low_right, low_left, high_left) = (moved(), moved(), moved());
    let distance = 2.0 * (patch_px as f64 / 3.0);
    let row = |r: usize| {
        let by_row = (low_left[r] - high_left[r]) / distance;
        let by_column = (low_right[r] - low_left[r]) / distance;
        [by_row, by_column]
    };
    let [[yy, yx], [xy, xx]] = [row(0), row(1)];
    let shift = [0, 1].map(|r: usize| (low_right[r] + high_left[r]) / 2.0);
    Map { linear: [[1.0 + yy, yx], [xy, 1.0 + xx]], shift }
}

/// Scale, shift and rotation of the patch's content, as the map from the patch back to the image.
fn draw_affine(rng: &mut impl Rng, magnitudes: &MagnitudeConfig, patch_px: usize) -> Map {
    let scale = within(rng, 1.0 - magnitudes.affine_scale, 1.0 + magnitudes.affine_scale);
    let reach = magnitudes.affine_shift * patch_px as f64;
    let shift = [within(rng, -reach, reach), within(rng, -reach, reach)];
    let angle = within(rng, -magnitudes.affine_rotation, magnitudes.affine_rotation).to_radians();
    // libm's are the same on every operating system.
    let (sine, cosine) = (libm::sin(angle) / scale, libm::cos(angle) / scale);
    let turned = Map::linear([[cosine, -sine], [sine, cosine]]);
    turned.after(&Map { shift: shift.map(|v| -v), ..Map::IDENTITY })
}

/// Top, left, bottom and right of the rectangles to blank.
fn draw_holes(rng: &mut impl Rng, augmentation: &AugmentationConfig, patch_px: usize) -> [[u32; 4]; HOLES] {
    let magnitudes = &augmentation.magnitudes;
    let side =
        |length: f64| ((length * patch_px as f64 / NOMINAL_PX).round() as u32).clamp(1, patch_px as u32);
    let ends = [side(magnitudes.dropout_least), side(magnitudes.dropout_most)];
    let (least, most) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
    let applies = chance(rng, augmentation.coarse_dropout);
    let count = rng.random_range(1..=magnitudes.dropout_holes as u32) as usize;
    let mut holes = [[0; 4]; HOLES];
    for (number, hole) in holes.iter_mut().enumerate() {
        let (height, width) = (rng.random_range(least..=most), rng.random_range(least..=most));
        let top = rng.random_range(0..=patch_px as u32 - height);
        let left = rng.random_range(0..=patch_px as u32 - width);
        if applies && number < count {
            *hole = [top, left, top + height, left + width];
        }
    }
    holes
}

/// The patch as another exposure of the same tissue would show it.
fn exposed(mut patch: Patch, rng: &mut impl Rng, augmentation: &AugmentationConfig) -> Patch {
    let magnitudes = &augmentation.magnitudes;
    let around_one = |by: f64| (1.0 - by, 1.0 + by);
    let transforms = [
        (&mut patch.gain, augmentation.intensity_gain, around_one(magnitudes.gain)),
        (&mut patch.gamma, augmentation.intensity_gamma, around_one(magnitudes.gamma)),
        (&mut patch.noise, augmentation.intensity_noise, (0.0, magnitudes.noise)),
        (&mut patch.blur, augmentation.intensity_blur, (0.0, magnitudes.blur)),
    ];
    for (value, probability, (low, high)) in transforms {
        let (applies, drawn) = (chance(rng, probability), within(rng, low, high));
        if applies {
            *value = drawn as f32;
        }
    }
    patch
}
