//! `report.html` of a directory of experiments: their results side by side.

use std::collections::BTreeMap;
use std::path::Path;

use super::members::recorded_dir;
use super::summary::{SummaryRow, best_row, is_stale};
use crate::error::Result;
use crate::report::html::{Best, Cell, Html, Page, charts, figure, paragraph, table};
use crate::report::metrics::{EpochRow, read_metrics};
use crate::report::progress::duration;
use crate::report::svg::{Chart, Series, chart};
use crate::report::{RunRecord, experiment_page};

/// Writes the page from the rows of the summary and what the experiments' directories hold.
///
/// # Errors
/// A user error where a record cannot be read, or the page not be written.
pub fn write_page(output_dir: &Path, rows: &[SummaryRow]) -> Result<()> {
    let dir = |row: &SummaryRow| output_dir.join(&row.experiment_name);
    let mut histories = Vec::new();
    let mut records = Vec::new();
    for row in rows {
        let metrics = dir(row).join("metrics.csv");
        histories.push(if metrics.exists() { read_metrics(&metrics)? } else { Vec::new() });
        // Of an experiment that failed early there is none, or none that can be read.
        records.extend(RunRecord::read(&recorded_dir(&dir(row)).join("config.json")).ok());
    }
    let finished = rows.iter().filter(|row| row.status == "finished").count();
    let best = best_row(rows).map(|at| &rows[at]);
    let subtitle = match best {
        Some(best) => {
            format!("{finished} of {} experiments finished; highest F1: {}", rows.len(), best.experiment_name)
        }
        None => format!("{finished} of {} experiments finished", rows.len()),
    };
    Page::new("Experiments", subtitle)
        .section("Results", results(output_dir, rows))
        .section("Curves", curves(rows, &histories))
        .section("What differs", differences(&records))
        .section(
            "The best one's predictions",
            best.map_or_else(Html::default, |best| picture(&dir(best), best)),
        )
        .write(&output_dir.join(experiment_page::PAGE))
}

fn results(output_dir: &Path, rows: &[SummaryRow]) -> Html {
    if rows.is_empty() {
        return paragraph("No experiment has left anything yet.");
    }
    let columns = [
        ("experiment", Best::None),
        ("description", Best::None),
        ("status", Best::None),
        ("F1", Best::Highest),
        ("IoU", Best::Highest),
        ("precision", Best::Highest),
        ("recall", Best::Highest),
        ("validation loss", Best::Lowest),
        ("best epoch", Best::None),
        ("epochs", Best::None),
        ("time", Best::None),
        ("patches/s", Best::None),
    ];
    let cells = |row: &SummaryRow| {
        let page = format!("{}/{}", row.experiment_name, experiment_page::PAGE);
        let name = match output_dir.join(&page).exists() {
            true => Cell::Link(row.experiment_name.clone(), page),
            false => Cell::Text(row.experiment_name.clone()),
        };
        // What is stale is shown, and not compared.
        let score = |value: Option<f64>, deviation: Option<f64>| match (
            Cell::mean(value, deviation),
            is_stale(row),
        ) {
            (Cell::Number(text, _), true) => Cell::Text(text),
            (cell, _) => cell,
        };
        vec![
            name,
            Cell::Text(row.description.clone()),
            Cell::Text(match row.reason.is_empty() {
                true => row.status.clone(),
                false => format!("{} ({})", row.status, row.reason),
            }),
            score(row.val_f1, row.val_f1_sd),
            score(row.val_iou, row.val_iou_sd),
            score(row.val_precision, row.val_precision_sd),
            score(row.val_recall, row.val_recall_sd),
            score(row.val_loss, row.val_loss_sd),
            row.best_epoch.map_or(Cell::Empty, Cell::count),
            Cell::count(row.epochs_trained),
            Cell::Number(duration(row.seconds), row.seconds),
            Cell::decimals(Some(row.patches_per_second), 1),
        ]
    };
    let what = "Scores are means over the validation images, at threshold 0.5, of the epoch with the lowest validation \
                loss. A click on a head sorts.";
    [table(&columns, &rows.iter().map(cells).collect::<Vec<_>>()), paragraph(what)].into_iter().collect()
}

/// The experiments' curves over each other.
fn curves(rows: &[SummaryRow], histories: &[Vec<EpochRow>]) -> Html {
    if histories.iter().all(Vec::is_empty) {
        return Html::default();
    }
    let panel = |title: &str, range, log, value: fn(&EpochRow) -> f64| {
        let series = rows.iter().zip(histories).enumerate().map(|(at, (row, history))| Series {
            name: row.experiment_name.clone(),
            colour: at,
            points: history.iter().map(|epoch| (epoch.epoch as f64, value(epoch))).collect(),
        });
        chart(&Chart {
            title: title.into(),
            x: "epoch".into(),
            series: series.collect(),
            range,
            log,
            mark: None,
        })
    };
    charts([
        panel("F1", Some((0.0, 1.0)), false, |row| row.val_f1),
        panel("IoU", Some((0.0, 1.0)), false, |row| row.val_iou),
        panel("Validation loss", None, false, |row| row.val_loss),
        panel("Training loss", None, false, |row| row.train_loss),
        panel("Learning rate", None, true, |row| row.learning_rate),
    ])
}

/// The settings in which the experiments are not all alike.
fn differences(records: &[RunRecord]) -> Html {
    let values: Vec<BTreeMap<String, String>> = records
        .iter()
        .map(|record| record.experiment().values().into_iter().map(|(k, v)| (k, v.to_string())).collect())
        .collect();
    let Some(first) = records.first() else { return Html::default() };
    let names = first.experiment().values().into_iter().map(|(name, _)| name);
    let differing: Vec<String> = names
        .filter(|name| name != "description" && values.iter().any(|v| v.get(name) != values[0].get(name)))
        .collect();
    if differing.is_empty() {
        return Html::default();
    }
    let names = records.iter().map(|record| record.experiment_name.as_str());
    let heads: Vec<(&str, Best)> =
        std::iter::once("setting").chain(names).map(|head| (head, Best::None)).collect();
    let cell =
        |value: Option<&String>| value.map_or(Cell::Empty, |text| Cell::Code(text.trim_matches('"').into()));
    let row = |key: &String| {
        let cells = values.iter().map(|values| cell(values.get(key)));
        std::iter::once(Cell::Code(key.clone())).chain(cells).collect()
    };
    table(&heads, &differing.iter().map(row).collect::<Vec<Vec<Cell>>>())
}

fn picture(dir: &Path, best: &SummaryRow) -> Html {
    let caption =
        format!("Validation images of {}, with the weights of its best epoch", best.experiment_name);
    std::fs::read(dir.join("predictions.png")).map_or_else(|_| Html::default(), |png| figure(&png, &caption))
}
