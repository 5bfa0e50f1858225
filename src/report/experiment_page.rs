//! `report.html` of an experiment: all that its directory tells, in one file to look at or to send.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::report::config_json::{BestEpoch, Member, Members, RunRecord, Scores};
use crate::report::html::{
    Best, Cell, Html, Page, charts, details, figure, heading, names, paragraph, table, tiles,
};
use crate::report::metrics::{EpochRow, best_epoch, read_metrics};
use crate::report::progress::duration;
use crate::report::svg::{Chart, Series, chart};

/// The page's name in the experiment's directory.
pub const PAGE: &str = "report.html";
/// Overlays shown, at most: a page is read, and sent.
const MOST_OVERLAYS: usize = 6;

/// Writes the page of a directory from its `config.json`, `metrics.csv` and pictures, as far as they are there.
///
/// # Errors
/// A user error where one of them cannot be read, or the page not be written.
pub fn rebuild(dir: &Path) -> Result<()> {
    let metrics = dir.join("metrics.csv");
    let rows = if metrics.exists() { read_metrics(&metrics)? } else { Vec::new() };
    write(dir, &RunRecord::read(&dir.join("config.json"))?, &rows)
}

/// Writes the page.
///
/// # Errors
/// A user error where it cannot be written.
pub fn write(dir: &Path, record: &RunRecord, rows: &[EpochRow]) -> Result<()> {
    let state = match (&record.best, rows.len()) {
        (Some(_), _) => String::new(),
        (None, 0) => " (no epoch is over yet)".into(),
        (None, epochs) => format!(" (after {epochs} of at most {} epochs)", record.training.num_epochs),
    };
    Page::new(&record.experiment_name, format!("{}{state}", record.description))
        .section("Result", result(record, rows))
        .section("Trainings", trainings(record))
        .section("Curves", curves(rows))
        .section("Predictions", pictures(dir))
        .section("Epochs", epochs(rows))
        .section("Settings", settings(record))
        .section("Samples", samples(record))
        .section("Made with", made_with(record))
        .write(&dir.join(PAGE))
}

fn result(record: &RunRecord, rows: &[EpochRow]) -> Html {
    let Some(best) = best_epoch(rows) else { return paragraph("No epoch has been validated yet.") };
    let members = record.members.as_ref();
    let scores = members.map_or_else(|| Scores::of(&BestEpoch::from(best)), |members| members.mean);
    let spread = members.and_then(Members::spread);
    let number = |of: fn(&Scores) -> f64| match &spread {
        Some(spread) => format!("{:.4} ± {:.4}", of(&scores), of(spread)),
        None => format!("{:.4}", of(&scores)),
    };
    let seconds: f64 = rows.iter().map(|row| row.seconds).sum();
    let mut figures = vec![
        ("F1", number(|s| s.val_f1)),
        ("IoU", number(|s| s.val_iou)),
        ("precision", number(|s| s.val_precision)),
        ("recall", number(|s| s.val_recall)),
        ("validation loss", number(|s| s.val_loss)),
        ("best epoch", format!("{} of {}", best.epoch, rows.len())),
        ("training time", duration(seconds)),
    ];
    figures.extend(record.threshold.map(|threshold| ("threshold of the highest F1", format!("{threshold}"))));
    let what = "Scores are means over the validation images in full, at threshold 0.5, of the epoch with the lowest \
                validation loss: its weights are the ones that are kept.";
    let of_members = members.map(|members| {
        let count = match members.all.len() {
            1 => "one training".into(),
            count => format!("{count} trainings, mean ± standard deviation"),
        };
        paragraph(format!(
            "Scores are of {count}; all else on this page, and the weights in this directory, are of {}, which has the \
             highest F1.",
            members.best
        ))
    });
    [tiles(&figures), paragraph(what)].into_iter().chain(of_members).collect()
}

/// The trainings of an experiment with folds or several seeds, each with a link to its page.
fn trainings(record: &RunRecord) -> Html {
    let Some(members) = &record.members else { return Html::default() };
    let columns = [
        ("training", Best::None),
        ("F1", Best::Highest),
        ("IoU", Best::Highest),
        ("precision", Best::Highest),
        ("recall", Best::Highest),
        ("validation loss", Best::Lowest),
        ("best epoch", Best::None),
    ];
    let cells = |member: &Member| {
        let best = &member.best;
        let scores = [best.val_f1, best.val_iou, best.val_precision, best.val_recall, best.val_loss];
        let link = Cell::Link(member.name.clone(), format!("{}/{PAGE}", member.name));
        let scores = scores.map(|score| Cell::decimals(Some(score), 4));
        std::iter::once(link).chain(scores).chain([Cell::count(best.epoch)]).collect::<Vec<_>>()
    };
    table(&columns, &members.all.iter().map(cells).collect::<Vec<_>>())
}

/// A name for the legend, a colour, and the value of an epoch.
type Curve = (&'static str, usize, fn(&EpochRow) -> f64);

/// The charts of a training.
fn curves(rows: &[EpochRow]) -> Html {
    if rows.is_empty() {
        return Html::default();
    }
    let mark = best_epoch(rows).map(|row| (row.epoch as f64, format!("best epoch, {}", row.epoch)));
    let panel = |title: &str, range, log, curves: &[Curve]| {
        let series = curves.iter().map(|(name, colour, value)| Series {
            name: name.to_string(),
            colour: *colour,
            points: rows.iter().map(|row| (row.epoch as f64, value(row))).collect(),
        });
        chart(&Chart {
            title: title.into(),
            x: "epoch".into(),
            series: series.collect(),
            range,
            log,
            mark: mark.clone(),
        })
    };
    let score = Some((0.0, 1.0));
    charts([
        panel("Loss", None, false, &[("training", 1, |r| r.train_loss), ("validation", 0, |r| r.val_loss)]),
        panel("Overlap with the truth", score, false, &[("F1", 0, |r| r.val_f1), ("IoU", 2, |r| r.val_iou)]),
        panel(
            "Precision and recall",
            score,
            false,
            &[("precision", 3, |r| r.val_precision), ("recall", 4, |r| r.val_recall)],
        ),
        panel("Learning rate", None, true, &[("learning rate", 6, |r| r.learning_rate)]),
    ])
}

fn pictures(dir: &Path) -> Html {
    let picture = |path: &Path, caption: &str| std::fs::read(path).ok().map(|png| figure(&png, caption));
    let last = picture(&dir.join("predictions.png"), "Validation images with the weights of the best epoch");
    let overlays = overlays(dir);
    let first_shown = overlays.len().saturating_sub(MOST_OVERLAYS);
    let earlier: Html = overlays[first_shown..]
        .iter()
        .filter_map(|(epoch, path)| picture(path, &format!("Validation images after epoch {epoch}")))
        .collect();
    let earlier =
        if earlier.as_str().is_empty() { Html::default() } else { details("While it trained", &earlier) };
    last.into_iter().chain([earlier]).collect()
}

/// Where the picture of an epoch is.
pub fn overlay_path(dir: &Path, epoch: usize) -> PathBuf {
    dir.join("overlays").join(format!("epoch_{epoch:04}.png"))
}

/// The pictures of epochs that are there, by epoch.
pub fn overlays(dir: &Path) -> Vec<(usize, PathBuf)> {
    let entries = std::fs::read_dir(dir.join("overlays")).into_iter().flatten().flatten();
    let epoch =
        |path: &Path| path.file_name()?.to_str()?.strip_prefix("epoch_")?.strip_suffix(".png")?.parse().ok();
    let mut found: Vec<(usize, PathBuf)> =
        entries.filter_map(|entry| Some((epoch(&entry.path())?, entry.path()))).collect();
    found.sort();
    found
}

fn epochs(rows: &[EpochRow]) -> Html {
    if rows.is_empty() {
        return Html::default();
    }
    let columns = [
        ("epoch", Best::None),
        ("training loss", Best::Lowest),
        ("validation loss", Best::Lowest),
        ("F1", Best::Highest),
        ("IoU", Best::Highest),
        ("precision", Best::Highest),
        ("recall", Best::Highest),
        ("learning rate", Best::None),
        ("patches/s", Best::None),
        ("time", Best::None),
    ];
    let cells = |row: &EpochRow| {
        let score = |value: f64| Cell::decimals(Some(value), 4);
        vec![
            Cell::count(row.epoch),
            score(row.train_loss),
            score(row.val_loss),
            score(row.val_f1),
            score(row.val_iou),
            score(row.val_precision),
            score(row.val_recall),
            Cell::Number(format!("{:e}", row.learning_rate), row.learning_rate),
            Cell::decimals(Some(row.patches_per_second), 1),
            Cell::Number(duration(row.seconds), row.seconds),
        ]
    };
    details("Every epoch", &table(&columns, &rows.iter().map(cells).collect::<Vec<_>>()))
}

fn settings(record: &RunRecord) -> Html {
    let row = |(name, value): (String, serde_json::Value)| {
        let from = record.settings_from.get(&name).map_or("default", String::as_str);
        let shown = value.as_str().map_or_else(|| value.to_string(), String::from);
        vec![Cell::Code(name.clone()), Cell::Code(shown), Cell::Text(from.into())]
    };
    let rows: Vec<Vec<Cell>> = record.experiment().values().into_iter().map(row).collect();
    table(&[("setting", Best::None), ("value", Best::None), ("from", Best::None)], &rows)
}

fn samples(record: &RunRecord) -> Html {
    let list = |what: &str, list: &[String]| -> Html {
        if list.is_empty() {
            return Html::default();
        }
        [heading(format!("{} {what}", list.len())), names(list)].into_iter().collect()
    };
    [list("train", &record.train_sample_list), list("validate", &record.val_sample_list)]
        .into_iter()
        .collect()
}

fn made_with(record: &RunRecord) -> Html {
    let mut facts = vec![
        ("program", format!("rosette {}", record.version)),
        ("device", record.device.clone()),
        ("parameters", record.total_parameters.to_string()),
        ("input", record.approach.clone()),
    ];
    let mib = |bytes: u64| format!("{:.1} MiB (planned)", bytes as f64 / f64::from(1 << 20));
    facts.extend(record.device_memory_bytes.map(|bytes| ("device memory", mib(bytes))));
    if let Some([train, val]) = &record.data_sha256 {
        facts.push(("training samples, SHA-256", train.clone()));
        facts.push(("validation samples, SHA-256", val.clone()));
    }
    facts.extend(record.weights_sha256.clone().map(|sha256| ("best_model.pth, SHA-256", sha256)));
    let rows: Vec<Vec<Cell>> =
        facts.into_iter().map(|(what, value)| vec![Cell::Text(what.into()), Cell::Code(value)]).collect();
    table(&[("what", Best::None), ("", Best::None)], &rows)
}
