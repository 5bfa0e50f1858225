//! Whole trainings, tiny: that they learn, that they repeat bit for bit, that they start from given weights, and what
//! they write.

mod common;
#[path = "common/workshop.rs"]
mod workshop;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rosette::config::Skip;
use rosette::data::loader::{Dataset, ValBatches};
use rosette::exchange::{Format, export};
use rosette::inference::Model;
use rosette::interop::{TensorData, Values, read_pth, read_safetensors};
use rosette::model::{AttentionUNet, Spec};
use rosette::ops::segmentation_loss::SegmentationLoss;
use rosette::report::RunRecord;
use rosette::report::metrics::read_metrics;
use rosette::tape::Element;
use rosette::train::{Metrics, Session, StepSettings, Tally, load_weights, save_weights};
use sha2::{Digest, Sha256};

use workshop::{Form, Workshop, sample, tissue};

const PATCH_PX: usize = 32;
/// Within so many steps a batch is learnt by heart; the loss passes 0.05 after about 50.
const STEPS: usize = 80;

/// A network of the workshop's configuration on a device, where there is one.
fn session() -> Option<Session> {
    session_storing(Element::F32)
}

fn session_storing(element: Element) -> Option<Session> {
    let net = AttentionUNet::new(Spec { in_channels: 2, base_channels: 8, skip: Skip::Full });
    let settings = StepSettings { element, ..StepSettings::new(PATCH_PX) };
    let gpu = common::device()?;
    if element == Element::F16 && !gpu.limits().f16 {
        println!("SKIPPED: the adapter has no f16");
        return None;
    }
    Some(Session::new(gpu, net, settings).expect("memory enough"))
}

/// The rows of a metrics.csv without the two columns that tell times.
fn rows_without_times(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("a metrics.csv");
    text.lines().map(|line| line.rsplitn(3, ',').last().expect("columns").to_string()).collect()
}

/// Runs a training that must succeed; standard output and standard error.
fn train(workshop: &Workshop, changed: &[&str]) -> (String, String) {
    let output = workshop.train(changed).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{changed:?}: {}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

fn tensors_by_name(tensors: Vec<TensorData>) -> HashMap<String, TensorData> {
    tensors.into_iter().map(|t| (t.name.clone(), t)).collect()
}

#[test]
fn the_same_training_twice_gives_the_same_bytes() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    for out in ["first", "second"] {
        let settings = ["--override", "num_epochs=2", "--override", "patches_per_sample=3"];
        train(&workshop, &[&["--output-dir", out, "--no-timestamp"], &settings[..]].concat());
    }
    let read = |name: &str| std::fs::read(workshop.path(name)).expect(name);
    assert!(read("first/best_model.pth") == read("second/best_model.pth"), "the weights differ");
    let rows = |out: &str| rows_without_times(&workshop.path(out).join("metrics.csv"));
    assert_eq!(rows("first"), rows("second"));
    assert_eq!(rows("first").len(), 3);

    train(&workshop, &["--output-dir", "other", "--no-timestamp", "--override", "seed=8"]);
    assert_ne!(rows("first")[1], rows("other")[1], "the seed changes nothing");
}

/// Where the samples lie must not change what is learnt: each patch is made of its own numbers.
#[test]
fn streamed_samples_train_to_the_same_bytes() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let settings =
        ["--override", "patches_per_sample=4", "--override", "batch_size=1", "--override", "patch_size=32"];
    let elastic = ["--override", "augmentation.elastic_transform=0.9"];
    for (out, budget) in [("resident", "1.0"), ("streamed", "0")] {
        let budget = format!("data.memory_budget={budget}");
        let own = ["--output-dir", out, "--no-timestamp", "--override", &budget];
        train(&workshop, &[&own[..], &settings, &elastic].concat());
    }
    let read = |name: &str| std::fs::read(workshop.path(name)).expect(name);
    assert!(read("resident/best_model.pth") == read("streamed/best_model.pth"), "the weights differ");
    let log = |out: &str| String::from_utf8_lossy(&read(&format!("{out}/training.log"))).into_owned();
    assert!(log("resident").contains("training samples stay on the device"));
    assert!(log("streamed").contains("training samples are streamed to the device"));
    assert!(log("streamed").contains("rosettes in "));
}

/// Two patches whose target is to be found by the width of the cells.
fn batch() -> (Vec<f32>, Vec<f32>) {
    let (mut x, mut target) = (Vec::new(), Vec::new());
    for (patch, at) in (0..2 * PATCH_PX * PATCH_PX).map(|at| (at / PATCH_PX.pow(2), at % PATCH_PX.pow(2))) {
        let (row, column) = (at / PATCH_PX, at % PATCH_PX);
        let inside = (8..24).contains(&row) && (4 + 8 * patch..20 + 8 * patch).contains(&column);
        let cell_px = if inside { 4 } else { 8 };
        let boundary = row % cell_px == 0 || column % cell_px == 0;
        x.extend([f32::from(boundary), 1.0, 0.0, 0.0]);
        target.push(f32::from(inside));
    }
    (x, target)
}

#[test]
fn one_batch_is_learnt_by_heart() {
    let Some(session) = session() else { return };
    learn_by_heart(session);
}

#[test]
fn one_batch_is_learnt_by_heart_in_f16() {
    let Some(session) = session_storing(Element::F16) else { return };
    learn_by_heart(session);
}

/// A scale that overflows halves until it fits; those steps change nothing, and the counts say so.
#[test]
fn a_step_that_overflows_f16_is_skipped_and_the_scale_halves() {
    let Some(mut session) = session_storing(Element::F16) else { return };
    session.set_tensors(&session.net().initial(3));
    let mut buffers = session.buffers().expect("it runs");
    let weights = buffers["weights"].clone();
    buffers.insert("loss scaling".into(), [&[16_777_216.0, 0.0, 5.0, 0.0][..], &[0.0; 124]].concat());
    session.restore(&buffers, 5, 5).expect("its own buffers");
    let (x, target) = batch();
    let target: Vec<f32> = target.iter().map(|t| 1.0 - t).collect();
    let mut before = 16_777_216.0;
    let mut skipped = 0;
    loop {
        let pending = session.start_training_step(&x, &target, 1e-2).expect("it runs");
        let result = session.finish(pending).expect("it runs");
        let scaling = result.scaling.expect("f16 scales the loss");
        assert!(result.loss.is_finite(), "the loss itself is not scaled");
        let now = session.buffers().expect("it runs")["weights"].clone();
        if scaling.skipped_steps == (5 + skipped) as f32 {
            assert!(now != weights, "a good step changes the weights");
            break;
        }
        skipped += 1;
        assert_eq!((scaling.scale, scaling.skipped_steps), (before / 2.0, (5 + skipped) as f32));
        assert!(now == weights, "a skipped step changed the weights");
        before = scaling.scale;
        assert!(skipped < 20, "never a good step");
    }
    assert!(skipped > 0, "a scale of 2^24 overflows nothing here: the test tests nothing");
}

fn learn_by_heart(mut session: Session) {
    session.set_tensors(&session.net().initial(3));
    session.prepare(true, 2).expect("memory enough");
    session.prepare(false, 2).expect("memory enough");
    session.poison();
    let (x, target) = batch();
    let mut losses = Vec::new();
    for _ in 0..STEPS {
        let pending = session.start_training_step(&x, &target, 1e-2).expect("it runs");
        losses.push(session.finish(pending).expect("it runs").loss);
    }
    println!("losses {losses:?}");
    assert!(losses[0] > 0.5, "the first loss is {}", losses[0]);
    assert!(losses[STEPS - 1] < 0.05, "the last loss is {}", losses[STEPS - 1]);

    let pending = session.start_evaluation(&x, &target, false).expect("it runs");
    let result = session.finish(pending).expect("it runs");
    let mut tally = Tally::new(2);
    result.sums.iter().enumerate().for_each(|(image, sums)| tally.add(image, sums));
    let f1 = tally.metrics(&SegmentationLoss::bce_dice(0.5)).f1;
    println!("evaluation: loss {}, F1 {f1}", result.loss);
    assert!(f1 > 0.9, "F1 {f1} on the batch that was learnt");
}

/// The validation of sample C under some weights, and the pixels that were scored, without the training loop.
fn evaluate(session: &mut Session, workshop: &Workshop, weights: &Path) -> (Metrics, f64) {
    let (tensors, _) = load_weights(weights, session.net()).expect("weights of this network");
    session.set_tensors(&tensors);
    let dataset = Dataset::load(&workshop.path("data"), &["C".to_string()], false, 1).expect("sample C");
    let (mut tally, mut pixels) = (Tally::new(1), 0.0);
    for batch in ValBatches::start(Arc::new(dataset), PATCH_PX, 1) {
        let pending = session.start_evaluation(&batch.x, &batch.y, false).expect("it runs");
        let result = session.finish(pending).expect("it runs");
        tally.add(0, &result.sums[0]);
        pixels += f64::from(result.sums[0][7]);
    }
    (tally.metrics(&SegmentationLoss::bce_dice(0.5)), pixels)
}

#[test]
fn the_best_model_is_the_one_of_the_lowest_validation_loss() {
    let Some(mut session) = session() else { return };
    let workshop = Workshop::new();
    let many = ["--override", "num_epochs=5", "--override", "learning_rate=0.02"];
    train(&workshop, &[&["--no-timestamp"], &many[..]].concat());
    let rows = read_metrics(&workshop.path("out/metrics.csv")).expect("a metrics.csv");
    let best =
        RunRecord::read(&workshop.path("out/config.json")).expect("a record").best.expect("a best epoch");
    let lowest = rows.iter().map(|row| row.val_loss).fold(f64::INFINITY, f64::min);
    assert_eq!(best.val_loss, lowest);
    assert_eq!(rows[best.epoch - 1].val_loss, lowest);
    // One tile at a time here, two there: the sums of an image add up in another order.
    let (metrics, _) = evaluate(&mut session, &workshop, &workshop.path("out/best_model.pth"));
    assert!((metrics.loss - best.val_loss).abs() < 1e-5, "{} is not {}", metrics.loss, best.val_loss);
    assert!((metrics.f1 - best.val_f1).abs() < 1e-5, "{} is not {}", metrics.f1, best.val_f1);
}

/// Trains one step from a file at a learning rate that moves nothing: all but the running statistics stay, and
/// these move by a tenth.
fn stays_at(workshop: &Workshop, weights: &str, given: HashMap<String, TensorData>) {
    let still = ["--override", "learning_rate=1e-9", "--init-weights", weights];
    train(workshop, &[&["--no-timestamp"], &still[..]].concat());
    let found = tensors_by_name(read_pth(&workshop.path("out/best_model.pth")).expect("weights"));
    let (mut compared, mut moved) = (0, 0);
    for (name, found) in &found {
        match (&given[name].values, &found.values) {
            (Values::F32(given), Values::F32(found)) if name.contains("running") => {
                moved += usize::from(given != found);
            }
            (Values::F32(given), Values::F32(found)) => {
                let difference = given.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(difference < 1e-6, "{name} moved by {difference}");
                compared += 1;
            }
            (Values::I64(given), Values::I64(found)) => assert_eq!(given[0] + 1, found[0], "{name}"),
            _ => panic!("{name} has another type"),
        }
    }
    assert_eq!(given.len(), found.len());
    assert!(compared > 80 && moved > 40, "{compared} weights compared, {moved} statistics moved");
}

#[test]
fn a_training_starts_from_the_weights_it_is_given() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    train(&workshop, &["--output-dir", "before", "--no-timestamp", "--override", "num_epochs=2"]);
    let before = read_pth(&workshop.path("before/best_model.pth")).expect("weights");
    stays_at(&workshop, "before/best_model.pth", tensors_by_name(before));
}

/// What a result can be traced by.
fn is_a_model_card(record: &RunRecord, weights: &Path) {
    assert_eq!(record.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(record.precision_used, "f32");
    assert!(record.device.len() > 3, "{}", record.device);
    let [train, val] = record.data_sha256.as_ref().expect("the samples' checksums");
    assert!(train.len() == 64 && val.len() == 64 && train != val);
    let found = rosette::files::hex(&Sha256::digest(std::fs::read(weights).expect("weights")));
    assert_eq!(record.weights_sha256.as_ref(), Some(&found));
}

/// Fine-tuning: from the exported weights of another training, in either format or as its directory, the validation
/// loss before the first step is that training's best, and the record and the log say so.
#[test]
fn a_training_from_exported_weights_starts_at_their_validation_loss() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let long = ["--override", "num_epochs=3", "--override", "learning_rate=0.01"];
    train(&workshop, &[&["--output-dir", "before", "--no-timestamp"], &long[..]].concat());
    let record = RunRecord::read(&workshop.path("before/config.json")).expect("a record");
    is_a_model_card(&record, &workshop.path("before/best_model.pth"));
    let best = record.best.expect("a best epoch");
    for format in ["pth", "safetensors"] {
        let exported = format!("given.{format}");
        let arguments = ["export", "--model", "before", "--format", format, "--output", &exported];
        let done =
            workshop::rosette().args(arguments).current_dir(workshop.path("")).output().expect("it runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    for given in ["given.pth", "given.safetensors", "before"] {
        let from = ["--no-timestamp", "--restart", "--override", "seed=8", "--init-weights", given];
        train(&workshop, &from);
        let record = RunRecord::read(&workshop.path("out/config.json")).expect("a record");
        let start = record.init_weights.expect("what it started from");
        for (found, expected) in [(start.val_loss, best.val_loss), (start.val_f1, best.val_f1)] {
            assert!((found - expected).abs() < 1e-5, "{given}: {found} is not {expected}");
        }
        let log = std::fs::read_to_string(workshop.path("out/training.log")).expect("a log");
        assert!(log.contains(&format!("validation loss {:.4}, IoU", best.val_loss)), "{log}");
        assert!(log.contains("before the first step"), "{log}");
    }
}

#[test]
fn initial_weights_of_the_other_skip_variant_are_told() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let from_it = ["--no-timestamp", "--init-weights", "before/best_model.pth"];
    train(&workshop, &["--output-dir", "before", "--no-timestamp"]);
    train(&workshop, &[&["--output-dir", "same"], &from_it[..]].concat());
    train(&workshop, &[&["--output-dir", "other", "--override", "skip=pooled"], &from_it[..]].concat());
    let log =
        |run: &str| std::fs::read_to_string(workshop.path(&format!("{run}/training.log"))).expect("a log");
    assert!(log("other").contains("another function"));
    assert!(!log("same").contains("another function"));

    // A safetensors file has its record in its header.
    let (before, alone) = (workshop.path("before"), workshop.path("alone/w.safetensors"));
    export(&Model::open(&before, None).expect("a model"), &Format::Safetensors, &alone)
        .expect("it is written");
    let from_it = ["--no-timestamp", "--init-weights", "alone/w.safetensors"];
    train(
        &workshop,
        &[&["--output-dir", "other_header", "--override", "skip=pooled"], &from_it[..]].concat(),
    );
    assert!(log("other_header").contains("another function"));
}

#[test]
fn a_training_starts_from_weights_that_pytorch_wrote() {
    if common::device().is_none() {
        return;
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/net_weights.safetensors");
    let given = tensors_by_name(read_safetensors(&golden).expect("the golden"));
    let workshop = Workshop::new();
    stays_at(&workshop, golden.to_str().expect("a plain path"), given.clone());

    let net = AttentionUNet::new(Spec { in_channels: 2, base_channels: 8, skip: Skip::Full });
    let (tensors, batches_tracked) = load_weights(&golden, &net).expect("the golden fits");
    save_weights(&workshop.path("golden.pth"), &tensors, batches_tracked).expect("a writable file");
    stays_at(&workshop, "golden.pth", given);
}

fn is_png(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x89PNG\r\n\x1a\n") && bytes.len() > 1000)
}

#[test]
fn everything_that_the_description_names_is_written() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let (said, progress) = train(&workshop, &["--no-timestamp", "--log-file", "logs/deep/tiny.log"]);
    let mut names: Vec<PathBuf> = workshop.files().into_keys().collect();
    names.retain(|path| path.starts_with(workshop.path("out")));
    let expected = [
        "best_model.pth",
        "config.json",
        "metrics.csv",
        "predictions.png",
        "report.html",
        "training.log",
        "training_plots.png",
    ];
    let events = names.iter().position(|path| path.starts_with(workshop.path("out/tensorboard")));
    names.remove(events.expect("a file of TensorBoard events, named by time and process"));
    assert_eq!(names, expected.map(|name| workshop.path("out").join(name)));
    assert!(
        is_png(&workshop.path("out/training_plots.png")) && is_png(&workshop.path("out/predictions.png"))
    );
    let record = RunRecord::read(&workshop.path("out/config.json")).expect("a record");
    assert_eq!((record.experiment_name.as_str(), record.approach.as_str()), ("tiny", "attention_geometric"));
    assert_eq!((record.epochs_trained, record.best.expect("a best epoch").epoch), (1, 1));
    assert_eq!((record.model.base_channels, record.training.seed), (8, 7));
    let header =
        "epoch,train_loss,val_loss,val_iou,val_f1,val_precision,val_recall,learning_rate,skipped_steps";
    assert_eq!(rows_without_times(&workshop.path("out/metrics.csv"))[0], header);

    let log = std::fs::read_to_string(workshop.path("out/training.log")).expect("a log");
    assert_eq!(log, std::fs::read_to_string(workshop.path("logs/deep/tiny.log")).expect("a second log"));
    assert!(log.contains("experiment 'tiny' on") && log.contains("INFO epoch 1: train loss"), "{log}");
    assert!(said.starts_with("best epoch 1 of 1: validation loss") && said.lines().count() == 1, "{said}");
    assert!(progress.contains("2 training and 1 validation samples"), "{progress}");
    assert!(progress.contains("epoch 1/1: loss "), "{progress}");
}

/// The only directory in another.
fn only_child(dir: &Path) -> PathBuf {
    let children: Vec<_> =
        std::fs::read_dir(dir).expect("a directory").map(|e| e.expect("an entry").path()).collect();
    assert_eq!(children.len(), 1, "{children:?}");
    children[0].clone()
}

#[test]
fn without_no_timestamp_a_run_has_a_directory_of_its_own() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    for name in ["A", "B", "C"] {
        workshop.write(&sample(name), tissue(40, 40, Form::Stacked));
    }
    let runs = [("tiny", "run_attention_geometric_"), ("tiny_intensity", "run_attention_intensity_")];
    for (experiment, prefix) in runs {
        let (_, progress) =
            train(&workshop, &["--experiment-name", experiment, "--output-dir", experiment, "--quiet"]);
        assert!(!progress.contains("epoch") && !progress.contains("experiment"), "{progress}");
        let run = only_child(&workshop.path(experiment));
        let name = run.file_name().and_then(|name| name.to_str()).expect("a plain name");
        let time = name.strip_prefix(prefix).unwrap_or_else(|| panic!("{name}"));
        let digits: Vec<bool> = time.chars().map(|c| c.is_ascii_digit()).collect();
        assert_eq!(
            digits.iter().map(|d| u8::from(*d)).collect::<Vec<_>>(),
            [1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1]
        );
        assert_eq!(time.as_bytes()[8], b'_');
        assert!(run.join("best_model.pth").is_file() && run.join("training.log").is_file());
    }
    let weights = |experiment: &str| {
        tensors_by_name(
            read_pth(&only_child(&workshop.path(experiment)).join("best_model.pth")).expect("weights"),
        )
    };
    assert_eq!(weights("tiny")["enc1.0.weight"].shape, [8, 2, 3, 3]);
    assert_eq!(weights("tiny_intensity")["enc1.0.weight"].shape, [8, 3, 3, 3]);
}

#[test]
fn images_smaller_than_a_patch_validate_and_both_layouts_give_the_same() {
    let Some(mut session) = session() else { return };
    let workshop = Workshop::new();
    let mut rows = Vec::new();
    for (out, form) in [("separate", Form::Separate), ("stacked", Form::Stacked)] {
        for (name, height, width) in [("A", 28, 44), ("B", 70, 33), ("C", 20, 60)] {
            workshop.write(&sample(name), tissue(height, width, form));
        }
        train(&workshop, &["--output-dir", out, "--no-timestamp"]);
        rows.push(rows_without_times(&workshop.path(out).join("metrics.csv")));
        assert!(is_png(&workshop.path(out).join("predictions.png")));
    }
    assert_eq!(rows[0], rows[1]);
    let (metrics, pixels) = evaluate(&mut session, &workshop, &workshop.path("stacked/best_model.pth"));
    assert_eq!(pixels, 20.0 * 60.0, "every pixel of the image is scored once");
    let row = read_metrics(&workshop.path("stacked/metrics.csv")).expect("a metrics.csv")[0];
    assert!((row.val_loss - metrics.loss).abs() < 1e-5, "{} is not {}", row.val_loss, metrics.loss);
}

#[test]
fn training_stops_once_it_no_longer_improves() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let settings = ["num_epochs=60", "patience=2", "learning_rate=0.05"];
    let overrides = settings.map(|setting| ["--override", setting]);
    let (said, progress) = train(&workshop, &[&["--no-timestamp"], overrides.as_flattened()].concat());
    let rows = read_metrics(&workshop.path("out/metrics.csv")).expect("a metrics.csv");
    let record = RunRecord::read(&workshop.path("out/config.json")).expect("a record");
    let best = record.best.expect("a best epoch").epoch;
    assert!(rows.len() < 60, "all {} epochs were trained", rows.len());
    assert_eq!((rows.len(), record.epochs_trained), (best + 2, best + 2), "{progress}");
    assert!(said.starts_with(&format!("best epoch {best} of {}:", rows.len())), "{said}");
}
