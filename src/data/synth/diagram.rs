//! Power diagrams: which cell a point lies in, and how far the nearest membrane is.

use super::cells::Seed;
use super::warp::Point;

/// How many bins around a point's own are searched: seeds lie about one bin apart, rosettes' outer neighbours two.
const REACH: usize = 3;

/// Who owns a point.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    /// Index of the nearest seed by power distance.
    pub(super) seed: usize,
    /// Index of the second nearest: the cell on the other side of the nearest membrane.
    pub(super) neighbour: usize,
    /// Distance to the membrane between the two.
    pub(super) border_px: f64,
}

/// The seeds, in bins.
pub(super) struct Diagram<'a> {
    seeds: &'a [Seed],
    origin: Point,
    end: Point,
    bin_px: f64,
    columns: usize,
    rows: usize,
    bins: Vec<Vec<u32>>,
}

impl<'a> Diagram<'a> {
    pub(super) fn new(seeds: &'a [Seed], bin_px: f64) -> Self {
        let low = |axis: fn(&Seed) -> f64| seeds.iter().map(axis).fold(f64::INFINITY, f64::min);
        let high = |axis: fn(&Seed) -> f64| seeds.iter().map(axis).fold(f64::NEG_INFINITY, f64::max);
        let origin = Point { x: low(|s| s.at.x), y: low(|s| s.at.y) };
        let end = Point { x: high(|s| s.at.x), y: high(|s| s.at.y) };
        let columns = ((end.x - origin.x) / bin_px) as usize + 1;
        let rows = ((end.y - origin.y) / bin_px) as usize + 1;
        let bins = vec![Vec::new(); columns * rows];
        let mut diagram = Self { seeds, origin, end, bin_px, columns, rows, bins };
        for (index, seed) in (0u32..).zip(seeds) {
            let (row, column) = diagram.bin(seed.at);
            diagram.bins[row * columns + column].push(index);
        }
        diagram
    }

    /// The box that holds the seeds.
    pub(super) fn bounds(&self) -> (Point, Point) {
        (self.origin, self.end)
    }

    /// The bin of a point; beyond the seeds, the nearest bin.
    fn bin(&self, point: Point) -> (usize, usize) {
        // A float below zero becomes bin 0.
        let column = ((point.x - self.origin.x) / self.bin_px) as usize;
        let row = ((point.y - self.origin.y) / self.bin_px) as usize;
        (row.min(self.rows - 1), column.min(self.columns - 1))
    }

    /// The owner of `point`.
    ///
    /// # Panics
    /// Where there are less than two seeds near: the lattice leaves no such hole.
    pub(super) fn owner(&self, point: Point) -> Owner {
        let mut nearest = [(f64::INFINITY, usize::MAX); 2];
        let (row, column) = self.bin(point);
        for y in row.saturating_sub(REACH)..(row + REACH + 1).min(self.rows) {
            for x in column.saturating_sub(REACH)..(column + REACH + 1).min(self.columns) {
                for &index in &self.bins[y * self.columns + x] {
                    let seed = &self.seeds[index as usize];
                    let power = seed.at.distance_squared(point) - seed.weight_px2;
                    if power < nearest[0].0 {
                        nearest = [(power, index as usize), nearest[0]];
                    } else if power < nearest[1].0 {
                        nearest[1] = (power, index as usize);
                    }
                }
            }
        }
        let [(power, seed), (next_power, neighbour)] = nearest;
        assert!(neighbour != usize::MAX, "no two seeds near {point:?}");
        let apart = self.seeds[seed].at.distance(self.seeds[neighbour].at).max(1e-9);
        Owner { seed, neighbour, border_px: (next_power - power) / (2.0 * apart) }
    }
}
