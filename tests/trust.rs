//! A device is examined before it trains or predicts for the first time.

mod common;
#[path = "common/workshop.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod workshop;

use std::fs;
use std::path::{Path, PathBuf};

use rosette::gpu::{Gpu, Kernel, Limits, MatrixUnits};
use rosette::ops::choice::Form;
use rosette::report::Mode;
use rosette::tape::Element;
use rosette::train::{Examined, TuningCache, examine_steps, is_unsound};
use workshop::{Workshop, rosette, sample};

/// The software adapter as a GPU would be taken.
fn as_a_gpu() -> Option<Gpu> {
    let gpu = common::device()?;
    let limits = Limits { software: false, ..gpu.limits() };
    Some(gpu.with_limits(limits))
}

fn examined(what: &str, form: Option<&str>, failures: &[&str]) -> Examined {
    Examined {
        what: what.into(),
        form: form.map(str::to_owned),
        precision: "f32",
        passed: 1,
        failures: failures.iter().map(|text| (*text).to_owned()).collect(),
        forward: 0.0,
        backward: 0.0,
    }
}

#[test]
fn a_sound_device_is_examined_once_for_each_precision() {
    let Some(gpu) = as_a_gpu() else { return };
    let mut cache = TuningCache::empty(gpu.summary());
    let known = |cache: &TuningCache| cache.examined.keys().cloned().collect::<Vec<_>>();
    cache.ensure_sound(&gpu, Element::F32, Mode::Quiet).expect("it computes right");
    assert_eq!(known(&cache), ["f32"]);
    let compiled = gpu.compiled().len();
    assert!(compiled > 50, "{compiled} kernels were examined");
    let names: Vec<String> = gpu.compiled().iter().map(Kernel::name).collect();
    for name in ["conv2d_tiled/forward_moments", "batch_norm/running_stats", "warp/displaced"] {
        assert!(
            names.iter().any(|known| known == name),
            "{name}: neither whole steps nor patches were examined"
        );
    }
    cache.ensure_sound(&gpu, Element::F32, Mode::Quiet).expect("it is known");
    assert_eq!(gpu.compiled().len(), compiled, "what is known is not examined again");
    if gpu.limits().f16 {
        cache.ensure_sound(&gpu, Element::F16, Mode::Quiet).expect("it computes right in f16");
        assert_eq!(known(&cache), ["f16", "f32"]);
    }
    assert_eq!(cache.examined.values().flatten().count(), 0);
    assert!(cache.banned.is_empty() && cache.probed.is_empty(), "no form was tried");
    let is_of_a_form =
        |kernel: &Kernel| kernel.name().contains("winograd") || kernel.name().contains("matrix");
    assert!(!gpu.compiled().iter().any(is_of_a_form), "other forms are the tuner's business");
}

/// On a driver whose kernels wrote nothing a training ended with a loss of 0 and an F1 of 1.
#[test]
fn a_device_that_computes_wrongly_is_refused_with_what_it_does_wrong() {
    let Some(gpu) = as_a_gpu() else { return };
    let mut cache = TuningCache::empty(gpu.summary());
    let found = [
        examined("adamw", None, &[]),
        examined("conv2d matrix", Some("matrix"), &["far off"]),
        examined("conv2d tiled", Some("tiled"), &["[1, 2, 3, 4]: forward inf", "another"]),
        examined("relu", None, &["[1, 1, 1, 1]: forward inf"]),
    ];
    cache.take_note(Element::F32, &found);
    let error = cache.ensure_sound(&gpu, Element::F32, Mode::Quiet).expect_err("it is refused").to_string();
    for phrase in [
        &*gpu.summary().to_string(),
        &*gpu.summary().driver,
        "in f32",
        "conv2d tiled: [1, 2, 3, 4]: forward inf; another",
        "relu: [1, 1, 1, 1]: forward inf",
        "rosette devices",
        "rosette doctor",
    ] {
        assert!(error.contains(phrase), "no {phrase:?} in {error}");
    }
    assert!(!error.contains("matrix"), "another form takes its place: {error}");
    assert!(is_unsound(&error), "another adapter may do it");
    assert!(gpu.compiled().is_empty(), "it is known, and not examined again");
    // Written by another version: its verdict may be mended by this one's kernels.
    let kept = serde_json::to_value(&cache).expect("numbers and text");
    let mut old = kept.clone();
    old["examined_by"] = "0.0.1".into();
    let mut old: TuningCache = serde_json::from_value(old).expect("a cache");
    old.ensure_sound(&gpu, Element::F32, Mode::Quiet).expect("it was examined again");
    assert_eq!(old.examined["f32"], [""; 0]);
    let mut kept: TuningCache = serde_json::from_value(kept).expect("a cache");
    kept.ensure_sound(&gpu, Element::F32, Mode::Quiet).expect_err("by this version");
    cache.take_note(Element::F32, &found[..2]);
    cache.ensure_sound(&gpu, Element::F32, Mode::Quiet).expect("the doctor has found it sound since");
}

/// The file of what was found of a device.
fn cache_of(dir: &Path) -> Option<PathBuf> {
    let mut files = fs::read_dir(dir).ok()?.map(|entry| entry.expect("an entry").path());
    // Beside it lie compiled pipelines.
    files.find(|path| path.extension().is_some_and(|kind| kind == "json"))
}

/// No command had a test that it asks, since software adapters were never refused.
#[test]
fn every_command_that_computes_asks_whether_the_device_can_be_trusted() {
    let Some(gpu) = common::device() else { return };
    let workshop = Workshop::new();
    let (sound, unsound) = (workshop.path("sound"), workshop.path("unsound"));
    let out = workshop.path("out");
    workshop.train(&["--no-timestamp"]).env("ROSETTE_CACHE_DIR", &sound).assert().success();
    let name = cache_of(&sound);
    assert_eq!(name, None, "a software adapter that nobody has examined is taken as it is");
    let mut tune = rosette();
    tune.current_dir(workshop.path("")).args([
        "tune",
        "--config",
        "config.yaml",
        "--experiment-name",
        "tiny",
    ]);
    tune.env("ROSETTE_CACHE_DIR", &unsound).assert().success();
    let file = cache_of(&unsound).expect("one file");
    let mut cache: TuningCache =
        serde_json::from_slice(&fs::read(&file).expect("a cache")).expect("its format");
    cache.take_note(Element::F32, &[examined("relu", None, &["far off"])]);
    fs::write(&file, serde_json::to_vec(&cache).expect("numbers and text")).expect("a writable file");
    let weights = out.join("best_model.pth");
    let weights = weights.to_str().expect("a plain path");
    let input = sample("C");
    let commands = [
        vec!["train"],
        vec!["predict", "--model", weights, "--input", &input, "--output-dir", "predicted"],
        vec!["bench", "--step", "--base", "8", "--patch", "16", "--batch", "1", "--repeats", "1"],
        vec!["tune", "--config", "config.yaml", "--experiment-name", "tiny"],
        vec![
            "export",
            "--model",
            weights,
            "--format",
            "bioimageio",
            "--author",
            "Ada Byron",
            "--license",
            "MIT",
            "--output",
            "model.zip",
        ],
    ];
    for command in commands {
        let other = || {
            let mut other = rosette();
            other.current_dir(workshop.path("")).args(&command);
            other
        };
        let run = || {
            let mut run =
                if command == ["train"] { workshop.train(&["--output-dir", "again"]) } else { other() };
            run.env("ROSETTE_CACHE_DIR", &unsound);
            run
        };
        let refused = run().assert().failure();
        let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
        assert!(
            said.contains("computes wrongly in f32") && said.contains("relu: far off"),
            "{command:?}: {said}"
        );
        assert!(said.contains(&gpu.summary().to_string()), "{command:?}: {said}");
        let used = run().env("ROSETTE_USE_UNSOUND", "1").assert().success();
        let said = String::from_utf8_lossy(&used.get_output().stderr).into_owned();
        assert!(said.contains("warning: used all the same"), "{command:?}: {said}");
    }
}

/// Where units are emulated, all but the units themselves is as it is on a device that has them.
#[test]
#[ignore = "takes minutes on a software adapter: `make races` runs it"]
fn whole_steps_on_matrix_units_are_pytorchs() {
    whole_steps_agree(|_| MatrixUnits::Emulated);
}

/// Those that the driver offers, on a software adapter too (see `tests/ops.rs`).
#[test]
#[ignore = "takes minutes on a software adapter"]
fn whole_steps_on_a_drivers_matrix_units_are_pytorchs() {
    whole_steps_agree(|gpu| gpu.summary().matrix_units);
}

fn whole_steps_agree(units: impl Fn(&Gpu) -> MatrixUnits) {
    let Some(gpu) = as_a_gpu() else { return };
    let limits = Limits { matrix: units(&gpu), ..gpu.limits() };
    if !limits.f16 || limits.matrix == MatrixUnits::None {
        return println!("SKIPPED: {} has no 16-bit floats, or no matrix units", gpu.summary());
    }
    let gpu = gpu.with_limits(limits);
    for form in Form::MATRIX.into_iter().filter(|form| form.runs_on(true, limits)) {
        for found in examine_steps(&gpu, Element::F16, form).expect("it runs") {
            println!("{}: {:.1e} {:.1e}", found.what, found.forward, found.backward);
            assert_eq!(found.failures, [""; 0], "{}", found.what);
        }
    }
    let has_moments =
        |kernel: &Kernel| kernel.name().contains("matrix") && kernel.name().ends_with("/forward_moments");
    assert!(gpu.compiled().iter().any(has_moments), "moments are gathered on matrix units");
}
