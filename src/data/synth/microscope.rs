//! What a confocal microscope would show of a membrane marker: bright membranes of unlike strength, brighter where many
//! cells meet, faint cytoplasm, uneven light, the optics' blur, photon and camera noise.

use std::f64::consts::TAU;

use rand::{Rng, RngExt};

use super::cells::Cells;
use super::diagram::Owner;
use super::warp::{Point, Warp};

/// Half the width of a membrane, and how far the brightness of a meeting point reaches.
const MEMBRANE_PX: f64 = 1.2;
const VERTEX_PX: f64 = 4.5;
/// Standard deviation of the blur, and its reach.
const BLUR_PX: f64 = 0.9;
const BLUR_REACH_PX: usize = 3;
/// Camera: offset, counts of a membrane, counts per photon, read noise.
const OFFSET: f64 = 110.0;
const GAIN: f64 = 2400.0;
const COUNTS_PER_PHOTON: f64 = 18.0;
const READ_NOISE: f64 = 16.0;

/// Camera counts [height, width].
pub(super) fn image(
    cells: &Cells,
    owners: &[Owner],
    warp: &Warp,
    height: usize,
    width: usize,
    rng: &mut impl Rng,
) -> Vec<u16> {
    let cytoplasm: Vec<f64> = cells.seeds.iter().map(|_| rng.random_range(0.07..0.2)).collect();
    let (direction, phase) = (rng.random_range(0.0..TAU), rng.random_range(0.0..TAU));
    let salt: u64 = rng.random();
    let mut light = Vec::with_capacity(owners.len());
    for (at, owner) in owners.iter().enumerate() {
        let (x, y) = ((at % width) as f64, (at / width) as f64);
        let uneven = 1.0 + 0.15 * ((x * direction.cos() + y * direction.sin()) / 160.0 + phase).sin();
        let point = warp.tissue_point(x, y);
        light.push(uneven * brightness(cells, owner, point, &cytoplasm, salt));
    }
    let light = blur(&light, height, width);
    light.iter().map(|&signal| camera(signal, rng)).collect()
}

/// The marker at a point: cytoplasm plus membrane; nothing beyond the tissue's edge.
fn brightness(cells: &Cells, owner: &Owner, at: Point, cytoplasm: &[f64], salt: u64) -> f64 {
    let [own, other] = [&cells.seeds[owner.seed], &cells.seeds[owner.neighbour]];
    let inside = if own.tissue { cytoplasm[owner.seed] } else { 0.02 };
    if !own.tissue && !other.tissue {
        return inside;
    }
    let near = |m: &super::cells::Meeting| (-m.centre.distance_squared(at) / (VERTEX_PX * VERTEX_PX)).exp();
    let vertex = cells.meetings.iter().map(near).fold(0.0, f64::max);
    let strength = edge_strength(owner.seed, owner.neighbour, salt) * (1.0 + 0.6 * vertex);
    inside + strength * (-(owner.border_px / MEMBRANE_PX).powi(2)).exp()
}

/// A membrane's own strength, 0.6 to 1.1: the same from both sides.
fn edge_strength(a: usize, b: usize, salt: u64) -> f64 {
    // The finaliser of SplitMix64 spreads the pair over all bits.
    let mut z = salt ^ ((a.min(b) as u64) << 32 | a.max(b) as u64);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    0.6 + 0.5 * ((z >> 40) as f64 / (1u64 << 24) as f64)
}

/// Gaussian blur of an image [height, width], along one axis and then the other; the border repeats.
fn blur(image: &[f64], height: usize, width: usize) -> Vec<f64> {
    let weights: Vec<f64> =
        (0..=BLUR_REACH_PX).map(|d| (-0.5 * (d as f64 / BLUR_PX).powi(2)).exp()).collect();
    let norm = weights[0] + 2.0 * weights[1..].iter().sum::<f64>();
    let along = |source: &[f64], length: usize, index: usize, start: usize, stride: usize| {
        let at = |i: usize| source[start + i * stride];
        let pair = |d: usize| at(index.saturating_sub(d)) + at((index + d).min(length - 1));
        let sides: f64 = (1..=BLUR_REACH_PX).map(|d| weights[d] * pair(d)).sum();
        (weights[0] * at(index) + sides) / norm
    };
    let rows: Vec<f64> = (0..image.len()).map(|i| along(image, width, i % width, i - i % width, 1)).collect();
    (0..image.len()).map(|i| along(&rows, height, i / width, i % width, width)).collect()
}

/// Counts for a signal: photon noise grows with its root, the camera's own does not.
fn camera(signal: f64, rng: &mut impl Rng) -> u16 {
    let counts = GAIN * signal;
    let spread = (counts * COUNTS_PER_PHOTON + READ_NOISE * READ_NOISE).sqrt();
    (OFFSET + counts + spread * normal(rng)).round().clamp(0.0, f64::from(u16::MAX)) as u16
}

/// A standard normal number, by Box and Muller.
fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (TAU * rng.random::<f64>()).cos()
}
