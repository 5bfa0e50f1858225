//! Files as h5py writes them, in all types, filters and layouts, and broken ones. See tests/fixtures/h5/generate.py.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rosette::data::hdf5::File;
use rosette::data::sample::{Sample, discover};
use rosette::error::Error;

const HEIGHT: usize = 11;
const WIDTH: usize = 17;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/h5")
}

fn load(name: &str, with_intensity: bool) -> Result<Sample, Error> {
    let path = fixtures().join(format!("{name}.h5"));
    Sample::from_file(&File::open(&path)?, name, with_intensity)
}

/// The formulas of the generator, row by row.
fn image<T>(value: impl Fn(usize, usize) -> T) -> Vec<T> {
    (0..HEIGHT * WIDTH).map(|at| value(at / WIDTH, at % WIDTH)).collect()
}

fn labels() -> Vec<u32> {
    image(|y, x| if x == 5 { 0 } else { 1 + (y as u32 / 3) * 4 + x as u32 / 6 })
}

fn target() -> Vec<u8> {
    image(|y, x| u8::from((4..9).contains(&y) && (7..15).contains(&x)))
}

fn intensity(max: usize) -> Vec<f32> {
    image(|y, x| ((37 * y + 11 * x) % 251).min(max) as f32)
}

fn good_fixtures() -> Vec<String> {
    let entries = std::fs::read_dir(fixtures()).unwrap();
    let names =
        entries.filter_map(|e| e.unwrap().file_name().to_str()?.strip_suffix(".h5").map(String::from));
    let mut names: Vec<String> = names.filter(|name| !name.starts_with("bad_")).collect();
    names.sort();
    names
}

/// The error's four parts, in lower case, from a file or a sample that must not load.
fn error_of(name: &str, with_intensity: bool) -> rosette::error::UserError {
    match load(name, with_intensity).expect_err(name) {
        Error::User(error) => *error,
        other => panic!("{name}: not a user error: {other}"),
    }
}

#[test]
fn every_type_filter_and_layout_reads_alike() {
    let names = good_fixtures();
    assert!(names.len() >= 30, "fixtures are missing: {names:?}");
    for name in names {
        let sample = load(&name, false).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((sample.height, sample.width), (HEIGHT, WIDTH), "{name}");
        assert_eq!(sample.labels, labels(), "{name}");
        assert_eq!(sample.target, target(), "{name}");
        assert_eq!(sample.intensity, None, "{name}");
    }
}

#[test]
fn intensity_reads_alike_where_there_is_one() {
    let mut read = 0;
    for name in good_fixtures() {
        let file = File::open(&fixtures().join(format!("{name}.h5"))).unwrap();
        if !["raw_image", "raw_data", "data"].iter().any(|dataset| file.has(dataset)) {
            continue;
        }
        let max = if name == "type_int8" { 127 } else { 250 };
        assert_eq!(load(&name, true).unwrap().intensity, Some(intensity(max)), "{name}");
        read += 1;
    }
    assert!(read >= 20, "only {read} fixtures have an intensity");
}

#[test]
fn errors_name_dataset_finding_and_remedy() {
    // (fixture, with intensity, in the place, in what was found)
    let cases = [
        ("bad_rank", false, "segmentation_outlines", "shape [11, 17, 3]"),
        ("bad_shape", false, "rosettes_binary", "shape [11, 16]"),
        ("bad_raw_shape", true, "raw_image", "shape [9, 17]"),
        ("bad_empty", false, "segmentation_outlines", "shape [0, 17]"),
        ("bad_negative", false, "segmentation_outlines", "-4 at row 2, column 3"),
        ("bad_fraction", false, "segmentation_outlines", "1.5 at row 2, column 3"),
        ("bad_large", false, "segmentation_outlines", "4294967296 at row 2, column 3"),
        ("bad_nan_label", false, "segmentation_outlines", "NaN at row 2, column 3"),
        ("bad_nan_target", false, "rosettes_binary", "NaN at row 1, column 0"),
        ("bad_nan", true, "raw_image", "NaN at row 4, column 9"),
        ("bad_inf", true, "raw_image", "inf at row 4, column 9"),
        ("bad_text", false, "rosettes_binary", "text"),
        ("bad_compound", false, "rosettes_binary", "compound"),
        ("bad_no_target", false, "bad_no_target.h5", "only raw_image, segmentation_outlines"),
        ("bad_nothing", false, "bad_nothing.h5", "no dataset at all"),
        ("bad_stack", false, "'data'", "shape [3, 11, 17]"),
        ("bad_stack_rank", false, "'data'", "shape [11, 17]"),
        ("bad_text_file", false, "bad_text_file.h5", "no HDF5 signature"),
        ("bad_zero_bytes", false, "bad_zero_bytes.h5", "empty file"),
        ("bad_truncated", false, "bad_truncated.h5", "truncated"),
        ("bad_checksum", false, "segmentation_outlines", "damaged"),
        ("bad_virtual", false, "segmentation_outlines", "layout"),
        ("layout_no_raw", true, "layout_no_raw.h5", "only rosettes_binary, segmentation_outlines"),
    ];
    for (name, with_intensity, place, found) in cases {
        let error = error_of(name, with_intensity);
        assert!(error.place.contains(&format!("{name}.h5")), "{name}: {error}");
        assert!(error.place.contains(place), "{name}: {error}");
        assert!(error.found.contains(found), "{name}: {error}");
        assert!(!error.expected.is_empty() && !error.remedy.is_empty(), "{name}: {error}");
    }
}

#[test]
fn a_misspelt_dataset_is_suggested() {
    let error = error_of("bad_name", false);
    assert!(error.found.contains("masks/Segmentation_Outline, masks/rosettes_binary"), "{error}");
    assert!(error.remedy.contains("'masks/Segmentation_Outline'"), "{error}");
}

#[test]
fn intensity_is_only_looked_at_where_it_is_wanted() {
    for name in ["bad_nan", "bad_inf", "bad_raw_shape"] {
        assert_eq!(load(name, false).unwrap().labels, labels(), "{name}");
    }
}

#[test]
fn samples_are_found_and_missing_ones_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(discover(dir.path()).unwrap_err().to_string().contains("processed_data_NAME.h5"));
    for name in ["T2_1", "T1_1"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        let to = dir.path().join(name).join(format!("processed_data_{name}.h5"));
        std::fs::copy(fixtures().join("type_uint16.h5"), to).unwrap();
    }
    std::fs::create_dir(dir.path().join("logs")).unwrap();
    std::fs::write(dir.path().join("notes.txt"), "").unwrap();
    assert_eq!(discover(dir.path()).unwrap(), ["T1_1", "T2_1"]);
    assert_eq!(Sample::load(dir.path(), "T2_1", true).unwrap().intensity, Some(intensity(250)));
    let missing = Sample::load(dir.path(), "T3_1", false).unwrap_err();
    assert_eq!(missing.exit_code(), 2);
    assert!(missing.to_string().contains("processed_data_T3_1.h5"), "{missing}");
    assert!(discover(&dir.path().join("nowhere")).unwrap_err().to_string().contains("nowhere"));
    std::fs::create_dir_all(dir.path().join("T4_1/processed_data_T4_1.h5")).unwrap();
    assert!(Sample::load(dir.path(), "T4_1", false).is_err(), "a directory is no file");
}

/// Loads damaged bytes both ways; any result but a panic will do, and what loads has planes of one size.
fn survive(bytes: Vec<u8>) {
    let Ok(file) = File::from_bytes(Path::new("damaged.h5"), bytes) else { return };
    for with_intensity in [false, true] {
        if let Ok(sample) = Sample::from_file(&file, "damaged", with_intensity) {
            assert_eq!(sample.labels.len(), sample.height * sample.width);
            assert_eq!(sample.target.len(), sample.labels.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn damaged_files_never_panic(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let names = good_fixtures();
        let name = &names[which.index(names.len())];
        let mut bytes = std::fs::read(fixtures().join(format!("{name}.h5"))).unwrap();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        survive(bytes);
    }
}
