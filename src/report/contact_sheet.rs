//! Contact sheets: many small pictures of tissue with their rosettes marked, in rows with captions.

use std::path::Path;

use crate::error::Result;
use crate::report::canvas::{Canvas, Rgb, Text, blend};

/// Rosettes, in a colour that colour-blind readers tell apart (Okabe and Ito 2008).
const ROSETTE: Rgb = [0, 158, 115];
const PANEL_PX: usize = 240;
const GAP_PX: usize = 12;
const MARGIN_PX: usize = 20;
const TITLE_PX: usize = 44;
const CAPTION_PX: usize = 26;

/// One picture: channels and target of an image or of a patch, row-major.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What stands above it.
    pub caption: String,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Boundary, cell and, where there is one, intensity of each pixel, from 0 to 1.
    pub channels: Vec<(f32, f32, Option<f32>)>,
    /// Whether each pixel is in a rosette.
    pub target: Vec<bool>,
}

/// Draws panels in rows of `columns`.
///
/// # Errors
/// A user error where the file cannot be written.
pub fn write_contact_sheet(path: &Path, title: &str, panels: &[Panel], columns: usize) -> Result<()> {
    let columns = columns.clamp(1, panels.len().max(1));
    let cell_px = PANEL_PX + GAP_PX;
    let rows = panels.len().div_ceil(columns);
    let width = (2 * MARGIN_PX + columns * cell_px).max(700);
    let height = TITLE_PX + rows * (cell_px + CAPTION_PX) + MARGIN_PX;
    let corner =
        |at: usize| (MARGIN_PX + at % columns * cell_px, TITLE_PX + at / columns * (cell_px + CAPTION_PX));
    let text = |x_px, y_px, size_px, bold, content: &str| Text {
        x_px,
        y_px,
        centred: false,
        size_px,
        bold,
        content: content.into(),
    };
    let captions = panels.iter().enumerate().map(|(at, panel)| {
        let (left, top) = corner(at);
        text(left, top + CAPTION_PX - 8, 13, false, &panel.caption)
    });
    let heading = text(MARGIN_PX, TITLE_PX - 16, 18, true, title);
    let mut canvas = Canvas::with_text(width, height, captions.chain([heading]).collect())?;
    for (at, panel) in panels.iter().enumerate() {
        let (left, top) = corner(at);
        let longer = panel.height.max(panel.width).max(1);
        let scaled = |side: usize| (side * PANEL_PX / longer).max(1);
        let picture = panel.paint().resized(scaled(panel.width), scaled(panel.height));
        canvas.paste(&picture, left, top + CAPTION_PX);
    }
    canvas.write_png(path)
}

impl Panel {
    fn paint(&self) -> Canvas {
        let colour = |(&(boundary, cell, intensity), &rosette): (&(f32, f32, Option<f32>), &bool)| {
            let tissue = tissue(boundary, cell, intensity);
            if rosette { blend(tissue, ROSETTE, 0.5) } else { tissue }
        };
        let pixels = self.channels.iter().zip(&self.target).map(colour).collect();
        Canvas { width: self.width, height: self.height, pixels }
    }
}

/// Dark background, grey cells or their intensity, light boundaries.
pub(super) fn tissue(boundary: f32, cell: f32, intensity: Option<f32>) -> Rgb {
    let (grey, strength) = match intensity {
        Some(value) => (value.clamp(0.0, 1.0) * 200.0, 0.35),
        None => (24.0 + 68.0 * cell, 1.0),
    };
    blend([grey as u8; 3], [225; 3], strength * boundary)
}
