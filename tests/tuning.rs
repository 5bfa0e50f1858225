//! Measurements of the device: what is kept, what a training makes of it, and what it must never change.

mod common;
#[path = "common/units.rs"]
mod units;
#[path = "common/workshop.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod workshop;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::PathBuf;

use rosette::config::Skip;
use rosette::gpu::{Gpu, Kernel, Limits, MatrixUnits};
use rosette::model::{AttentionUNet, Spec};
use rosette::ops::OPS;
use rosette::ops::activation::Relu;
use rosette::ops::choice::{Form, Pass, Question};
use rosette::ops::tune::{Timing, kernels, measure};
use rosette::tape::{Dispatch, Element, Loaded, Mode, Shape, SlotPool, Stores, Tape, Tuning};
use rosette::train::{StepSettings, TuningCache, examine_operation, record_training};
use units::UNITS;
use workshop::{Workshop, rosette};

fn question(pass: Pass) -> Question {
    Question {
        pass,
        kernel: 3,
        squares: false,
        image: [1, 12, 20],
        sources: vec![8],
        out_channels: 16,
        half: false,
        exact: false,
        normalised: false,
    }
}

#[test]
fn every_form_that_may_be_taken_computes_the_same() {
    let Some(gpu) = common::device() else { return };
    for (pass, normalised) in [
        (Pass::Forward, false),
        (Pass::Forward, true),
        (Pass::InputGradient, false),
        (Pass::WeightGradient, false),
        (Pass::WeightGradient, true),
    ] {
        let question = Question { normalised, ..question(pass) };
        let timings = measure(&gpu, &question, &[]).expect("the device works");
        assert_eq!(timings.len(), question.candidates(gpu.limits(), &[]).len(), "{question}");
        for timing in &timings {
            assert!(timing.sound && timing.ms > 0.0, "{question}: {timing:?}");
        }
        let distinct = timings.iter().any(|timing| timing.difference > 0.0);
        assert!(distinct, "{question}: two forms round alike: was one of them measured twice?");
    }
}

#[test]
fn a_question_is_its_own_key() {
    let question = question(Pass::InputGradient);
    assert_eq!(Question::from_key(&question.key()), Some(question.clone()));
    assert_eq!(Question::from_key("[]"), None);
    let normalised = Question { normalised: true, ..question.clone() };
    assert_eq!(Question::from_key(&normalised.key()), Some(normalised));
    // As caches have it from the time when nothing was normalised as it was read.
    let key = r#"{"pass":"input_gradient","kernel":3,"squares":false,"image":[1,12,20],"sources":[8],"out_channels":16,"half":false,"exact":false}"#;
    assert_eq!(question.key(), key);
}

/// A cache directory in the workshop, filled for its experiment by `rosette tune`; the file.
fn tuned(workshop: &Workshop) -> PathBuf {
    let mut tune = rosette();
    tune.args(["tune", "--experiment-name", "tiny", "--config"]).arg(workshop.path("config.yaml"));
    tune.env("ROSETTE_CACHE_DIR", workshop.path("cache")).assert().success();
    let entries = fs::read_dir(workshop.path("cache")).expect("a cache");
    let mut files = entries
        .map(|entry| entry.expect("an entry").path())
        // Beside it lie compiled pipelines.
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let file = files.next().expect("a file");
    assert_eq!(files.next(), None, "one device, one file");
    file
}

/// Whether the tests' device measures nothing by itself, so that a cache decides alone.
fn is_processor() -> bool {
    let Some(gpu) = common::device() else { return false };
    if !gpu.limits().software {
        println!("SKIPPED: a GPU measures by itself");
    }
    gpu.limits().software
}

/// Makes the cache say that the plain matrix product is by far the fastest.
fn prefer_tiled(file: &PathBuf) {
    let mut cache: TuningCache =
        serde_json::from_slice(&fs::read(file).expect("a cache")).expect("its format");
    for timings in cache.timings.values_mut() {
        let of = |form: Form, ms: f64| Timing {
            form: form.name().into(),
            ms,
            difference: 0.0,
            sound: true,
            failure: None,
            is_transient: false,
        };
        *timings = vec![of(Form::Tiled, 1.0), of(Form::Direct, 9.0), of(Form::Winograd, 9.0)];
    }
    fs::write(file, serde_json::to_vec(&cache).expect("numbers and text")).expect("a writable file");
}

/// The weights and the validation loss of a training with that cache directory.
fn trained(workshop: &Workshop, out: &str, cache: &str, more: &[&str]) -> (Vec<u8>, f64) {
    let out_dir = workshop.path(out);
    let changed = ["--no-timestamp", "--quiet", "--output-dir", out_dir.to_str().expect("a plain path")];
    let mut train = workshop.train(&[&changed, more].concat());
    train.env("ROSETTE_CACHE_DIR", workshop.path(cache)).assert().success();
    let record = fs::read(out_dir.join("config.json")).expect("a record");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    let weights = fs::read(out_dir.join("best_model.pth")).expect("weights");
    (weights, record["best"]["val_loss"].as_f64().expect("a loss"))
}

#[test]
fn a_training_goes_by_the_cache_unless_it_is_to_be_deterministic() {
    if !is_processor() {
        return;
    }
    let workshop = Workshop::new();
    let file = tuned(&workshop);
    prefer_tiled(&file);
    let (plain, plain_loss) = trained(&workshop, "plain", "none", &[]);
    let (by_cache, cache_loss) = trained(&workshop, "by_cache", "cache", &[]);
    assert!(plain != by_cache, "other kernels round otherwise");
    assert!((plain_loss - cache_loss).abs() < 1e-3 * plain_loss, "{plain_loss} {cache_loss}");
    let (pinned, _) = trained(&workshop, "pinned", "cache", &["--override", "deterministic=true"]);
    assert!(plain == pinned, "deterministic: true");
    let log = fs::read_to_string(workshop.path("by_cache/training.log")).expect("a log");
    assert!(log.contains("kernels by measurement for 61 of 61 convolutions"), "{log}");
    // What was measured for another training decides nothing.
    let other = ["--override", "batch_size=1"];
    let [plain_one, one_by_cache] =
        ["none", "cache"].map(|cache| trained(&workshop, &format!("one_{cache}"), cache, &other).0);
    assert!(plain_one == one_by_cache, "another batch size");
    // What is damaged, or another device's, is as good as nothing.
    for damaged in ["", "{", "[]", &fs::read_to_string(&file).expect("a cache").replace("llvmpipe", "other")]
    {
        fs::write(&file, damaged).expect("a writable file");
        let (weights, _) = trained(&workshop, "damaged", "cache", &["--restart"]);
        assert!(weights == plain, "{damaged}");
    }
}

/// A whole tuning ended at its first answer.
#[test]
#[cfg(unix)]
fn a_cache_that_cannot_be_written_costs_no_answer() {
    let Some(_) = common::device() else { return };
    let workshop = Workshop::new();
    let mut tune = rosette();
    tune.args(["tune", "--experiment-name", "tiny", "--config"]).arg(workshop.path("config.yaml"));
    let done = tune.env("ROSETTE_CACHE_DIR", "/dev/null/cache").assert().success();
    let output = done.get_output();
    let [said, warned] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(said.contains("kept in no place") && said.contains("3x3 weight gradient"), "{said}");
    assert!(warned.contains("is not kept"), "{warned}");
}

/// Short last batches went by the device's limits, whatever had been measured for full ones.
#[test]
fn a_short_batch_goes_by_what_was_measured_for_full_ones() {
    if !is_processor() {
        return;
    }
    let workshop = Workshop::new();
    // Two patches an epoch: the only batch is a short one.
    let config = fs::read_to_string(workshop.path("config.yaml")).expect("a configuration");
    workshop.write("config.yaml", config.replace("batch_size: 2", "batch_size: 4"));
    prefer_tiled(&tuned(&workshop));
    let [plain, by_cache] =
        ["none", "cache"].map(|cache| trained(&workshop, &format!("out_{cache}"), cache, &[]).0);
    assert!(plain != by_cache, "other kernels round otherwise");
}

#[test]
fn an_interrupted_training_keeps_the_kernels_that_it_started_with() {
    if !is_processor() {
        return;
    }
    let workshop = Workshop::new();
    prefer_tiled(&tuned(&workshop));
    let long =
        ["--override", "num_epochs=3", "--override", "patches_per_sample=4", "--checkpoint-every", "0"];
    let (whole, _) = trained(&workshop, "whole", "cache", &long);
    // A checkpoint of the first step, as a power cut leaves it.
    let out = workshop.path("cut");
    let mut train = std::process::Command::new(env!("CARGO_BIN_EXE_rosette"));
    train.args([
        "train",
        "--config",
        "config.yaml",
        "--experiment-name",
        "tiny",
        "--split-manifest",
        "split.json",
    ]);
    train.args(["--data-dir", "data", "--no-timestamp", "--quiet", "--output-dir", "cut"]).args(long);
    train.current_dir(workshop.path("")).env("ROSETTE_CACHE_DIR", workshop.path("cache"));
    let mut child = train.spawn().expect("the binary runs");
    while !out.join("previous.safetensors").exists() && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().expect("a child to kill");
    child.wait().expect("its end");
    assert!(out.join(".tuning.json").exists(), "it was still training");
    let (resumed, _) = trained(&workshop, "cut", "none", &long);
    assert!(whole == resumed, "the cache was gone when it went on");
    assert!(!out.join(".tuning.json").exists(), "and nothing is left of it at the end");
}

/// The doctor's ban was heard by the tuner alone, and the usual form ran on.
#[test]
fn a_banned_form_is_not_recorded_even_where_it_is_the_usual_one() {
    let limits = Limits { software: true, subgroup_lanes: 8, ..Limits::WEBGPU };
    let net = AttentionUNet::new(Spec { in_channels: 2, base_channels: 8, skip: Skip::Full });
    let kernels = |tuning: Tuning| -> Vec<String> {
        let settings = StepSettings { tuning, ..StepSettings::new(32) };
        let program = record_training(&net, limits, &settings, 1).program;
        program.dispatches.iter().map(|dispatch| dispatch.kernel.name()).collect()
    };
    let any = |names: &[String], part: &str| names.iter().any(|name| name.contains(part));
    let usual = kernels(Tuning::default());
    assert!(any(&usual, "winograd_multiply/multiply") && any(&usual, "conv2d_narrow"));
    let banned = ["winograd", "winograd 2x2", "direct"].map(String::from).to_vec();
    let others = kernels(Tuning::new(BTreeMap::new(), banned));
    assert!(!any(&others, "winograd_multiply/multiply") && !any(&others, "conv2d_narrow"), "{others:?}");
    assert!(any(&others, "conv2d_tiled"));
}

/// A weight's gradient takes inputs that the forward pass has transformed, unless for tiles of another size.
#[test]
fn forms_of_one_layer_may_differ() {
    let limits = Limits { software: true, subgroup_lanes: 8, ..Limits::WEBGPU };
    let net = AttentionUNet::new(Spec { in_channels: 2, base_channels: 16, skip: Skip::Full });
    let recorded = |tuning: Tuning| {
        let settings = StepSettings { tuning, ..StepSettings::new(64) };
        record_training(&net, limits, &settings, 4).program
    };
    let usual = recorded(Tuning::default());
    let of_weights = usual.questions.iter().filter(|question| question.contains("weight_gradient"));
    let answers: BTreeMap<String, String> =
        of_weights.map(|question| (question.clone(), Form::WinogradTwo.name().to_owned())).collect();
    let mixed = recorded(Tuning::new(answers, Vec::new()));
    let mut checked = 0;
    for dispatch in &mixed.dispatches {
        // The last of their parameters.
        let name = dispatch.kernel.name();
        let at = match name.split_once('/') {
            Some(("conv2d_gradient_product", _)) => 20,
            Some(("conv2d_winograd_multiply", _)) => 12,
            _ => continue,
        };
        let products: u32 = bytemuck::pod_read_unaligned(&dispatch.params[at..at + 4]);
        if products == 1 {
            continue;
        }
        let v = mixed.tensor(dispatch.args[0].tensor);
        assert_eq!(v.shape.dims()[0], products as usize, "{} reads {}", dispatch.kernel, v.name);
        checked += 1;
    }
    assert!(checked > 30, "{checked} products");
}

/// Matrix units were taken for the first layer of a training in f16, whose input is f32 all the same: it was read as halves.
#[test]
fn matrix_units_are_given_nothing_but_halves() {
    let net = AttentionUNet::new(Spec { in_channels: 2, base_channels: 8, skip: Skip::Full });
    let banned = ["winograd", "winograd 2x2", "direct", "tiled"].map(String::from).to_vec();
    let tuning = Tuning::new(BTreeMap::new(), banned);
    let settings = StepSettings { tuning, element: Element::F16, ..StepSettings::new(32) };
    let program = record_training(&net, UNITS, &settings, 1).program;
    let name = |dispatch: &Dispatch| dispatch.kernel.name();
    let products = program.dispatches.iter().filter(|d| {
        ["conv2d_matrix16/forward", "conv2d_gradient_matrix16/multiply"].contains(&name(d).as_str())
    });
    let mut checked = 0;
    for dispatch in products {
        // x and what it is multiplied with: the packed weight, or dy.
        for arg in &dispatch.args[..2] {
            let info = program.tensor(arg.tensor);
            assert_eq!(info.element, Element::F16, "{} reads {}", dispatch.node, info.name);
        }
        checked += 1;
    }
    assert!(checked > 60, "{checked} products on matrix units");
}

/// A device that says it has matrix units, but whose driver takes no kernel for them.
fn without_the_units_it_promises() -> Option<Gpu> {
    let gpu = common::device()?;
    let limits = gpu.limits();
    if !limits.f16 || !limits.software || gpu.summary().matrix_units != MatrixUnits::None {
        println!("SKIPPED: no software adapter with f16 and without matrix units");
        return None;
    }
    let units = (MatrixUnits::Sixteen, limits.workgroup_bytes.max(48 << 10));
    Some(gpu.with_limits(Limits { matrix: units.0, workgroup_bytes: units.1, ..limits }))
}

/// One kernel that did not load ended the tuning, and with it the training; with a driver's own words in a panic.
#[test]
fn a_form_that_the_driver_refuses_is_passed_over() {
    let Some(gpu) = without_the_units_it_promises() else { return };
    for pass in [Pass::Forward, Pass::InputGradient, Pass::WeightGradient] {
        let question = Question { half: true, ..question(pass) };
        let timings = measure(&gpu, &question, &[]).expect("the device works");
        for timing in &timings {
            let is_matrix = Form::named(&timing.form).expect("a form").is_matrix();
            assert_eq!(timing.sound, !is_matrix, "{question}: {timing:?}");
            assert_eq!(timing.failure.is_some(), is_matrix, "{question}: {timing:?}");
        }
        assert!(timings[0].sound && timings.iter().any(|timing| timing.failure.is_some()), "{timings:?}");
        let said = timings.iter().find_map(|timing| timing.failure.clone()).expect("a reason");
        assert!(said.contains("refuses the kernel conv2d_") && said.contains("Caused by"), "{said}");
    }
}

/// What is made ahead is what the driver takes; the rest is told when it is loaded.
#[test]
fn a_refused_kernel_keeps_no_other_from_being_made() {
    let Some(gpu) = without_the_units_it_promises() else { return };
    let kernels = kernels(&gpu, &Question { half: true, ..question(Pass::Forward) }, &[]);
    let is_refused = |kernel: &Kernel| kernel.name().contains("matrix16");
    assert!(kernels.iter().any(is_refused) && !kernels.iter().all(is_refused));
    gpu.compile_ahead(kernels.clone()).expect("the device works");
    let made: HashSet<Kernel> = gpu.compiled().into_iter().collect();
    assert!(kernels.iter().all(|kernel| made.contains(kernel) != is_refused(kernel)));
}

/// A form that came to no number was written as null, which could not be read: all that had been measured was lost.
#[test]
fn a_cache_with_a_form_that_does_not_run_is_read_again() {
    let Some(gpu) = without_the_units_it_promises() else { return };
    let mut cache = TuningCache::load(gpu.summary());
    let question = Question { half: true, ..question(Pass::Forward) };
    cache.measure(&gpu, std::slice::from_ref(&question), true, |_, _, _| {}).expect("the device works");
    let text = serde_json::to_string(&cache).expect("numbers and text");
    let read: TuningCache = serde_json::from_str(&text).expect("its own text");
    assert_eq!(read.timings, cache.timings);
    let refused = read.timings[&question.key()].iter().filter(|timing| timing.ms.is_infinite());
    assert!(refused.count() > 0);
}

/// The doctor ended where it should have said what is wrong, and have kept trainings from it.
#[test]
fn a_form_that_the_driver_refuses_is_a_finding() {
    let Some(gpu) = without_the_units_it_promises() else { return };
    let op = OPS.iter().find(|op| op.name == "conv2d").expect("convolutions");
    let wanted = |form| form == Form::MatrixNarrow;
    let found = examine_operation(&gpu, op, Element::F16, wanted).expect("the device works");
    let [narrow] = &found[..] else { panic!("one form: {found:?}") };
    assert_eq!((narrow.form.as_deref(), narrow.passed), (Some("matrix narrow"), 0));
    assert!(narrow.failures.iter().all(|failure| failure.contains("refuses the kernel")), "{narrow:?}");
}

/// A trial's data is a pattern again and again; its result is read in parts, after what another form left there was cleared.
#[test]
fn a_tensor_is_filled_by_a_pattern_read_in_parts_and_cleared() {
    let Some(gpu) = common::device() else { return };
    let elements = if gpu.limits().f16 { vec![Element::F32, Element::F16] } else { vec![Element::F32] };
    for element in elements {
        let mut tape = Tape::new(gpu.limits(), Mode::Evaluate);
        tape.set_stored_element(element);
        let x = tape.input_as("x", Shape::nhwc(1, 900, 600, 4), element);
        let y = tape.apply1("relu", Relu, &[x]);
        tape.keep(y);
        let loaded = Loaded::new(&gpu, tape.finish(), &Stores::new(), &mut SlotPool::default()).unwrap();
        let pattern: Vec<f32> = (0..65_521_u32).map(|i| (i % 2003) as f32).collect();
        loaded.write_again_and_again(&gpu, x, &pattern);
        gpu.run(&loaded.executable);
        let expected: Vec<f32> = pattern.iter().copied().cycle().take(900 * 600 * 4).collect();
        assert!(loaded.read(&gpu, y).unwrap() == expected, "{element:?}");
        let part = 1_500_000..1_500_100;
        assert_eq!(loaded.read_part(&gpu, y, part.clone()).unwrap(), expected[part], "{element:?}");
        loaded.clear(&gpu, y);
        assert!(loaded.read(&gpu, y).unwrap().iter().all(|value| *value == 0.0), "{element:?}");
    }
}

/// What a process of its own says of a driver, before this program trusts it with forms that few programs use.
#[test]
fn a_form_that_the_driver_survives_is_told_by_the_process_that_tried_it() {
    if common::device().is_none() {
        return;
    }
    let output = rosette().args(["probe", "tiled", "winograd"]).output().expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    let (at, verdicts): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.starts_with("at "));
    assert_eq!(verdicts, ["form tiled", "survived tiled", "form winograd", "survived winograd"]);
    assert!(at.contains(&"at conv2d in f32") && at.contains(&"at whole steps in f32"), "{at:?}");
}
