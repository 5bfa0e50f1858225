//! `rosette preview`: its two pictures, and what is said where it cannot draw them. Needs no device.

#[path = "common/workshop.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod workshop;

use workshop::Workshop;

fn preview(workshop: &Workshop, changed: &[&str]) -> (Option<i32>, String, String) {
    let usual = ["preview", "--data-dir", "data", "--config", "config.yaml", "--experiment-name", "tiny"];
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rosette"))
        .args([&usual[..], changed].concat())
        .current_dir(workshop.path(""))
        .output()
        .expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn samples_and_patches_are_drawn() {
    let workshop = Workshop::new();
    let (code, said, _) = preview(&workshop, &["--output-dir", "look", "--patches", "3"]);
    assert_eq!(code, Some(0));
    assert!(said.contains("look/samples.png") && said.contains("look/patches.png"), "{said}");
    let size = |name: &str| {
        let file = std::fs::File::open(workshop.path(name)).expect(name);
        let reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().expect("a PNG");
        (reader.info().width, reader.info().height)
    };
    // Three samples: one row of them, and three rows of a plain crop and three patches.
    let (samples, patches) = (size("look/samples.png"), size("look/patches.png"));
    assert!(samples.0 > samples.1 && patches.0 > 4 * 240 && patches.1 > 3 * 240, "{samples:?} {patches:?}");
    let again = std::fs::read(workshop.path("look/patches.png")).unwrap();
    preview(&workshop, &["--output-dir", "same", "--patches", "3"]);
    assert!(
        std::fs::read(workshop.path("same/patches.png")).unwrap() == again,
        "the same seed, another picture"
    );
    let bent = ["--override", "augmentation.elastic_transform=1"];
    preview(&workshop, &[&["--output-dir", "bent", "--patches", "3"], &bent[..]].concat());
    assert!(
        std::fs::read(workshop.path("bent/patches.png")).unwrap() != again,
        "the override changed nothing"
    );
}

#[test]
fn a_sample_that_is_not_there_is_told_and_nothing_is_drawn() {
    let workshop = Workshop::new();
    let (code, _, said) = preview(&workshop, &["--samples", "A", "Z"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("processed_data_Z.h5"), "{said}");
    assert!(!workshop.path("preview").exists());
}
