//! `predictions.png`: what the network sees, what it should find, what it finds and where the two differ, for a few
//! validation images, one row each.

use std::path::Path;

use crate::error::Result;
use crate::report::canvas::{Canvas, Rgb, Text, blend};
use crate::report::contact_sheet::tissue;

/// One image with its target and its prediction. Planes are row-major `[height * width]`.
#[derive(Clone, Debug)]
pub struct Prediction<'a> {
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
    /// 1 in a rosette, else 0.
    pub target: &'a [u8],
    /// Predicted probability of a rosette.
    pub probability: &'a [f32],
}

/// Above this probability a pixel counts as rosette.
const THRESHOLD: f32 = 0.5;

const PANEL_PX: usize = 420;
const GAP_PX: usize = 14;
const MARGIN_PX: usize = 24;
const TITLE_PX: usize = 44;
const CAPTION_PX: usize = 34;
const LEGEND_PX: usize = 52;
const SWATCH_PX: usize = 16;

const TITLES: [&str; 4] = ["Input", "Truth", "Predicted probability", "Agreement"];

/// Colours that colour-blind readers tell apart (Okabe and Ito 2008).
pub(super) const HIT: Rgb = [0, 158, 115];
pub(super) const FALSE_ALARM: Rgb = [213, 94, 0];
pub(super) const MISS: Rgb = [86, 180, 233];

/// Draws at most the first `rows` of the images.
///
/// # Errors
/// A user error where the file cannot be written.
///
/// # Panics
/// Where a plane has another size than its image.
pub fn write_predictions(path: &Path, images: &[Prediction], rows: usize) -> Result<()> {
    let images = &images[..images.len().min(rows)];
    images.iter().for_each(Prediction::assert_consistent);
    let heights: Vec<usize> = images.iter().map(Prediction::panel_height_px).collect();
    let width = 2 * MARGIN_PX + TITLES.len() * PANEL_PX + (TITLES.len() - 1) * GAP_PX;
    let height = TITLE_PX + heights.iter().map(|h| h + CAPTION_PX).sum::<usize>() + LEGEND_PX;
    let mut canvas = Canvas::with_text(width, height, texts(images, &heights, height))?;
    let mut top = TITLE_PX;
    for (image, &panel_height) in images.iter().zip(&heights) {
        for (column, panel) in image.panels().iter().enumerate() {
            canvas.paste(&panel.resized(PANEL_PX, panel_height), left_px(column), top + CAPTION_PX);
        }
        top += CAPTION_PX + panel_height;
    }
    draw_legend(&mut canvas);
    canvas.write_png(path)
}

/// The left edge of a column.
fn left_px(column: usize) -> usize {
    MARGIN_PX + column * (PANEL_PX + GAP_PX)
}

fn texts(images: &[Prediction], heights: &[usize], height: usize) -> Vec<Text> {
    let mut texts = Vec::new();
    let mut add = |x_px, y_px, centred, size_px, bold, content: String| {
        texts.push(Text { x_px, y_px, centred, size_px, bold, content });
    };
    for (column, title) in TITLES.iter().enumerate() {
        add(left_px(column) + PANEL_PX / 2, TITLE_PX - 12, true, 19, true, title.to_string());
    }
    let mut top = TITLE_PX;
    for (image, panel_height) in images.iter().zip(heights) {
        add(MARGIN_PX, top + CAPTION_PX - 10, false, 16, false, image.caption());
        top += CAPTION_PX + panel_height;
    }
    let baseline = height - LEGEND_PX / 2 + 5;
    for (entry, label, _) in LEGEND {
        add(entry.0 + SWATCH_PX + 8, baseline, false, 15, false, label.to_string());
    }
    let (start, end) = probability_bar();
    add(start - 16, baseline, true, 15, false, "0".into());
    add(end + 16, baseline, true, 15, false, "1".into());
    texts
}

/// The left edge of an entry of the legend.
struct At(usize);

const COMPARISON_LEFT_PX: usize = MARGIN_PX + 3 * (PANEL_PX + GAP_PX);

const LEGEND: [(At, &str, Rgb); 4] = [
    (At(MARGIN_PX + PANEL_PX + GAP_PX), "rosette", HIT),
    (At(COMPARISON_LEFT_PX), "found", HIT),
    (At(COMPARISON_LEFT_PX + 110), "false alarm", FALSE_ALARM),
    (At(COMPARISON_LEFT_PX + 260), "missed", MISS),
];

/// The ends of the colour bar of the probability.
fn probability_bar() -> (usize, usize) {
    (left_px(2) + 60, left_px(2) + PANEL_PX - 60)
}

fn draw_legend(canvas: &mut Canvas) {
    let top = canvas.height - LEGEND_PX / 2 - SWATCH_PX / 2;
    for (at, _, colour) in LEGEND {
        canvas.paste(&Canvas::filled(SWATCH_PX, SWATCH_PX, colour), at.0, top);
    }
    let (start, end) = probability_bar();
    for x in start..end {
        let probability = (x - start) as f32 / (end - start) as f32;
        canvas.paste(&Canvas::filled(1, SWATCH_PX, heat(probability)), x, top);
    }
}

impl Prediction<'_> {
    fn assert_consistent(&self) {
        let pixels = self.height * self.width;
        assert!(pixels > 0, "{}: an empty image", self.name);
        let planes = [self.boundary.len(), self.cells.len(), self.target.len(), self.probability.len()];
        assert_eq!(planes, [pixels; 4], "{}: planes of {} x {}", self.name, self.height, self.width);
        assert!(self.intensity.is_none_or(|plane| plane.len() == pixels), "{}: intensity", self.name);
    }

    /// Panels are equally wide; very long images are squeezed.
    fn panel_height_px(&self) -> usize {
        (PANEL_PX * self.height / self.width).clamp(PANEL_PX / 4, 2 * PANEL_PX)
    }

    fn caption(&self) -> String {
        let [hits, false_alarms, misses] = self.counts();
        let f1 = (2 * hits) as f64 / (2 * hits + false_alarms + misses).max(1) as f64;
        let name: String = self.name.chars().take(60).collect();
        let score = match hits + false_alarms + misses {
            0 => "no rosette, none predicted".to_string(),
            _ => format!("F1 {f1:.3}"),
        };
        format!("{name}   {score}   ({} x {} px)", self.width, self.height)
    }

    /// Pixels found, falsely found and missed.
    fn counts(&self) -> [usize; 3] {
        let count =
            |wanted: Option<Rgb>| (0..self.target.len()).filter(|&i| self.verdict(i) == wanted).count();
        [count(Some(HIT)), count(Some(FALSE_ALARM)), count(Some(MISS))]
    }

    /// The colour of the comparison at a pixel; none where neither truth nor prediction have a rosette.
    fn verdict(&self, i: usize) -> Option<Rgb> {
        match (self.target[i] > 0, self.probability[i] > THRESHOLD) {
            (true, true) => Some(HIT),
            (false, true) => Some(FALSE_ALARM),
            (true, false) => Some(MISS),
            (false, false) => None,
        }
    }

    /// The four panels at the image's own size.
    fn panels(&self) -> [Canvas; 4] {
        let tissue = |i: usize| self.tissue(i);
        [
            self.paint(tissue),
            self.paint(|i| if self.target[i] > 0 { blend(tissue(i), HIT, 0.6) } else { tissue(i) }),
            self.paint(|i| blend(tissue(i), heat(self.probability[i]), 0.25 + 0.65 * self.probability[i])),
            self.paint(|i| match self.verdict(i) {
                Some(colour) => blend(tissue(i), colour, if self.is_edge(i) { 1.0 } else { 0.55 }),
                None => tissue(i),
            }),
        ]
    }

    fn paint(&self, colour: impl Fn(usize) -> Rgb) -> Canvas {
        let pixels = (0..self.height * self.width).map(colour).collect();
        Canvas { width: self.width, height: self.height, pixels }
    }

    fn tissue(&self, i: usize) -> Rgb {
        let intensity = self.intensity.map(|plane| plane[i]);
        tissue(f32::from(self.boundary[i]), f32::from(self.cells[i]), intensity)
    }

    /// Whether the verdict changes within the width of a line that survives the panel's scaling.
    fn is_edge(&self, i: usize) -> bool {
        let reach = self.width.div_ceil(PANEL_PX);
        let (row, column) = (i / self.width, i % self.width);
        let own = self.verdict(i);
        let neighbours = [
            (column >= reach).then(|| i - reach),
            (column + reach < self.width).then(|| i + reach),
            (row >= reach).then(|| i - reach * self.width),
            (row + reach < self.height).then(|| i + reach * self.width),
        ];
        neighbours.into_iter().flatten().any(|j| self.verdict(j) != own)
    }
}

/// Dark violet over red to light yellow: ever lighter, so that it reads in grey too.
pub(super) fn heat(probability: f32) -> Rgb {
    const STOPS: [Rgb; 6] =
        [[8, 6, 30], [66, 14, 104], [146, 38, 103], [219, 80, 58], [251, 155, 22], [252, 250, 160]];
    let at = probability.clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    let low = (at as usize).min(STOPS.len() - 2);
    blend(STOPS[low], STOPS[low + 1], at - low as f32)
}
