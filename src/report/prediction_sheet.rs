//! The picture of a prediction: raw image, cell contours, heat map with its colour bar, overlay.

use std::path::Path;

use crate::error::Result;
use crate::files;
use crate::report::canvas::{Canvas, Rgb, Text, blend};
use crate::report::contact_sheet::tissue;
use crate::report::overlay::{FALSE_ALARM, HIT, MISS, heat};

const PANEL_PX: usize = 520;
const GAP_PX: usize = 16;
const MARGIN_PX: usize = 24;
const HEAD_PX: usize = 64;
const FOOT_PX: usize = 52;
const BAR_PX: usize = 16;

/// What is drawn. Planes are row-major `[height * width]`.
#[derive(Debug, Clone, Copy)]
pub struct Sheet<'a> {
    /// The sample's name.
    pub name: &'a str,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// 1 on the boundary of a cell, else 0.
    pub boundary: &'a [u8],
    /// 1 in a cell, else 0.
    pub cells: &'a [u8],
    /// Microscope intensity from 0 to 1, where there is one.
    pub intensity: Option<&'a [f32]>,
    /// 1 in a rosette, where the truth is known.
    pub target: Option<&'a [u8]>,
    /// Predicted probability of a rosette.
    pub probability: &'a [f32],
    /// Above it a pixel counts as rosette.
    pub threshold: f64,
}

/// Draws the four panels side by side.
///
/// # Errors
/// A user error where the file cannot be written.
pub fn write_sheet(path: &Path, sheet: &Sheet) -> Result<()> {
    files::write_atomic(path, &sheet_png(sheet)?)
}

/// The picture that [`write_sheet`] writes.
///
/// # Errors
/// A failure where it cannot be drawn.
pub fn sheet_png(sheet: &Sheet) -> Result<Vec<u8>> {
    let panel_height = (PANEL_PX * sheet.height / sheet.width.max(1)).clamp(PANEL_PX / 4, 2 * PANEL_PX);
    let left = |column: usize| MARGIN_PX + column * (PANEL_PX + GAP_PX);
    let (width, height) = (left(4) - GAP_PX + MARGIN_PX, HEAD_PX + panel_height + FOOT_PX);
    let mut canvas = Canvas::with_text(width, height, texts(sheet, height, left))?;
    for (column, panel) in sheet.panels().iter().enumerate() {
        canvas.paste(&panel.resized(PANEL_PX, panel_height), left(column), HEAD_PX);
    }
    let bar_top = height - FOOT_PX / 2 - BAR_PX / 2;
    for x in 0..PANEL_PX - 80 {
        let colour = heat(x as f32 / (PANEL_PX - 80) as f32);
        canvas.paste(&Canvas::filled(1, BAR_PX, colour), left(2) + 40 + x, bar_top);
    }
    for (offset, _, colour) in sheet.legend() {
        canvas.paste(&Canvas::filled(BAR_PX, BAR_PX, colour), left(3) + offset, bar_top);
    }
    canvas.png()
}

/// Two panels of `side_px` without words, contours and heat map, as a PNG picture.
///
/// # Errors
/// A failure where it cannot be encoded.
pub fn cover_png(sheet: &Sheet, side_px: usize) -> Result<Vec<u8>> {
    let [_, contours, heat, _] = sheet.panels();
    let mut canvas = Canvas::filled(2 * side_px, side_px, [255; 3]);
    canvas.paste(&contours.resized(side_px, side_px), 0, 0);
    canvas.paste(&heat.resized(side_px, side_px), side_px, 0);
    canvas.png()
}

fn texts(sheet: &Sheet, height: usize, left: impl Fn(usize) -> usize) -> Vec<Text> {
    let text = |x_px, y_px, centred, size_px, bold, content: String| Text {
        x_px,
        y_px,
        centred,
        size_px,
        bold,
        content,
    };
    let raw = if sheet.intensity.is_some() { "Raw image" } else { "Cells" };
    let titles = [raw, "Cell contours", "Probability of a rosette", "Overlay"];
    let baseline = height - FOOT_PX / 2 + 5;
    let mut all: Vec<Text> = titles
        .iter()
        .enumerate()
        .map(|(column, title)| {
            text(left(column) + PANEL_PX / 2, HEAD_PX - 10, true, 18, true, title.to_string())
        })
        .collect();
    let name: String = sheet.name.chars().take(80).collect();
    let heading = format!("{name}   {} x {} px, threshold {}", sheet.width, sheet.height, sheet.threshold);
    all.push(text(MARGIN_PX, 24, false, 15, false, heading));
    all.push(text(left(2) + 24, baseline, true, 15, false, "0".into()));
    all.push(text(left(2) + PANEL_PX - 24, baseline, true, 15, false, "1".into()));
    for (offset, label, _) in sheet.legend() {
        all.push(text(left(3) + offset + BAR_PX + 8, baseline, false, 15, false, label.into()));
    }
    all
}

impl Sheet<'_> {
    fn legend(&self) -> Vec<(usize, &'static str, Rgb)> {
        match self.target {
            Some(_) => vec![(0, "found", HIT), (110, "false alarm", FALSE_ALARM), (260, "missed", MISS)],
            None => vec![(0, "predicted rosette", HIT)],
        }
    }

    fn panels(&self) -> [Canvas; 4] {
        let grey = |i: usize| match self.intensity {
            Some(plane) => [(plane[i].clamp(0.0, 1.0) * 255.0) as u8; 3],
            None => tissue(0.0, f32::from(self.cells[i]), None),
        };
        let contours = |i: usize| tissue(f32::from(self.boundary[i]), f32::from(self.cells[i]), None);
        [
            self.paint(grey),
            self.paint(contours),
            self.paint(|i| heat(self.probability[i])),
            self.paint(|i| {
                self.verdict(i).map_or_else(|| contours(i), |colour| blend(contours(i), colour, 0.6))
            }),
        ]
    }

    /// The colour of a pixel in the overlay, where it has one.
    fn verdict(&self, i: usize) -> Option<Rgb> {
        let is_rosette = self.target.is_none_or(|target| target[i] > 0);
        match (f64::from(self.probability[i]) > self.threshold, is_rosette) {
            (true, true) => Some(HIT),
            (true, false) => Some(FALSE_ALARM),
            (false, true) => self.target.map(|_| MISS),
            (false, false) => None,
        }
    }

    fn paint(&self, colour: impl Fn(usize) -> Rgb) -> Canvas {
        let pixels = (0..self.height * self.width).map(colour).collect();
        Canvas { width: self.width, height: self.height, pixels }
    }
}
