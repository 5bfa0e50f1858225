//! The pictures for people. What is tested is what can be counted: sizes, colours in their places, awkward inputs.
//! With `KEEP_PICTURES=DIR` the pictures are left in a directory, to be looked at.

use std::path::{Path, PathBuf};

use rosette::report::EpochRow;
use rosette::report::overlay::{Prediction, write_predictions};
use rosette::report::plots::write_training_plots;

struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<[u8; 3]>,
}

impl Picture {
    fn read(path: &Path) -> Self {
        let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        let rgb = bytes.chunks_exact(info.color_type.samples()).map(|p| [p[0], p[1], p[2]]).collect();
        Self { width: info.width as usize, height: info.height as usize, rgb }
    }

    /// A part of it.
    fn crop(&self, x: usize, y: usize, width: usize, height: usize) -> Self {
        let rows = self.rgb.chunks(self.width).skip(y).take(height);
        Self { width, height, rgb: rows.flat_map(|row| row[x..x + width].to_vec()).collect() }
    }

    /// Pixels within a distance of 12 per channel from a colour, in a range of columns.
    fn count(&self, colour: [u8; 3], columns: std::ops::Range<usize>) -> usize {
        let is_near = |pixel: &[u8; 3]| pixel.iter().zip(colour).all(|(a, b)| a.abs_diff(b) <= 12);
        self.rgb
            .chunks(self.width)
            .map(|row| row[columns.clone()].iter().filter(|p| is_near(p)).count())
            .sum()
    }
}

/// A place for a picture that outlives the test where someone wants to look at it.
struct Place {
    dir: tempfile::TempDir,
    keep: Option<PathBuf>,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), keep: std::env::var_os("KEEP_PICTURES").map(PathBuf::from) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.keep.as_deref().unwrap_or(self.dir.path()).join(name)
    }
}

/// A training that improves until `best` and overfits from there on.
fn rows(epochs: usize, best: usize) -> Vec<EpochRow> {
    let row = |epoch: usize| {
        let t = epoch as f64;
        let noise = (t * 12.9898).sin() * 0.02;
        let over = epoch.saturating_sub(best) as f64 * 0.004 + epoch.abs_diff(best) as f64 * 0.001;
        let quality = 0.62 * (1.0 - (-t / 12.0).exp());
        EpochRow {
            epoch,
            train_loss: 0.12 + 0.5 * (-t / 15.0).exp(),
            val_loss: 0.25
                + 0.45 * (-t / 12.0).exp()
                + over
                + if epoch == best { -0.05 } else { noise.abs() },
            val_iou: (quality * 0.8 + noise).max(0.01),
            val_f1: (quality + noise).max(0.02),
            val_precision: quality,
            val_recall: quality * 0.8,
            learning_rate: 1e-3,
            skipped_steps: 0,
            seconds: 10.0,
            patches_per_second: 20.0,
        }
    };
    (1..=epochs).map(row).collect()
}

const BLUE: [u8; 3] = [0x00, 0x72, 0xb2];
const VERMILION: [u8; 3] = [0xd5, 0x5e, 0x00];
const GREEN: [u8; 3] = [0x00, 0x9e, 0x73];

const SKY: [u8; 3] = [0x56, 0xb4, 0xe9];
const PURPLE: [u8; 3] = [0xcc, 0x79, 0xa7];
const ORANGE: [u8; 3] = [0xe6, 0x9f, 0x00];

#[test]
fn the_four_panels_show_their_curves_and_the_best_epoch() {
    let place = Place::new();
    let path = place.file("training_plots.png");
    let mut rows = rows(100, 61);
    rows.iter_mut().for_each(|row| row.learning_rate = 1e-3 * 0.5f64.powi(row.epoch as i32 / 30));
    write_training_plots(&path, "baseline_full", &rows).unwrap();
    let picture = Picture::read(&path);
    let (half, top) = (picture.width / 2, picture.height / 2);
    let panels = [(0, 0), (half, 0), (0, top), (half, top)].map(|(x, y)| picture.crop(x, y, half, top));
    for (panel, colours) in
        panels.iter().zip([vec![BLUE, VERMILION], vec![VERMILION, SKY], vec![PURPLE, ORANGE], vec![]])
    {
        for colour in colours {
            assert!(panel.count(colour, 0..half) > 300, "the curve of {colour:?}");
        }
        assert!(panel.count(GREEN, 0..half) > 50, "the mark of the best epoch");
    }
    assert_eq!(panels[1].count(BLUE, 0..half), 0, "only the loss has a training curve");
}

#[test]
fn few_epochs_and_odd_values_are_drawn() {
    let place = Place::new();
    for epochs in [1, 2, 7] {
        let path = place.file(&format!("training_plots_{epochs}.png"));
        write_training_plots(&path, "short", &rows(epochs, 1)).unwrap();
        let picture = Picture::read(&path);
        assert!(picture.count(GREEN, 0..picture.width) > 50, "{epochs} epochs");
    }
    let mut broken = rows(3, 2);
    broken.iter_mut().for_each(|row| (row.val_loss, row.val_iou) = (f64::NAN, f64::INFINITY));
    let path = place.file("training_plots_nan.png");
    write_training_plots(&path, "not a number", &broken).unwrap();
    let picture = Picture::read(&path);
    assert!(picture.count(BLUE, 0..picture.width) > 50, "the training loss is finite");
    let none = place.file("training_plots_none.png");
    write_training_plots(&none, "no epochs", &[]).unwrap();
    assert!(!none.exists());
}

/// Planes of a tissue of square cells with two rosettes, of which one is found and shifted, and one is missed.
struct Tissue {
    height: usize,
    width: usize,
    boundary: Vec<u8>,
    cells: Vec<u8>,
    intensity: Vec<f32>,
    target: Vec<u8>,
    probability: Vec<f32>,
}

impl Tissue {
    fn new(height: usize, width: usize) -> Self {
        let side = (height.min(width) / 24).max(4);
        let radius = height.min(width) as f64 / 7.0;
        let bump = |r: usize, c: usize, at: (f64, f64)| {
            let distance = (r as f64 - at.0 * height as f64).hypot(c as f64 - at.1 * width as f64);
            1.0 / (1.0 + ((distance - radius) / (radius / 8.0)).exp())
        };
        let plane = |value: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
            (0..height * width).map(|i| value(i / width, i % width)).collect()
        };
        let bits = |values: Vec<f64>| values.into_iter().map(|v| u8::from(v > 0.5)).collect::<Vec<u8>>();
        let floats = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<f32>>();
        let edge = |r: usize, c: usize| f64::from(u8::from((r + c / 5) % side < 2 || c % side < 2));
        Self {
            height,
            width,
            boundary: bits(plane(&edge)),
            cells: bits(plane(&|r, c| f64::from(u8::from((r / side % 7, c / side % 5) != (0, 0))))),
            intensity: floats(plane(&|r, c| 0.3 + 0.5 * edge(r, c) * (c as f64 / width as f64))),
            target: bits(plane(&|r, c| bump(r, c, (0.3, 0.3)) + bump(r, c, (0.7, 0.75)))),
            probability: floats(plane(&|r, c| bump(r, c, (0.34, 0.34)) + 0.3 * bump(r, c, (0.7, 0.75)))),
        }
    }

    fn prediction<'a>(&'a self, name: &'a str, with_intensity: bool) -> Prediction<'a> {
        Prediction {
            name,
            height: self.height,
            width: self.width,
            boundary: &self.boundary,
            cells: &self.cells,
            intensity: with_intensity.then_some(&self.intensity),
            target: &self.target,
            probability: &self.probability,
        }
    }
}

#[test]
fn predictions_show_hits_false_alarms_and_misses() {
    let place = Place::new();
    let path = place.file("predictions.png");
    let (square, wide, small) = (Tissue::new(900, 900), Tissue::new(700, 1100), Tissue::new(96, 96));
    let images =
        [square.prediction("T1_1", false), wide.prediction("T2_2", true), small.prediction("small", false)];
    write_predictions(&path, &images, 4).unwrap();
    let picture = Picture::read(&path);
    // The solid edges of the last panel: found, false alarm, missed.
    let last = picture.width - 450..picture.width;
    for colour in [[0, 158, 115], [213, 94, 0], [86, 180, 233]] {
        assert!(picture.count(colour, last.clone()) > 600, "{colour:?}");
        assert_eq!(picture.count(colour, 0..440), 0, "none of it in the input, {colour:?}");
    }
    let panel = 420;
    let captions = 3 * 34 + 44 + 52;
    assert_eq!(picture.height, captions + panel + panel * 700 / 1100 + panel);
}

#[test]
fn only_so_many_rows_are_drawn_and_extreme_shapes_are_bounded() {
    let place = Place::new();
    let path = place.file("predictions_narrow.png");
    let narrow = Tissue::new(3000, 16);
    let images = [narrow.prediction("narrow", false), narrow.prediction("again", false)];
    write_predictions(&path, &images, 1).unwrap();
    assert_eq!(Picture::read(&path).height, 44 + 34 + 2 * 420 + 52);
    write_predictions(&path, &[], 4).unwrap();
    assert_eq!(Picture::read(&path).height, 44 + 52);
}
