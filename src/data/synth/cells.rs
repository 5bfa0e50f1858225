//! Where the cells are: a jittered hexagonal lattice, relaxed, with rosettes and four-cell vertices set into it.

use std::f64::consts::{PI, TAU};

use rand::{Rng, RngExt};

use super::diagram::{Diagram, Owner};
use super::warp::{Point, Warp};

/// Typical cell diameters.
const SPACING_PX: std::ops::Range<f64> = 22.0..28.0;
/// Rosettes, and four-cell vertices, per 512 x 512 px.
const ROSETTES: std::ops::Range<f64> = 3.0..6.0;
const VERTICES: std::ops::Range<f64> = 1.0..3.0;
const REFERENCE_AREA_PX2: f64 = 512.0 * 512.0;
/// Cells of a rosette.
const ROSETTE_CELLS: std::ops::RangeInclusive<usize> = 5..=9;
const VERTEX_CELLS: usize = 4;
/// The points of a rosette lie at this share of its radius, those of its outer neighbours at `2 - POINTS_AT`, so that
/// the membrane between runs at the radius.
const POINTS_AT: f64 = 0.6;
/// Steps of Lloyd's relaxation, and the raster it works on.
const RELAXATIONS: usize = 2;
const RELAX_STEP_PX: f64 = 2.0;
/// How often an image shows the tissue's edge, and how often segmentation missed a cell.
const EDGE_PROBABILITY: f64 = 0.3;
/// Smaller images show no edge: a rosette might find no room beside it.
const EDGE_MIN_PX: usize = 256;
const MISSED_PROBABILITY: f64 = 0.006;
/// Tries to place a rosette clear of the others.
const TRIES: usize = 200;

/// One cell's point.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seed {
    /// Where it is.
    pub(super) at: Point,
    /// What its cell gains over its neighbours' in a power diagram.
    pub(super) weight_px2: f64,
    /// The rosette it belongs to, from 1; 0 for none.
    pub(super) rosette: u16,
    /// Relaxation leaves it where it is.
    fixed: bool,
    /// It is tissue at all.
    pub(super) tissue: bool,
    /// Segmentation found it.
    pub(super) segmented: bool,
}

/// A place where more than three cells meet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meeting {
    /// The common vertex.
    pub(super) centre: Point,
    cells: usize,
    radius_px: f64,
    rosette: u16,
}

/// All cells of an image, and of a margin around it.
pub(super) struct Cells {
    pub(super) seeds: Vec<Seed>,
    pub(super) meetings: Vec<Meeting>,
    pub(super) spacing_px: f64,
}

/// The straight line, slightly wavy, beyond which there is no tissue.
struct Edge {
    inward: Point,
    offset_px: f64,
    phase: f64,
}

impl Cells {
    pub(super) fn place(warp: &Warp, height: usize, width: usize, rng: &mut impl Rng) -> Self {
        let spacing_px = rng.random_range(SPACING_PX);
        let edge = rng.random_bool(EDGE_PROBABILITY) && height.min(width) >= EDGE_MIN_PX;
        let edge = edge.then(|| Edge::draw(height, width, rng));
        let meetings = place_meetings(warp, height, width, spacing_px, edge.as_ref(), rng);
        let mut seeds = lattice(warp, height, width, spacing_px, rng);
        seeds.retain(|seed| meetings.iter().all(|m| m.clear_of(seed.at, spacing_px)));
        for (index, meeting) in meetings.iter().enumerate() {
            let ring = meeting.ring(spacing_px, rng);
            seeds.extend(ring.into_iter().filter(|s| {
                let mut others = meetings.iter().enumerate().filter(|&(other, _)| other != index);
                others.all(|(_, m)| m.clear_of(s.at, 0.0))
            }));
            seeds.extend(meeting.points(rng));
        }
        for _ in 0..RELAXATIONS {
            relax(&mut seeds, spacing_px);
        }
        for seed in &mut seeds {
            seed.tissue = edge.as_ref().is_none_or(|edge| edge.inside_px(seed.at) > 0.0);
            let missed = !seed.fixed && rng.random_bool(MISSED_PROBABILITY);
            seed.segmented = seed.tissue && !missed;
        }
        Self { seeds, meetings, spacing_px }
    }

    /// The rosette at a pixel: that of its cell; the membranes within a rosette belong to it, its outline does not.
    pub(super) fn rosette_at(&self, owner: &Owner, gap_px: f64) -> u16 {
        let rosette = self.seeds[owner.seed].rosette;
        let inner = self.seeds[owner.neighbour].rosette == rosette;
        if inner || owner.border_px >= gap_px { rosette } else { 0 }
    }
}

impl Seed {
    fn new(at: Point, weight_px2: f64) -> Self {
        Self { at, weight_px2, rosette: 0, fixed: false, tissue: true, segmented: true }
    }
}

impl Meeting {
    fn new(centre: Point, cells: usize, spacing_px: f64, rosette: u16) -> Self {
        let cell_area_px2 = spacing_px * spacing_px * 0.75_f64.sqrt();
        let radius_px = (cells as f64 * cell_area_px2 / PI).sqrt();
        Self { centre, cells, radius_px, rosette }
    }

    /// How far out the points of the outer neighbours lie.
    fn ring_px(&self) -> f64 {
        self.radius_px * (2.0 - POINTS_AT)
    }

    /// Whether a point of the lattice at `at` leaves room for this meeting and, `spacing_px` apart, its ring.
    fn clear_of(&self, at: Point, spacing_px: f64) -> bool {
        at.distance(self.centre) > self.ring_px() + 0.6 * spacing_px
    }

    /// The points of the cells that meet: on one circle, so that all are equally far from its centre.
    fn points(&self, rng: &mut impl Rng) -> Vec<Seed> {
        let start = rng.random_range(0.0..TAU);
        let point = |index: usize| {
            let angle = start + TAU * (index as f64 + rng.random_range(-0.17..0.17)) / self.cells as f64;
            let at = self.centre.around(POINTS_AT * self.radius_px, angle);
            Seed { rosette: self.rosette, fixed: true, ..Seed::new(at, 0.0) }
        };
        (0..self.cells).map(point).collect()
    }

    /// The points of the cells around them, free to relax.
    fn ring(&self, spacing_px: f64, rng: &mut impl Rng) -> Vec<Seed> {
        let count = (TAU * self.ring_px() / spacing_px).round() as usize;
        let start = rng.random_range(0.0..TAU);
        let point = |index: usize| {
            let angle = start + TAU * (index as f64 + rng.random_range(-0.25..0.25)) / count as f64;
            let radius = self.ring_px() + rng.random_range(-0.3..0.35) * spacing_px;
            Seed::new(self.centre.around(radius, angle), 0.0)
        };
        (0..count).map(point).collect()
    }
}

impl Edge {
    fn draw(height: usize, width: usize, rng: &mut impl Rng) -> Self {
        let origin = Point { x: 0.0, y: 0.0 };
        let inward = origin.around(1.0, rng.random_range(0.0..TAU));
        // The image's corner farthest outward; the edge runs somewhat inside of it.
        let reach = |direction: f64, side: usize| if direction > 0.0 { 0.0 } else { direction * side as f64 };
        let outermost = reach(inward.x, width) + reach(inward.y, height);
        let offset_px = outermost + rng.random_range(0.15..0.35) * height.min(width) as f64;
        Self { inward, offset_px, phase: rng.random_range(0.0..TAU) }
    }

    /// How far inside the tissue a point is; negative outside.
    fn inside_px(&self, at: Point) -> f64 {
        let along = at.x * self.inward.y - at.y * self.inward.x;
        let wave = 9.0 * (along / 37.0 + self.phase).sin() + 5.0 * (along / 17.0).sin();
        at.x * self.inward.x + at.y * self.inward.y - self.offset_px + wave
    }
}

fn place_meetings(
    warp: &Warp,
    height: usize,
    width: usize,
    spacing_px: f64,
    edge: Option<&Edge>,
    rng: &mut impl Rng,
) -> Vec<Meeting> {
    let areas = (height * width) as f64 / REFERENCE_AREA_PX2;
    let rosettes = (rng.random_range(ROSETTES) * areas).round().max(1.0) as usize;
    let vertices = (rng.random_range(VERTICES) * areas).round() as usize;
    let mut placed: Vec<Meeting> = Vec::new();
    let mut rosette = 0;
    for index in 0..rosettes + vertices {
        let is_rosette = index < rosettes;
        for _ in 0..TRIES {
            let cells = if is_rosette { rng.random_range(ROSETTE_CELLS) } else { VERTEX_CELLS };
            let meeting = Meeting::new(Point { x: 0.0, y: 0.0 }, cells, spacing_px, 0);
            let mut inside = |side: usize| {
                let margin = (1.15 * meeting.radius_px).min(side as f64 * 0.45);
                rng.random_range(margin..side as f64 - margin)
            };
            let (x, y) = (inside(width), inside(height));
            let centre = warp.tissue_point(x, y);
            let far = |m: &Meeting| centre.distance(m.centre) > m.radius_px + meeting.radius_px + spacing_px;
            let in_tissue = edge.is_none_or(|edge| edge.inside_px(centre) > meeting.radius_px + spacing_px);
            if in_tissue && placed.iter().all(far) {
                rosette += u16::from(is_rosette);
                placed.push(Meeting { centre, rosette: if is_rosette { rosette } else { 0 }, ..meeting });
                break;
            }
        }
    }
    placed
}

/// A jittered hexagonal lattice over the image and a margin of three cells, with cells of unlike weight.
fn lattice(warp: &Warp, height: usize, width: usize, spacing_px: f64, rng: &mut impl Rng) -> Vec<Seed> {
    let (low, high) = bounds(warp, height, width);
    let margin = 3.0 * spacing_px;
    let row_px = spacing_px * 0.75_f64.sqrt();
    let rows = ((high.y - low.y + 2.0 * margin) / row_px) as usize + 1;
    let columns = ((high.x - low.x + 2.0 * margin) / spacing_px) as usize + 1;
    let mut seeds = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        for column in 0..columns {
            let shift = 0.5 * (row % 2) as f64;
            let mut jitter = || rng.random_range(-0.46..0.46) * spacing_px;
            let x = low.x - margin + (column as f64 + shift) * spacing_px + jitter();
            let y = low.y - margin + row as f64 * row_px + jitter();
            let weight = rng.random_range(-0.09..0.09) * spacing_px * spacing_px;
            seeds.push(Seed::new(Point { x, y }, weight));
        }
    }
    seeds
}

/// The box in the tissue's plane that holds the image.
fn bounds(warp: &Warp, height: usize, width: usize) -> (Point, Point) {
    let (mut low, mut high) = (warp.tissue_point(0.0, 0.0), warp.tissue_point(0.0, 0.0));
    let mut take = |x: usize, y: usize| {
        let p = warp.tissue_point(x as f64, y as f64);
        low = Point { x: low.x.min(p.x), y: low.y.min(p.y) };
        high = Point { x: high.x.max(p.x), y: high.y.max(p.y) };
    };
    (0..width).for_each(|x| [0, height].into_iter().for_each(|y| take(x, y)));
    (0..height).for_each(|y| [0, width].into_iter().for_each(|x| take(x, y)));
    (low, high)
}

/// Moves every free seed to the centre of its cell: Lloyd's algorithm, on a raster.
fn relax(seeds: &mut [Seed], spacing_px: f64) {
    let diagram = Diagram::new(seeds, spacing_px);
    let (low, high) = diagram.bounds();
    let mut sums = vec![(0.0, 0.0, 0u32); seeds.len()];
    let steps = |length: f64| (length / RELAX_STEP_PX) as usize;
    for row in 0..steps(high.y - low.y) {
        for column in 0..steps(high.x - low.x) {
            let at =
                Point { x: low.x + column as f64 * RELAX_STEP_PX, y: low.y + row as f64 * RELAX_STEP_PX };
            let sum = &mut sums[diagram.owner(at).seed];
            *sum = (sum.0 + at.x, sum.1 + at.y, sum.2 + 1);
        }
    }
    for (seed, (x, y, count)) in seeds.iter_mut().zip(sums) {
        if !seed.fixed && count > 0 {
            seed.at = Point { x: x / f64::from(count), y: y / f64::from(count) };
        }
    }
}
