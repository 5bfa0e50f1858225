//! Validation tiles: every image in full and always alike. Windows of one patch cover the image; each pixel is owned by
//! exactly one of them, so that no pixel counts twice in a metric.

use crate::data::channels::Prepared;
use crate::data::patches::{CHANNELS, Crop, image_rows, write_channels};

/// The target's value where a tile must not be scored: outside the image, or owned by another tile. The loss and
/// the metrics pass over negative targets.
pub const IGNORE: f32 = -1.0;

/// One window and the part of the image it is scored on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Where the window is cut. It lies inside the image wherever the image is large enough.
    pub crop: Crop,
    /// The pixels that are this tile's, in the image's coordinates; always inside the window.
    pub owned: Rect,
}

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// A stretch of one axis: where the window starts, what it owns.
struct Span {
    start: usize,
    owned_start: usize,
    owned_len: usize,
}

/// The tiles of an image of `height` by `width`, row by row. Ownership lies on a grid of `patch_px`; a window that
/// would reach beyond the image is shifted inward and sees some of its neighbour's pixels again.
pub fn tiles(height: usize, width: usize, patch_px: usize) -> Vec<Tile> {
    let columns = spans(width, patch_px);
    let tile = |row: &Span, column: &Span| Tile {
        crop: Crop { top: row.start, left: column.start },
        owned: Rect {
            top: row.owned_start,
            left: column.owned_start,
            height: row.owned_len,
            width: column.owned_len,
        },
    };
    spans(height, patch_px)
        .iter()
        .flat_map(|row| columns.iter().map(move |column| tile(row, column)))
        .collect()
}

fn spans(length: usize, patch_px: usize) -> Vec<Span> {
    let last_start = length.saturating_sub(patch_px);
    (0..length)
        .step_by(patch_px)
        .map(|at| Span { start: at.min(last_start), owned_start: at, owned_len: patch_px.min(length - at) })
        .collect()
}

/// Writes a tile: `channels_out` is [patch_px, patch_px, [`CHANNELS`]] f32, `target_out` [patch_px, patch_px] f32 of 0
/// and 1 where the tile owns the pixel and [`IGNORE`] elsewhere.
///
/// # Panics
/// Where the slices have other lengths.
pub fn write_tile(
    image: &Prepared,
    tile: &Tile,
    patch_px: usize,
    channels_out: &mut [f32],
    target_out: &mut [f32],
) {
    write_channels(image, tile.crop, patch_px, channels_out);
    assert_eq!(channels_out.len() / CHANNELS, target_out.len(), "the target of one tile");
    target_out.fill(IGNORE);
    let rows = tile.owned.top..tile.owned.top + tile.owned.height;
    let columns = tile.owned.left..tile.owned.left + tile.owned.width;
    for (row, from) in image_rows(image, tile.crop, patch_px).enumerate() {
        if !rows.contains(&(tile.crop.top + row)) {
            continue;
        }
        let line = &image.target[from];
        for x in columns.clone() {
            target_out[row * patch_px + x - tile.crop.left] = f32::from(line[x - tile.crop.left]);
        }
    }
}
