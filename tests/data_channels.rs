//! Channel planes, against scikit-image. See tests/fixtures/channels/generate.py.

use std::path::PathBuf;

use rosette::data::channels::{Prepared, boundaries};
use rosette::data::sample::Sample;

#[derive(serde::Deserialize)]
struct Golden {
    name: String,
    height: usize,
    width: usize,
    labels: Vec<u32>,
    boundaries: String,
}

#[test]
fn boundaries_are_those_of_scikit_image() {
    let goldens: Vec<Golden> =
        serde_json::from_str(include_str!("fixtures/channels/boundaries.json")).unwrap();
    assert!(goldens.len() >= 10);
    for golden in goldens {
        let ours: String = boundaries(&golden.labels, golden.height, golden.width)
            .iter()
            .map(|&b| if b == 1 { '1' } else { '0' })
            .collect();
        assert_eq!(ours, golden.boundaries, "{}", golden.name);
    }
}

fn sample(intensity: Option<Vec<f32>>) -> Sample {
    Sample {
        name: "T1_1".to_string(),
        path: PathBuf::from("T1_1.h5"),
        height: 2,
        width: 4,
        labels: vec![0, 0, 7, 7, 0, 0, 7, 9],
        target: vec![0, 0, 1, 0, 0, 0, 1, 1],
        intensity,
    }
}

#[test]
fn planes_come_from_labels_target_and_intensity() {
    let prepared = Prepared::new(sample(None));
    assert_eq!(prepared.channels(), 2);
    assert_eq!(prepared.boundary, [0, 1, 1, 1, 0, 1, 1, 1]);
    assert_eq!(prepared.cells, [0, 0, 1, 1, 0, 0, 1, 1]);
    assert_eq!(prepared.rosette_pixels, [2, 6, 7]);
    assert_eq!((prepared.intensity, prepared.target), (None, vec![0, 0, 1, 0, 0, 0, 1, 1]));
    let counts = Prepared::new(sample(Some(vec![0.0, 50.0, 100.0, 200.0, 0.0, 0.0, 0.0, 150.0])));
    assert_eq!(counts.channels(), 3);
    assert_eq!(counts.intensity.unwrap(), [0.0, 0.25, 0.5, 1.0, 0.0, 0.0, 0.0, 0.75]);
}
