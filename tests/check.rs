//! `rosette check`: every finding, its severity and its exit code. Needs no device.

#[path = "common/workshop.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod workshop;

use std::process::Command;

use rosette::data::hdf5::{Plane, encode};
use workshop::{Form, Workshop, sample, tissue};

const SIDE: usize = 24;

fn check(workshop: &Workshop, more: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_rosette"))
        .args([&["check", "--data-dir", "data"], more].concat())
        .current_dir(workshop.path(""))
        .output()
        .expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A sample of four cells with a rosette in the middle, changed by `change`.
struct Planes {
    labels: Vec<i32>,
    target: Vec<u8>,
    intensity: Option<Vec<f32>>,
}

fn written(workshop: &Workshop, name: &str, change: impl Fn(&mut Planes)) {
    let at = |i: usize| (i / SIDE, i % SIDE);
    let mut planes = Planes {
        // The name makes samples differ.
        labels: (0..SIDE * SIDE)
            .map(|i| 1 + (at(i).0 / 12 * 2 + at(i).1 / 12) as i32 + 10 * i32::from(i == name.len()))
            .collect(),
        target: (0..SIDE * SIDE)
            .map(|i| u8::from((8..16).contains(&at(i).0) && (8..16).contains(&at(i).1)))
            .collect(),
        intensity: None,
    };
    change(&mut planes);
    let shape = [SIDE, SIDE];
    let mut datasets: Vec<(&str, &[usize], Plane)> = vec![
        ("segmentation_outlines", &shape, Plane::I32(&planes.labels)),
        ("rosettes_binary", &shape, Plane::U8(&planes.target)),
    ];
    if let Some(intensity) = &planes.intensity {
        datasets.push(("raw_image", &shape, Plane::F32(intensity)));
    }
    workshop.write(&sample(name), encode(&datasets, &[]).expect("shapes that fit"));
}

#[test]
fn good_samples_pass_with_a_table_and_histograms() {
    let workshop = Workshop::new();
    let (code, out, err) = check(&workshop, &["--split-manifest", "split.json"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(
        out.contains("│ A ") && out.contains("train") && out.contains("validation") && out.contains("good"),
        "{out}"
    );
    assert!(out.contains("shorter side in px:") && out.contains("rosette share in %:"), "{out}");
    let (_, json, _) = check(&workshop, &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json[0]["name"], "A");
    assert_eq!(json[0]["size"], serde_json::json!([40, 48]));
}

/// A sample's name, how it is made, and what is said of it.
type Case = (&'static str, fn(&mut Planes), &'static str);

#[test]
fn what_hardly_teaches_is_warned_of() {
    let cases: [Case; 8] = [
        ("empty", |p| p.target.fill(0), "no rosette pixel"),
        ("full", |p| p.target.fill(1), "every pixel is a rosette's"),
        ("no_cells", |p| p.labels.fill(0), "no cell in 'segmentation_outlines'"),
        (
            "mask",
            |p| p.labels.iter_mut().for_each(|l| *l = i32::from(*l > 1)),
            "a single label, 1: a mask rather than cells",
        ),
        (
            "outside",
            |p| p.labels.iter_mut().skip(SIDE * 10).for_each(|l| *l = 0),
            "of the rosettes' pixels lie outside the cells",
        ),
        ("grades", |p| p.target[0] = 7, "'rosettes_binary' is not binary: 0, 1, 7"),
        ("flat", |p| p.intensity = Some(vec![0.25; SIDE * SIDE]), "its intensity is 0.25 everywhere"),
        ("infinite", |p| p.intensity = Some(vec![f32::INFINITY; SIDE * SIDE]), "with use_intensity: "),
    ];
    let workshop = Workshop::new();
    for (name, change, _) in cases {
        written(&workshop, name, change);
    }
    let (code, out, err) = check(&workshop, &[]);
    assert_eq!(code, Some(0), "warnings are no errors: {out}{err}");
    for (name, _, expected) in cases {
        let line = out
            .lines()
            .find(|line| line.starts_with(&format!("warning: {name}: ")) && line.contains(expected));
        assert!(line.is_some(), "{name}: {out}");
    }
    assert_eq!(out.matches("  help: ").count(), out.matches("warning: ").count(), "a remedy for each");
}

#[test]
fn what_cannot_be_trained_on_is_an_error() {
    let workshop = Workshop::new();
    workshop.write(&sample("broken"), "no HDF5");
    let shapes: [&[usize]; 2] = [&[SIDE, SIDE], &[SIDE, SIDE - 1]];
    let planes = [vec![1_u8; SIDE * SIDE], vec![1; SIDE * (SIDE - 1)]];
    let misshapen = [
        ("segmentation_outlines", shapes[0], Plane::U8(&planes[0])),
        ("rosettes_binary", shapes[1], Plane::U8(&planes[1])),
    ];
    workshop.write(&sample("misshapen"), encode(&misshapen, &[]).expect("shapes that fit"));
    let lonely = [("segmentation_outlines", shapes[0], Plane::U8(&planes[0]))];
    workshop.write(&sample("lonely"), encode(&lonely, &[]).expect("shapes that fit"));
    let mut cut = tissue(64, 64, Form::Separate);
    cut.truncate(cut.len() / 2);
    workshop.write(&sample("cut"), cut);
    let (code, out, err) = check(&workshop, &[]);
    assert_eq!(code, Some(2), "{out}");
    for (name, expected) in [
        ("broken", "an HDF5 file"),
        ("misshapen", "shape [24, 23]"),
        ("lonely", "rosettes_binary"),
        ("cut", "bytes"),
    ] {
        let line =
            out.lines().find(|line| line.starts_with(&format!("error: {name}: ")) && line.contains(expected));
        assert!(line.is_some(), "{name}: {out}");
    }
    assert!(err.contains("4 of 7 that cannot be: broken, cut, lonely, misshapen"), "{err}");
}

#[test]
fn an_image_that_trains_and_validates_is_an_error() {
    let workshop = Workshop::new();
    let copied = std::fs::read(workshop.path(&sample("A"))).expect("a sample");
    workshop.write(&sample("C"), copied);
    let (code, out, _) = check(&workshop, &[]);
    assert_eq!(code, Some(0), "without a split it is a warning");
    assert!(out.contains("warning: C: the same image as 'A'\n"), "{out}");
    let (code, out, _) = check(&workshop, &["--split-manifest", "split.json"]);
    assert_eq!(code, Some(2), "{out}");
    assert!(out.contains("error: C: the same image as 'A', of which one trains and one validates"), "{out}");
    workshop.manifest(&["A", "B"], &["gone"]);
    let (code, out, _) = check(&workshop, &["--split-manifest", "split.json"]);
    assert_eq!(code, Some(2), "{out}");
    assert!(out.contains("error: gone: ") && out.contains("no such file"), "{out}");
}
