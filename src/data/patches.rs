//! Training patches: where they are cut and how they are written into a batch.
//!
//! With probability 1 - `foreground_share` (0.3 by default), or in an image without rosettes, a crop is uniform; else
//! it is centred on a uniformly drawn rosette pixel and clamped to the image. Images smaller than a patch are padded with 0 at the bottom and the right.

use rand::{Rng, RngExt};

use crate::data::channels::Prepared;
use crate::data::random::{Purpose, generator};

/// Channels of a batch in memory: the planes in use, then zeros. A multiple of 4, for the shaders' vector loads.
pub const CHANNELS: usize = 4;

/// The upper left corner of a patch, in pixels of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Crop {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
}

/// Draws crop number `draw` of image number `sample` in `epoch`: the same arguments give the same crop, whatever else
/// was drawn before.
pub fn draw_crop(
    image: &Prepared,
    patch_px: usize,
    foreground_share: f64,
    seed: u64,
    [epoch, sample, draw]: [u64; 3],
) -> Crop {
    crop_with(image, patch_px, foreground_share, &mut generator(Purpose::Patch, seed, [epoch, sample, draw]))
}

fn crop_with(image: &Prepared, patch_px: usize, foreground_share: f64, rng: &mut impl Rng) -> Crop {
    let top_max = image.height.saturating_sub(patch_px);
    let left_max = image.width.saturating_sub(patch_px);
    if image.rosette_pixels.is_empty() || !rng.random_bool(foreground_share) {
        return Crop { top: uniform(rng, top_max), left: uniform(rng, left_max) };
    }
    let drawn = uniform(rng, image.rosette_pixels.len() - 1);
    let pixel = image.rosette_pixels[drawn] as usize;
    let start = |centre: usize, max: usize| centre.saturating_sub(patch_px / 2).min(max);
    Crop { top: start(pixel / image.width, top_max), left: start(pixel % image.width, left_max) }
}

/// Uniform in 0..=max. Drawn as u64, so that the numbers do not depend on the machine's word.
fn uniform(rng: &mut impl Rng, max: usize) -> usize {
    rng.random_range(0..=max as u64) as usize
}

/// Writes the patch at `crop`: `channels_out` is [patch_px, patch_px, [`CHANNELS`]] f32, `target_out`
/// [patch_px, patch_px] f32 of 0 and 1. Every element is written; what lies outside the image is 0.
///
/// # Panics
/// Where the slices have other lengths.
pub fn write_patch(
    image: &Prepared,
    crop: Crop,
    patch_px: usize,
    channels_out: &mut [f32],
    target_out: &mut [f32],
) {
    write_channels(image, crop, patch_px, channels_out);
    assert_eq!(target_out.len(), patch_px * patch_px, "the target of one patch");
    target_out.fill(0.0);
    for (row, from) in image_rows(image, crop, patch_px).enumerate() {
        let out = &mut target_out[row * patch_px..][..from.len()];
        out.iter_mut().zip(&image.target[from]).for_each(|(out, &t)| *out = f32::from(t));
    }
}

/// The channels' half of [`write_patch`].
pub(super) fn write_channels(image: &Prepared, crop: Crop, patch_px: usize, out: &mut [f32]) {
    assert_eq!(out.len(), patch_px * patch_px * CHANNELS, "the channels of one patch");
    out.fill(0.0);
    for (row, from) in image_rows(image, crop, patch_px).enumerate() {
        let pixels = out[row * patch_px * CHANNELS..].chunks_exact_mut(CHANNELS);
        for (pixel, at) in pixels.zip(from) {
            pixel[0] = f32::from(image.boundary[at]);
            pixel[1] = f32::from(image.cells[at]);
            if let Some(intensity) = &image.intensity {
                pixel[2] = intensity[at];
            }
        }
    }
}

/// For each row of the patch that lies in the image, the range of indices into its planes.
pub(super) fn image_rows(
    image: &Prepared,
    crop: Crop,
    patch_px: usize,
) -> impl Iterator<Item = std::ops::Range<usize>> {
    let width = image.width;
    let bottom = image.height.min(crop.top + patch_px);
    let right = width.min(crop.left + patch_px);
    (crop.top..bottom).map(move |y| y * width + crop.left.min(right)..y * width + right)
}
