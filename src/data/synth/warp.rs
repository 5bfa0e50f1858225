//! From the image's pixels to the plane in which the cells are a power diagram: an area-preserving stretch, then a few
//! smooth waves. Waves much longer than a cell give regions of different grain; short ones bend the membranes.

use std::f64::consts::{PI, TAU};

use rand::{Rng, RngExt};

/// Waves of either kind; their lengths, and by how many px per px each may shift the tissue.
const WAVES: usize = 4;
const LONG_PX: std::ops::Range<f64> = 130.0..260.0;
const LONG_SLOPE: f64 = 0.10;
const SHORT_PX: std::ops::Range<f64> = 26.0..48.0;
const SHORT_SLOPE: f64 = 0.07;
/// The most that cells are stretched: long side to short.
const STRETCH: std::ops::Range<f64> = 1.0..1.25;

/// A point of the tissue's plane, in px.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
}

impl Point {
    pub(super) fn distance_squared(self, other: Self) -> f64 {
        (self.x - other.x).powi(2) + (self.y - other.y).powi(2)
    }

    pub(super) fn distance(self, other: Self) -> f64 {
        self.distance_squared(other).sqrt()
    }

    /// The point at `radius` in direction `angle`.
    pub(super) fn around(self, radius: f64, angle: f64) -> Self {
        Self { x: self.x + radius * angle.cos(), y: self.y + radius * angle.sin() }
    }
}

/// One wave: a displacement along `shift` that varies along `along`.
struct Wave {
    along: Point,
    shift: Point,
    phase: f64,
}

/// The map. It is one-to-one: the waves' slopes add up to less than 1.
pub(super) struct Warp {
    centre: Point,
    /// Rows of a symmetric matrix of determinant 1.
    stretch: [Point; 2],
    waves: Vec<Wave>,
}

impl Warp {
    pub(super) fn draw(height: usize, width: usize, rng: &mut impl Rng) -> Self {
        let (angle, ratio) = (rng.random_range(0.0..PI), rng.random_range(STRETCH).sqrt());
        let (c, s) = (angle.cos(), angle.sin());
        let off = c * s * (ratio - 1.0 / ratio);
        let stretch = [
            Point { x: c * c * ratio + s * s / ratio, y: off },
            Point { x: off, y: s * s * ratio + c * c / ratio },
        ];
        let mut waves = Vec::new();
        for _ in 0..WAVES {
            waves.push(wave(rng.random_range(LONG_PX), LONG_SLOPE, rng));
            waves.push(wave(rng.random_range(SHORT_PX), SHORT_SLOPE, rng));
        }
        Self { centre: Point { x: width as f64 / 2.0, y: height as f64 / 2.0 }, stretch, waves }
    }

    /// Where the pixel at column `x`, row `y` lies in the tissue.
    pub(super) fn tissue_point(&self, x: f64, y: f64) -> Point {
        let (dx, dy) = (x - self.centre.x, y - self.centre.y);
        let [row_x, row_y] = self.stretch;
        let mut point = Point {
            x: self.centre.x + row_x.x * dx + row_x.y * dy,
            y: self.centre.y + row_y.x * dx + row_y.y * dy,
        };
        for wave in &self.waves {
            let swing = (wave.along.x * dx + wave.along.y * dy + wave.phase).sin();
            point.x += wave.shift.x * swing;
            point.y += wave.shift.y * swing;
        }
        point
    }
}

/// A wave of `length` px whose displacement changes by `slope` px per px at most.
fn wave(length: f64, slope: f64, rng: &mut impl Rng) -> Wave {
    let origin = Point { x: 0.0, y: 0.0 };
    let along = origin.around(TAU / length, rng.random_range(0.0..TAU));
    let shift = origin.around(slope * length / TAU, rng.random_range(0.0..TAU));
    Wave { along, shift, phase: rng.random_range(0.0..TAU) }
}
