//! `evaluation.html`: what an evaluation came to, in one file: figures, curves, a table, the worst images.

use std::path::PathBuf;

use super::evaluate::{EvaluationRow, Scoring};
use super::input::Image;
use super::sweep::Sweep;
use crate::error::Result;
use crate::report::html::{Best, Cell, Html, Page, charts, figure, paragraph, table, tiles};
use crate::report::prediction_sheet::{Sheet, sheet_png};
use crate::report::svg::{Chart, Series, chart};

/// Images that are shown: a page is read, and sent.
const SHOWN: usize = 4;

/// Pictures of the images with the lowest F1, lowest first.
#[derive(Default)]
pub(super) struct Worst(Vec<(f64, String, Vec<u8>)>);

impl Worst {
    /// Draws an image where it is among the worst so far.
    pub fn offer(&mut self, f1: f64, image: &Image, probability: &[f32], threshold: f64) -> Result<()> {
        let place = self.0.partition_point(|(other, ..)| *other <= f1);
        if place >= SHOWN {
            return Ok(());
        }
        let planes = &image.planes;
        let sheet = Sheet {
            name: &planes.name,
            height: planes.height,
            width: planes.width,
            boundary: &planes.boundary,
            cells: &planes.cells,
            intensity: planes.intensity.as_deref(),
            target: Some(&planes.target),
            probability,
            threshold,
        };
        self.0.insert(place, (f1, planes.name.clone(), sheet_png(&sheet)?));
        self.0.truncate(SHOWN);
        Ok(())
    }
}

/// All that the page tells.
pub(super) struct Evaluated<'a> {
    /// The models whose mean was evaluated.
    pub models: &'a [PathBuf],
    /// The images, then all together.
    pub rows: &'a [EvaluationRow],
    /// Above it a pixel counts as rosette.
    pub threshold: f64,
    /// What was scored, and how.
    pub scoring: Scoring,
    /// All pixels over all thresholds.
    pub sweep: Sweep,
    /// The worst images.
    pub worst: Worst,
}

impl Evaluated<'_> {
    /// The page.
    pub fn page(&self) -> Page {
        let models: Vec<String> = self.models.iter().map(|path| path.display().to_string()).collect();
        let images = self.rows.len() - 1;
        let subtitle = format!("{}: threshold {}, {images} images", models.join(", "), self.threshold);
        let (all, each) = self.rows.split_last().expect("the row of all images");
        Page::new("Evaluation", subtitle)
            .section("All images together", self.pooled(all))
            .section("By threshold", self.curves())
            .section("By image", rows_table(each))
            .section("The worst images", self.pictures())
    }

    fn pooled(&self, all: &EvaluationRow) -> Html {
        let number = |value: f64| format!("{value:.4}");
        let mut figures = vec![
            ("F1 of pixels", number(all.f1)),
            ("IoU of pixels", number(all.iou)),
            ("precision", number(all.precision)),
            ("recall", number(all.recall)),
            (
                "rosettes found",
                format!("{} of {}", all.rosettes_found, all.rosettes_found + all.rosettes_missed),
            ),
            ("false rosettes", all.rosettes_false.to_string()),
            ("F1 of rosettes", number(all.rosette_f1)),
            ("panoptic quality", number(all.panoptic_quality)),
        ];
        let optional = [
            ("average precision", all.average_precision),
            ("Hausdorff 95 (px)", all.hausdorff95),
            ("surface Dice", all.surface_dice),
        ];
        figures.extend(optional.into_iter().filter_map(|(what, value)| Some((what, number(value?)))));
        let smallest = match self.scoring.min_object_px {
            0 | 1 => String::new(),
            px => format!(" Those of fewer than {px} pixels do not count."),
        };
        let what = format!(
            "Pixels of all images are counted together. A rosette counts as found where a predicted one overlaps it by \
             more than half of their union.{smallest} Distances of outlines are means over the images that have both."
        );
        [tiles(&figures), paragraph(what)].into_iter().collect()
    }

    fn curves(&self) -> Html {
        let rows = self.sweep.rows();
        let series = |name: &str, colour, of: &dyn Fn(&super::PixelScores) -> f64| Series {
            name: name.into(),
            colour,
            points: rows.iter().map(|row| (row.threshold, of(&row.scores))).collect(),
        };
        let best = self.sweep.best().threshold;
        let panel = |title: &str, series| {
            chart(&Chart {
                title: title.into(),
                x: "threshold".into(),
                series,
                range: Some((0.0, 1.0)),
                log: false,
                mark: Some((best, format!("highest F1, {best}"))),
            })
        };
        charts([
            panel("F1 and IoU", vec![series("F1", 0, &|s| s.f1()), series("IoU", 2, &|s| s.iou())]),
            panel(
                "Precision and recall",
                vec![series("precision", 3, &|s| s.precision()), series("recall", 4, &|s| s.recall())],
            ),
        ])
    }

    fn pictures(&self) -> Html {
        let caption = |f1: &f64, name: &str| format!("{name}: F1 {f1:.4}");
        self.worst.0.iter().map(|(f1, name, png)| figure(png, &caption(f1, name))).collect()
    }
}

/// The images, one a row.
fn rows_table(rows: &[EvaluationRow]) -> Html {
    let (none, high, low) = (Best::None, Best::Highest, Best::Lowest);
    let columns = [
        ("sample", none),
        ("F1", high),
        ("IoU", high),
        ("precision", high),
        ("recall", high),
        ("average precision", high),
        ("rosettes found", none),
        ("false", low),
        ("missed", low),
        ("F1 of rosettes", high),
        ("panoptic quality", high),
        ("Hausdorff 95 (px)", low),
        ("surface Dice", high),
    ];
    let cells = |row: &EvaluationRow| {
        let score = |value: f64| Cell::decimals(Some(value), 4);
        vec![
            Cell::Text(row.sample.clone()),
            score(row.f1),
            score(row.iou),
            score(row.precision),
            score(row.recall),
            Cell::decimals(row.average_precision, 4),
            Cell::count(row.rosettes_found),
            Cell::count(row.rosettes_false),
            Cell::count(row.rosettes_missed),
            score(row.rosette_f1),
            score(row.panoptic_quality),
            Cell::decimals(row.hausdorff95, 2),
            Cell::decimals(row.surface_dice, 4),
        ]
    };
    table(&columns, &rows.iter().map(cells).collect::<Vec<_>>())
}
