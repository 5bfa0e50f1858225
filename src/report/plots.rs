//! `training_plots.png`: losses, scores and learning rate by epoch, with the epoch whose weights were kept.

use std::path::Path;

use kuva::PngBackend;
use kuva::TickFormat;
use kuva::plot::legend::LegendPosition;
use kuva::plot::{LinePlot, ScatterPlot};
use kuva::render::annotations::ReferenceLine;
use kuva::render::figure::Figure;
use kuva::render::layout::Layout;
use kuva::render::plots::Plot;

use crate::error::{Error, Result};
use crate::files;
use crate::report::metrics::{EpochRow, best_epoch};

/// Colours that colour-blind readers tell apart (Okabe and Ito 2008).
const BLUE: &str = "#0072b2";
const VERMILION: &str = "#d55e00";
const GREEN: &str = "#009e73";
const GREY: &str = "#7f7f7f";
const SKY: &str = "#56b4e9";
const PURPLE: &str = "#cc79a7";
const ORANGE: &str = "#e69f00";

/// Up to so many epochs each point is marked as well.
const MARKED_EPOCHS: usize = 30;

/// One panel of the training plots.
struct Panel {
    title: &'static str,
    axis: &'static str,
    curves: &'static [Curve],
    kind: Kind,
}

/// A name for the legend, a colour, and the value of an epoch.
type Curve = (&'static str, &'static str, fn(&EpochRow) -> f64);

/// What a panel's y axis is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// From zero up.
    Loss,
    /// From 0 to 1, so that experiments compare at a glance.
    Score,
    /// Logarithmic: it is halved again and again.
    Rate,
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "Loss",
        axis: "Loss (cross-entropy and Dice)",
        curves: &[("training", BLUE, |row| row.train_loss), ("validation", VERMILION, |row| row.val_loss)],
        kind: Kind::Loss,
    },
    Panel {
        title: "Overlap with the truth",
        axis: "Validation score",
        curves: &[("F1", VERMILION, |row| row.val_f1), ("IoU", SKY, |row| row.val_iou)],
        kind: Kind::Score,
    },
    Panel {
        title: "Precision and recall",
        axis: "Validation score",
        curves: &[("precision", PURPLE, |row| row.val_precision), ("recall", ORANGE, |row| row.val_recall)],
        kind: Kind::Score,
    },
    Panel {
        title: "Learning rate",
        axis: "Learning rate",
        curves: &[("learning rate", GREY, |row| row.learning_rate)],
        kind: Kind::Rate,
    },
];

/// Draws the four panels; nothing is drawn for values that are not finite. Without any row there is no file.
///
/// # Errors
/// A user error where the file cannot be written.
pub fn write_training_plots(path: &Path, title: &str, rows: &[EpochRow]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let best = best_epoch(rows);
    let (plots, layouts): (Vec<_>, Vec<_>) = PANELS.iter().map(|panel| panel.draw(rows, best)).unzip();
    let scene = Figure::new(2, 2)
        .with_title(title)
        .with_title_size(20)
        .with_cell_size(620.0, 400.0)
        .with_spacing(28.0)
        .with_plots(plots)
        .with_layouts(layouts)
        .with_keep_panel_legends()
        .render();
    let png = PngBackend::new().with_scale(2.0).render_scene(&scene).map_err(Error::failure)?;
    files::write_atomic(path, &png)
}

impl Panel {
    fn draw(&self, rows: &[EpochRow], best: Option<&EpochRow>) -> (Vec<Plot>, Layout) {
        let mut plots: Vec<Plot> = self.curves.iter().flat_map(|curve| self.curve(rows, *curve)).collect();
        let (_, _, value) = self.curves[usize::from(self.kind == Kind::Loss)];
        let marked = best.filter(|row| self.admits(value(row)));
        plots.extend(marked.map(|row| mark_best(row, value(row))));
        let mut layout = Layout::auto_from_plots(&plots);
        if let Some(row) = marked {
            let line = ReferenceLine::vertical(row.epoch as f64).with_color(GREY).with_stroke_width(1.0);
            layout = layout.with_reference_line(line.with_dasharray("3 4"));
        }
        let values = rows.iter().flat_map(|row| self.curves.iter().map(|(_, _, value)| value(row)));
        let shown: Vec<f64> = values.filter(|y| self.admits(*y)).collect();
        let layout = self
            .scaled(layout, &shown)
            .with_legend_position(self.legend(rows))
            .with_legend_box(true)
            .with_legend_width(225.0);
        (plots, style(layout, self, rows))
    }

    /// Whether a value has a place on the axis.
    fn admits(&self, y: f64) -> bool {
        y.is_finite() && (self.kind != Kind::Rate || y > 0.0)
    }

    fn scaled(&self, layout: Layout, shown: &[f64]) -> Layout {
        let highest = shown.iter().copied().fold(0.0, f64::max);
        match self.kind {
            Kind::Score => layout.with_y_axis_min(0.0).with_y_axis_max(1.0),
            Kind::Loss => {
                layout.with_y_axis_min(0.0).with_y_axis_max(if highest > 0.0 { highest * 1.1 } else { 1.0 })
            }
            Kind::Rate => {
                let lowest = shown.iter().copied().fold(f64::INFINITY, f64::min);
                let (low, high) = if lowest.is_finite() { (lowest, highest) } else { (0.1, 1.0) };
                let (low, high) =
                    (10f64.powf((low * 0.99).log10().floor()), 10f64.powf((high * 1.01).log10().ceil()));
                layout
                    .with_log_y()
                    .with_y_axis_min(low)
                    .with_y_axis_max(high)
                    .with_y_tick_format(TickFormat::Sci)
            }
        }
    }

    /// The corner that the curves leave free: of scores, the lower right unless they end there.
    fn legend(&self, rows: &[EpochRow]) -> LegendPosition {
        let last = |curve: &Curve| rows.last().map_or(0.0, |row| curve.2(row));
        match self.kind {
            Kind::Score if self.curves.iter().any(|curve| last(curve) < 0.4) => {
                LegendPosition::InsideTopRight
            }
            Kind::Score => LegendPosition::InsideBottomRight,
            Kind::Loss => LegendPosition::InsideTopRight,
            Kind::Rate => LegendPosition::InsideBottomLeft,
        }
    }

    fn curve(&self, rows: &[EpochRow], (name, colour, value): Curve) -> Vec<Plot> {
        let points = rows.iter().map(|row| (row.epoch as f64, value(row))).filter(|(_, y)| self.admits(*y));
        let points: Vec<(f64, f64)> = points.collect();
        let line = LinePlot::new()
            .with_data(points.clone())
            .with_color(colour)
            .with_stroke_width(2.0)
            .with_legend(name);
        let mut plots = vec![Plot::Line(line)];
        if points.len() <= MARKED_EPOCHS {
            plots.push(Plot::Scatter(ScatterPlot::new().with_data(points).with_color(colour).with_size(3.0)));
        }
        plots
    }
}

fn mark_best(row: &EpochRow, value: f64) -> Plot {
    let shown = if value < 1e-2 { format!("{value:e}") } else { format!("{value:.3}") };
    let legend = format!("best epoch {}: {shown}", row.epoch);
    let point = ScatterPlot::new().with_data(vec![(row.epoch as f64, value)]);
    Plot::Scatter(point.with_color(GREEN).with_size(6.0).with_legend(legend))
}

fn style(layout: Layout, panel: &Panel, rows: &[EpochRow]) -> Layout {
    let last = rows.iter().map(|row| row.epoch).max().unwrap_or(1);
    let first = rows.iter().map(|row| row.epoch).min().unwrap_or(1);
    // Room for the marks at both ends; a single epoch still needs an axis with some length.
    let room = (0.03 * (last - first) as f64).max(if first == last { 1.0 } else { 0.0 });
    let (low, high) = (first as f64 - room, last as f64 + room);
    layout
        .with_title(panel.title)
        .with_x_label("Epoch")
        .with_y_label(panel.axis)
        .with_x_axis_min(low)
        .with_x_axis_max(high)
        .with_x_tick_step(tick_step(high - low))
        .with_x_tick_format(TickFormat::Integer)
        .with_title_size(18)
        .with_label_size(16)
        .with_tick_size(14)
        .with_body_size(14)
}

/// 1, 2 or 5 times a power of ten, for at most eight ticks.
fn tick_step(span: f64) -> f64 {
    let rough = (span / 8.0).max(1.0);
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&step| step >= rough).unwrap_or(rough)
}

/// Draws F1, precision and recall over the threshold, and precision over recall. Rows are threshold, precision, recall
/// and F1.
///
/// # Errors
/// A user error where the file cannot be written.
pub fn write_threshold_plots(path: &Path, title: &str, rows: &[[f64; 4]], best: f64) -> Result<()> {
    let line = |x: usize, y: usize, colour: &str, name: &str| {
        let data: Vec<(f64, f64)> = rows.iter().map(|row| (row[x], row[y])).collect();
        Plot::Line(
            LinePlot::new().with_data(data).with_color(colour).with_stroke_width(2.0).with_legend(name),
        )
    };
    let at_best: Vec<&[f64; 4]> = rows.iter().filter(|row| row[0] == best).collect();
    let mark = |x: usize, y: usize| {
        let data: Vec<(f64, f64)> = at_best.iter().map(|row| (row[x], row[y])).collect();
        let legend = format!("best: threshold {best}");
        Plot::Scatter(ScatterPlot::new().with_data(data).with_color(GREEN).with_size(6.0).with_legend(legend))
    };
    let over_threshold = vec![
        line(0, 3, VERMILION, "F1"),
        line(0, 1, BLUE, "precision"),
        line(0, 2, GREY, "recall"),
        mark(0, 3),
    ];
    let over_recall = vec![line(2, 1, BLUE, "precision over recall"), mark(2, 1)];
    let layout = |plots: &[Plot], title: &str, x: &str, y: &str| {
        Layout::auto_from_plots(plots)
            .with_title(title)
            .with_x_label(x)
            .with_y_label(y)
            .with_x_axis_min(0.0)
            .with_x_axis_max(1.0)
            .with_y_axis_min(0.0)
            .with_y_axis_max(1.0)
            .with_legend_position(LegendPosition::OutsideBottomCenter)
            .with_legend_box(false)
    };
    let layouts = vec![
        layout(&over_threshold, "Scores by threshold", "Threshold", "Score"),
        layout(&over_recall, "Precision and recall", "Recall", "Precision"),
    ];
    let scene = Figure::new(1, 2)
        .with_title(title)
        .with_title_size(18)
        .with_cell_size(480.0, 420.0)
        .with_spacing(20.0)
        .with_plots(vec![over_threshold, over_recall])
        .with_layouts(layouts)
        .with_keep_panel_legends()
        .render();
    let png = PngBackend::new().with_scale(2.0).render_scene(&scene).map_err(Error::failure)?;
    files::write_atomic(path, &png)
}

/// Writes the rows of [`write_threshold_plots`] as CSV.
///
/// # Errors
/// A user error where the file cannot be written.
pub fn write_threshold_table(path: &Path, rows: &[[f64; 4]]) -> Result<()> {
    let line = |row: &[f64; 4]| row.map(|value| value.to_string()).join(",") + "\n";
    let text = String::from("threshold,precision,recall,f1\n") + &rows.iter().map(line).collect::<String>();
    files::write_atomic(path, text.as_bytes())
}
