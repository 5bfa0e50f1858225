//! `metrics.csv`, `config.json`, the log files and the lines of progress.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rosette::config::{Config, Experiment};
use rosette::report::metrics::{best_epoch, read_metrics};
use rosette::report::{BestEpoch, EpochRow, MetricsLog, Mode, Progress, RunRecord, logging};

fn row(epoch: usize, val_loss: f64) -> EpochRow {
    EpochRow {
        epoch,
        train_loss: 0.1 + 0.2,
        val_loss,
        val_iou: 1.0 / 3.0,
        val_f1: 0.5,
        val_precision: 0.0,
        val_recall: 1.0,
        learning_rate: 1e-4,
        skipped_steps: 0,
        seconds: 75.25,
        patches_per_second: 12.5,
    }
}

const HEADER: &str = "epoch,train_loss,val_loss,val_iou,val_f1,val_precision,val_recall,learning_rate,skipped_steps,seconds,patches_per_second\n";

#[test]
fn metrics_are_written_after_every_epoch_with_the_shortest_digits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/metrics.csv");
    let mut log = MetricsLog::create(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), HEADER);
    log.push(row(1, 0.75)).unwrap();
    let first = "1,0.30000000000000004,0.75,0.3333333333333333,0.5,0.0,1.0,0.0001,0,75.25,12.5\n";
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{HEADER}{first}"));
    log.push(row(2, f64::MIN_POSITIVE)).unwrap();
    log.push(row(3, f64::INFINITY)).unwrap();
    assert_eq!(read_metrics(&path).unwrap(), log.rows());
    log.push(row(4, f64::NAN)).unwrap();
    assert!(read_metrics(&path).unwrap()[3].val_loss.is_nan());
}

#[test]
fn a_resumed_run_drops_the_epochs_it_will_train_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.csv");
    let mut log = MetricsLog::create(&path).unwrap();
    let mut text = String::new();
    for epoch in 1..=5 {
        log.push(row(epoch, 0.5)).unwrap();
        if epoch == 3 {
            text = log.text();
        }
    }
    let mut resumed = MetricsLog::resume(&path, &text).unwrap();
    assert_eq!(resumed.rows().len(), 3);
    resumed.push(row(4, 0.25)).unwrap();
    let epochs: Vec<usize> = read_metrics(&path).unwrap().iter().map(|row| row.epoch).collect();
    assert_eq!(epochs, [1, 2, 3, 4]);
}

#[test]
fn damaged_metrics_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.csv");
    for (text, phrase) in [
        ("", "the header epoch,train_loss"),
        ("epoch,loss\n1,2\n", "found \"epoch,loss\""),
        (&format!("{HEADER}1,2,3\n"), "one row of numbers per epoch"),
        (&format!("{HEADER}1,x,3,4,5,6,7,8,9,10,11\n"), "line: 2"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = read_metrics(&path).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(phrase), "no {phrase:?} in {error}");
    }
}

#[test]
fn the_best_epoch_is_the_first_of_the_lowest_validation_loss() {
    let best = |losses: &[f64]| {
        let rows: Vec<EpochRow> = losses.iter().enumerate().map(|(i, &loss)| row(i + 1, loss)).collect();
        best_epoch(&rows).map(|row| row.epoch)
    };
    assert_eq!(best(&[0.5, 0.2, 0.3, 0.2]), Some(2));
    assert_eq!(best(&[f64::NAN, 0.4]), Some(2));
    assert_eq!((best(&[]), best(&[f64::NAN])), (None, None));
}

fn record() -> RunRecord {
    let config = Config::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config.yaml")).unwrap();
    let experiment = config.resolve("higher_lr", &["use_intensity=true".into()]).unwrap();
    RunRecord::new(&experiment, 31_394_477, "llvmpipe (Vulkan)")
}

#[test]
fn the_record_of_a_run_holds_every_setting_under_its_own_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    record().write(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = "experiment_name description approach architecture use_intensity patch_size num_classes \
        base_channels skip num_epochs batch_size learning_rate val_split seed patience patches_per_sample \
        weight_decay dice_weight foreground_share winograd recompute precision deterministic data augmentation report total_parameters device precision_used version data_sha256 weights_sha256 threshold best epochs_trained settings_from train_sample_list val_sample_list device_memory_bytes";
    assert_eq!(keys, expected.split_whitespace().collect::<Vec<_>>());
    assert_eq!(json["approach"], "attention_intensity");
    assert_eq!(json["learning_rate"], 0.01);
    assert_eq!(json["total_parameters"], 31_394_477);
    assert_eq!(json["augmentation"]["elastic_transform"], 0.25);
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["best"], serde_json::Value::Null);
    let mut other = Experiment::defaults("x");
    other.model.use_intensity = false;
    assert_eq!(RunRecord::new(&other, 1, "").approach, "attention_geometric");
}

#[test]
fn a_record_survives_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let mut record = record();
    (record.best, record.epochs_trained) = (Some(BestEpoch::from(&row(7, 0.25))), 22);
    record.write(&path).unwrap();
    let read = RunRecord::read(&path).unwrap();
    assert_eq!((read.best.as_ref().unwrap().epoch, read.epochs_trained), (7, 22));
    assert_eq!(read.experiment(), record.experiment());
    std::fs::write(&path, "{\"experiment_name\": 3}").unwrap();
    let said = RunRecord::read(&path).unwrap_err().to_string();
    assert!(
        said.contains("config.json: expected the record of a training run") && said.contains("line 1"),
        "{said}"
    );
}

/// Lines of a progress in a list, for a look at them.
fn captured(mode: Mode, epochs: usize) -> (Progress, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    let progress = Progress::with_sink(
        mode,
        epochs,
        Box::new(move |line: &str| sink.lock().unwrap().push(line.to_string())),
    );
    (progress, lines)
}

#[test]
fn plain_progress_is_one_line_per_epoch_with_the_time_left() {
    let (mut progress, lines) = captured(Mode::Plain, 100);
    progress.message("training on llvmpipe");
    for epoch in [1, 2] {
        progress.epoch_started(epoch, 8);
        (1..=8).for_each(|step| progress.step(step, 0.5, 20.0));
        progress.epoch_finished(&row(epoch, 0.75), epoch == 1);
    }
    let said = lines.lock().unwrap();
    assert_eq!(said[0], "training on llvmpipe");
    assert_eq!(
        said[1],
        "epoch 1/100: loss 0.3000, validation loss 0.7500, IoU 0.3333, F1 0.5000, 12.5 patches/s, 1 min 15 s, \
         at most 2 h 04 min left *best"
    );
    assert!(
        said[2].starts_with("epoch 2/100:") && said[2].ends_with("at most 2 h 02 min left"),
        "{}",
        said[2]
    );
    assert_eq!(said.len(), 3);
}

#[test]
fn long_epochs_say_where_they_are() {
    let (progress, lines) = captured(Mode::Plain, 3);
    let mut progress = progress.every(std::time::Duration::ZERO);
    progress.epoch_started(2, 40);
    progress.step(7, 0.51234, 19.96);
    assert_eq!(*lines.lock().unwrap(), ["epoch 2/3: step 7/40, loss 0.5123, 20.0 patches/s"]);
}

#[test]
fn the_last_epoch_has_no_time_left_and_a_bar_keeps_the_same_lines() {
    for mode in [Mode::Plain, Mode::Bar] {
        let (mut progress, lines) = captured(mode, 1);
        progress.epoch_started(1, 2);
        progress.step(1, f64::NAN, 0.0);
        progress.step(2, 0.5, 1.0);
        progress.epoch_finished(&row(1, 0.5), false);
        assert!(lines.lock().unwrap()[0].ends_with("12.5 patches/s, 1 min 15 s"), "{mode:?}");
    }
}

#[test]
fn quiet_progress_says_nothing() {
    let (mut progress, lines) = captured(Mode::Quiet, 3);
    progress.epoch_started(1, 2);
    progress.step(1, 0.5, 1.0);
    progress.epoch_finished(&row(1, 0.5), true);
    progress.message("done");
    assert!(lines.lock().unwrap().is_empty());
    assert_eq!(Mode::detect(true), Mode::Quiet);
}

/// One test for all of it: the log is the process's.
#[test]
fn each_training_of_a_process_has_its_own_log() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("a/training.log"), dir.path().join("b/training.log"));
    let extra = dir.path().join("all.log");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();

    let guard = logging::start(&[&first, &extra]).unwrap();
    tracing::info!(epoch = 3, "the first");
    std::thread::scope(|scope| drop(scope.spawn(|| tracing::info!("of another thread")).join()));
    tracing::debug!("a detail");
    drop(guard);
    tracing::info!("between the trainings");
    let guard = logging::start(&[&second, &extra]).unwrap();
    tracing::info!("the second");
    drop(guard);

    let lines: Vec<String> = read(&first).lines().map(String::from).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let (time, rest) = lines[0].split_once(' ').unwrap();
    assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    assert_eq!(rest.trim(), "INFO the first epoch=3");
    assert!(lines[1].ends_with("of another thread"));
    assert!(read(&second).ends_with("the second\n") && read(&second).lines().count() == 1);
    assert_eq!(read(&extra), read(&first) + &read(&second), "appended, nothing in between");
    assert!(!read(&extra).contains('\u{1b}'), "no colours");

    let blocked = first.join("below/a/file.log");
    assert_eq!(logging::start(&[&blocked]).unwrap_err().exit_code(), 2);
}
