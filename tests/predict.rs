//! Trained models at work: against PyTorch's predictions, and what the commands write and say.

mod common;
#[path = "common/workshop.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod workshop;

use std::path::{Path, PathBuf};
use std::process::Command;

use rosette::config::{Precision, Skip};
use rosette::data::channels::Prepared;
use rosette::data::hdf5::{File, Plane, encode};
use rosette::data::sample::Sample;
use rosette::inference::{Engine, EngineSettings, Image, Model};
use rosette::interop::{Values, read_safetensors};
use rosette::report::RunRecord;
use workshop::Workshop;

const SETTINGS: EngineSettings = EngineSettings {
    window_px: 48,
    overlap_px: 24,
    batch_size: 3,
    all_turns: false,
    winograd: false,
    precision: Precision::F32,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// The cells of tests/goldens/prediction_cases.py.
fn brick_labels(height: usize, width: usize) -> Vec<u32> {
    let cell = |at: usize| {
        let (y, x) = (at / width, at % width);
        let cell = 1 + (y / 9) * 40 + (x + 5 * ((y / 9) % 2)) / 11;
        if cell % 7 == 0 { 0 } else { cell as u32 }
    };
    (0..height * width).map(cell).collect()
}

fn bricks(height: usize, width: usize) -> Image {
    let sample = Sample {
        name: "bricks".into(),
        path: PathBuf::new(),
        height,
        width,
        labels: brick_labels(height, width),
        target: vec![0; height * width],
        intensity: None,
    };
    Image { planes: Prepared::new(sample), has_target: false, rosettes: None }
}

fn engine(skip: Skip, settings: EngineSettings) -> Option<Engine> {
    let gpu = common::device()?;
    let model = Model::open(&golden("net_weights.safetensors"), Some(skip)).expect("the golden");
    Some(
        Engine::new(gpu, &model.net, &model.tensors, settings, rosette::report::Mode::Quiet)
            .expect("a small network"),
    )
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn predictions_are_pytorchs_for_both_skips_and_five_awkward_sizes() {
    let goldens = read_safetensors(&golden("predictions.safetensors")).expect("the golden");
    assert_eq!(goldens.len(), 10);
    for winograd in [false, true] {
        for (skip, word) in [(Skip::Full, "full"), (Skip::Pooled, "pooled")] {
            let Some(engine) = engine(skip, EngineSettings { winograd, ..SETTINGS }) else { return };
            for golden in goldens.iter().filter(|golden| golden.name.starts_with(word)) {
                let (_, size) = golden.name.split_once('.').expect("skip.HxW");
                let (height, width) = size.split_once('x').expect("HxW");
                let (height, width) = (height.parse().expect("rows"), width.parse().expect("columns"));
                let mut windows = 0;
                let image = bricks(height, width);
                let found = engine.predict(&image, |count| windows += count).expect("it runs");
                assert_eq!(windows, engine.windows(height, width));
                let Values::F32(expected) = &golden.values else { panic!("floats") };
                let some: Vec<f32> = found.into_iter().step_by(3).collect();
                let apart = difference(&some, expected);
                println!("{} winograd {winograd}: {apart:e}", golden.name);
                assert!(apart < 1e-4, "{} is {apart} apart", golden.name);
            }
        }
    }
}

/// Half the bits of the activations, 2^-11 of each: a few thousandths of probability at most, and not nothing.
#[test]
fn predictions_in_f16_are_near_those_in_f32() {
    let has_f16 = common::device().is_some_and(|gpu| gpu.limits().f16);
    for (skip, word) in [(Skip::Full, "full"), (Skip::Pooled, "pooled")] {
        let half = EngineSettings { precision: Precision::F16, ..SETTINGS };
        let (true, Some(half), Some(single)) = (has_f16, engine(skip, half), engine(skip, SETTINGS)) else {
            return;
        };
        let image = bricks(64, 80);
        let (half, single) = (half.predict(&image, |_| ()).unwrap(), single.predict(&image, |_| ()).unwrap());
        let apart = difference(&half, &single);
        println!("{word}: f16 and f32 {apart:e}");
        assert!(apart > 0.0 && apart < 5e-3, "{word}: {apart}");
    }
}

/// Seams: in the interior a window sees what the whole image shows it, but for the rim that its depth reaches.
#[test]
fn windows_agree_with_the_whole_image_where_they_weigh() {
    let whole = EngineSettings { window_px: 256, overlap_px: 0, ..SETTINGS };
    let cut = EngineSettings { window_px: 160, overlap_px: 144, ..SETTINGS };
    let (Some(whole), Some(cut)) = (engine(Skip::Full, whole), engine(Skip::Full, cut)) else { return };
    let image = bricks(256, 256);
    let (whole, cut) = (whole.predict(&image, |_| ()).unwrap(), cut.predict(&image, |_| ()).unwrap());
    let interior = |all: &[f32]| -> Vec<f32> {
        (0..256 * 256)
            .filter(|at| [at / 256, at % 256].iter().all(|v| (80..176).contains(v)))
            .map(|at| all[at])
            .collect()
    };
    let apart = difference(&interior(&whole), &interior(&cut));
    println!("windows of 160 px against 256 px, interior: {apart}");
    assert!(apart < 0.05, "{apart}");
}

#[test]
fn averaging_all_turns_makes_the_prediction_turn_with_the_image() {
    let settings = EngineSettings { all_turns: true, ..SETTINGS };
    let Some(engine) = engine(Skip::Full, settings) else { return };
    let image = bricks(48, 48);
    let mut turned = image.clone();
    for plane in [&mut turned.planes.boundary, &mut turned.planes.cells] {
        let old = plane.clone();
        (0..48 * 48).for_each(|at| plane[at] = old[(at % 48) * 48 + (47 - at / 48)]);
    }
    let (plain, turned) = (engine.predict(&image, |_| ()).unwrap(), engine.predict(&turned, |_| ()).unwrap());
    let back: Vec<f32> = (0..48 * 48).map(|at| plain[(at % 48) * 48 + (47 - at / 48)]).collect();
    assert!(difference(&back, &turned) < 1e-5, "{}", difference(&back, &turned));
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn rosette(workshop: &Workshop, arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_rosette"))
        .args(arguments)
        .current_dir(workshop.path(""))
        .output()
        .expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

fn probabilities(path: &Path) -> Vec<f32> {
    let array = File::open(path).expect("HDF5").read("predictions").expect("the dataset");
    array.squeezed(2).expect("a plane").to_intensity().expect("floats")
}

#[test]
fn a_trained_model_predicts_is_evaluated_and_finds_its_threshold() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let trained =
        workshop.train(&["--no-timestamp", "--override", "num_epochs=3"]).output().expect("it runs");
    assert!(trained.status.success());
    let model = ["--model", "out", "--data-dir", "data"];
    let run = |command: &str, more: &[&str]| {
        let said = rosette(&workshop, &[&[command][..], &model, more].concat());
        assert_eq!(said.code, Some(0), "{}", said.err);
        said
    };
    let said = run("predict", &["--output-dir", "predicted"]);
    assert!(said.out.contains("3 images"), "{}", said.out);
    let one = probabilities(&workshop.path("predicted/predictions_A.h5"));
    assert_eq!(one.len(), 40 * 48);
    assert!(one.iter().all(|p| (0.0..=1.0).contains(p)));
    assert!(workshop.path("predicted/predictions_A.png").is_file());
    let table = std::fs::read_to_string(workshop.path("predicted/inference_metrics.csv")).expect("a table");
    assert!(table.starts_with(
        "sample,height,width,threshold,predicted_share,iou,f1,precision,recall,windows,seconds"
    ));
    assert_eq!(table.lines().count(), 4);

    // Two models that are the same are as good as one, and a label image as good as its sample.
    run("predict", &["--model", "out", "--output-dir", "twice", "--samples", "A", "--no-pictures"]);
    assert!(difference(&probabilities(&workshop.path("twice/predictions_A.h5")), &one) < 1e-6);
    assert!(!workshop.path("twice/predictions_A.png").exists());

    run("evaluate", &["--output-dir", "scored", "--surface", "--split-manifest", "split.json"]);
    let scores = std::fs::read_to_string(workshop.path("scored/evaluation.csv")).expect("a table");
    assert_eq!(
        scores.lines().map(|line| line.split(',').next().unwrap()).collect::<Vec<_>>(),
        ["sample", "C", "all"]
    );
    let page = std::fs::read_to_string(workshop.path("scored/evaluation.html")).expect("a page");
    assert!(page.contains("<td>C</td>") && page.contains("C: F1 "), "a row and a picture");
    assert_eq!(page.matches("src=\"data:image/png;base64,").count(), 1);
    assert_eq!(page.matches("<svg").count(), 2, "curves by threshold");
    let leads_out = ["src=\"http", "href=\"http", "url(", "@import"];
    assert!(!leads_out.iter().any(|word| page.contains(word)), "the page needs nothing else");

    // Without its small objects nothing is left to find; pixels count as before.
    run("evaluate", &["--output-dir", "large", "--min-object", "100000", "--split-manifest", "split.json"]);
    let large = std::fs::read_to_string(workshop.path("large/evaluation.csv")).expect("a table");
    let row =
        |text: &str| text.lines().nth(1).expect("a row").split(',').map(str::to_string).collect::<Vec<_>>();
    let (before, after) = (row(&scores), row(&large));
    assert_eq!(before[..6], after[..6]);
    assert_eq!(after[6..9], ["0", "0", "0"]);
    assert_ne!(before[6..9], after[6..9], "the sample has a rosette");

    let said = run("threshold", &["--split-manifest", "split.json"]);
    let record = RunRecord::read(&workshop.path("out/config.json")).expect("a record");
    let threshold = record.threshold.expect("the threshold is written");
    assert!(said.out.contains(&format!("threshold {threshold}: F1")), "{}", said.out);
    assert!(workshop.path("out/threshold_plots.png").is_file());
    assert_eq!(
        std::fs::read_to_string(workshop.path("out/threshold.csv")).expect("a table").lines().count(),
        100
    );
    run("predict", &["--output-dir", "after", "--samples", "A"]);
    let after = std::fs::read_to_string(workshop.path("after/inference_metrics.csv")).expect("a table");
    assert!(after.lines().nth(1).expect("a row").contains(&format!("A,40,48,{threshold},")), "{after}");
}

/// The labels as a PNG of 16 bits.
fn png_of(labels: &[u32], height: usize, width: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Sixteen);
    let data: Vec<u8> = labels.iter().flat_map(|label| (*label as u16).to_be_bytes()).collect();
    encoder.write_header().unwrap().write_image_data(&data).unwrap();
    bytes
}

fn tiff_of(labels: &[u32], height: usize, width: usize) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut encoder = tiff::encoder::TiffEncoder::new(&mut bytes).unwrap();
    encoder.write_image::<tiff::encoder::colortype::Gray32>(width as u32, height as u32, labels).unwrap();
    bytes.into_inner()
}

#[test]
fn label_images_of_both_kinds_predict_alike() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let labels = brick_labels(50, 61);
    workshop.write("a.png", png_of(&labels, 50, 61));
    workshop.write("b.tif", tiff_of(&labels, 50, 61));
    let weights = golden("net_weights.safetensors");
    let model = ["--model", weights.to_str().unwrap(), "--skip", "full", "--window", "48"];
    let said = rosette(
        &workshop,
        &[&["predict"], &model[..], &["--output-dir", "out", "--input", "a.png", "b.tif"]].concat(),
    );
    assert_eq!(said.code, Some(0), "{}", said.err);
    let (a, b) = (workshop.path("out/predictions_a.h5"), workshop.path("out/predictions_b.h5"));
    assert!(probabilities(&a) == probabilities(&b));
    let expected = engine(Skip::Full, EngineSettings { winograd: true, batch_size: 4, ..SETTINGS }).unwrap();
    let expected = expected.predict(&bricks(50, 61), |_| ()).unwrap();
    assert!(difference(&probabilities(&a), &expected) < 1e-6);
}

/// The next is read while one is worked on, and several are written beside.
#[test]
fn images_before_one_that_cannot_be_read_are_written_and_in_the_table() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let whole = png_of(&brick_labels(50, 61), 50, 61);
    for name in ["a.png", "b.png", "c.png", "e.png", "f.png"] {
        workshop.write(name, &whole);
    }
    workshop.write("d.png", &whole[..whole.len() / 2]);
    let weights = golden("net_weights.safetensors");
    let model = ["--model", weights.to_str().unwrap(), "--skip", "full", "--window", "48"];
    let inputs = ["--output-dir", "out", "--input", "a.png", "b.png", "c.png", "d.png", "e.png", "f.png"];
    let said = rosette(&workshop, &[&["predict"], &model[..], &inputs].concat());
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("d.png"), "{}", said.err);
    let table = std::fs::read_to_string(workshop.path("out/inference_metrics.csv")).expect("a table");
    let names: Vec<&str> = table.lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(names, ["sample", "a", "b", "c"]);
    let all = |name: &str| probabilities(&workshop.path(&format!("out/predictions_{name}.h5")));
    assert!(all("a") == all("b") && all("a") == all("c"));
    assert!(!workshop.path("out/predictions_e.h5").exists());
}

#[test]
fn mistakes_are_told() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    assert!(workshop.train(&["--no-timestamp"]).output().expect("it runs").status.success());
    workshop.write("labels.png", png_of(&brick_labels(20, 20), 20, 20));
    workshop.write("text.tif", "no image");
    workshop.write("notes.txt", "words");
    std::fs::copy(workshop.path("out/best_model.pth"), workshop.path("bare.pth")).expect("a file");
    let cases: &[(&[&str], &str)] = &[
        (&["--model", "nowhere"], "nowhere: expected a training's directory"),
        (&["--model", "bare.pth"], "--skip full or --skip pooled, for weights without a config.json"),
        (&["--model", "out", "--skip", "pooled"], "--skip as the model has it, Full"),
        (&["--model", "out", "--window", "50"], "--window: expected a multiple of 16, found 50"),
        (&["--model", "out", "--overlap", "32"], "--overlap: expected less than the window's 32 px"),
        (&["--model", "out", "--overlap", "-1"], "--overlap: expected a share of the window"),
        (&["--model", "out", "--threshold", "2"], "--threshold: expected a probability"),
        (&["--model", "out", "--samples", "Z"], "processed_data_Z.h5: expected the file of sample 'Z'"),
    ];
    for (arguments, expected) in cases {
        let usual = ["predict", "--data-dir", "data", "--output-dir", "predicted"];
        let said = rosette(&workshop, &[&usual[..], arguments].concat());
        assert_eq!(said.code, Some(2), "{arguments:?}: {}", said.err);
        assert!(said.err.contains(expected), "{arguments:?}: {}", said.err);
    }
    for (file, expected) in [
        ("text.tif", "text.tif: expected a TIFF of cell labels"),
        ("notes.txt", "notes.txt: expected a sample (.h5) or an image of cell labels"),
    ] {
        let said =
            rosette(&workshop, &["predict", "--model", "out", "--output-dir", "predicted", "--input", file]);
        assert_eq!(said.code, Some(2), "{file}: {}", said.err);
        assert!(said.err.contains(expected), "{file}: {}", said.err);
    }
    let said =
        rosette(&workshop, &["evaluate", "--model", "out", "--output-dir", "x", "--input", "labels.png"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("labels: expected an image with its target"), "{}", said.err);
    told_before_the_first_image(&workshop);
    let said =
        rosette(&workshop, &["threshold", "--model", "bare.pth", "--skip", "full", "--data-dir", "data"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("one model with its config.json"), "{}", said.err);
    assert!(!workshop.path("predicted").exists(), "something was written");
}

/// What is wrong with the last of several inputs is said before the first is worked on.
fn told_before_the_first_image(workshop: &Workshop) {
    workshop.write("other/labels.png", png_of(&brick_labels(20, 20), 20, 20));
    let cases: &[(&[&str], &str)] = &[
        (&["--data-dir", "data", "--samples", "A", "Z"], "expected the file of sample 'Z'"),
        (
            &["--data-dir", "data", "--samples", "A", "B", "A"],
            "A: expected a name of its own for every image",
        ),
        (&["--input", "labels.png", "nothing.png"], "nothing.png: expected a file to read"),
        (&["--input", "labels.png", "other/labels.png"], "labels: expected a name of its own"),
        (&["--input", "labels.png", "--samples", "A"], "cannot be used with"),
    ];
    for command in ["predict", "evaluate"] {
        for (arguments, expected) in cases {
            let usual = [command, "--model", "out", "--output-dir", "predicted"];
            let said = rosette(workshop, &[&usual[..], arguments].concat());
            assert_eq!(said.code, Some(2), "{command} {arguments:?}: {}", said.err);
            assert!(said.err.contains(expected), "{command} {arguments:?}: {}", said.err);
            assert!(!said.err.contains("[1/"), "{command} {arguments:?} began: {}", said.err);
        }
    }
}

#[test]
fn a_threshold_is_found_on_the_validation_samples_and_never_on_nothing() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    assert!(workshop.train(&["--no-timestamp"]).output().expect("it runs").status.success());
    let labels: Vec<i32> = brick_labels(40, 48).into_iter().map(|label| label as i32).collect();
    let (shape, target) = ([40, 48], vec![0; 40 * 48]);
    let planes = [
        ("segmentation_outlines", &shape[..], Plane::I32(&labels)),
        ("rosettes_binary", &shape[..], Plane::U8(&target)),
    ];
    workshop.write(&workshop::sample("N"), encode(&planes, &[]).expect("shapes that fit"));
    let usual = ["threshold", "--model", "out", "--data-dir", "data"];
    let before = workshop.files();
    for (arguments, expected) in [
        (&["--samples", "N"][..], "N: expected a pixel of a rosette in the target, found none"),
        (&["--threshold", "0.4"], "--threshold: expected none for `rosette threshold`"),
        (&["--samples", "C", "C"], "C: expected a name of its own"),
    ] {
        let said = rosette(&workshop, &[&usual[..], arguments].concat());
        assert_eq!(said.code, Some(2), "{arguments:?}: {}", said.err);
        assert!(said.err.contains(expected), "{arguments:?}: {}", said.err);
    }
    assert!(workshop.files() == before, "something was written");

    let warning = "warning: the model was trained on ";
    let said = rosette(&workshop, &[&usual[..], &["--samples", "A", "C"]].concat());
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains(&format!("{warning}A: ")), "{}", said.err);
    let said = rosette(&workshop, &usual);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("the samples that the model was validated on: C\n"), "{}", said.err);
    assert!(said.err.contains("[1/1] C: ") && !said.err.contains(warning), "{}", said.err);
}
