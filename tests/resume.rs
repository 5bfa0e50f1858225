//! Trainings that end before their time (killed, told to stop, with a damaged checkpoint) and go on to the same bytes.
//!
//! `ROSETTE_KILLS=100 cargo test --release --test resume kill` kills a hundred times instead of a few.

mod common;
#[path = "common/workshop.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod workshop;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rosette::interop::read_safetensors_with;
use workshop::Workshop;

/// Four epochs of six steps, with augmentation, a schedule that acts and a checkpoint after every step.
const SETTINGS: [&str; 6] = [
    "num_epochs=4",
    "patches_per_sample=6",
    "batch_size=2",
    "patience=2",
    "learning_rate=0.01",
    "augmentation.elastic_transform=0.5",
];
const CHECKPOINTS: [&str; 2] = ["--checkpoint-every", "0"];

/// The same with everything that has a state of its own: four batches of six a step and two in the epoch's last, averages,
/// clipping, a rate that changes with every step.
const PRACTICE: [&str; 12] = [
    "--override",
    "accumulation=4",
    "--override",
    "ema_decay=0.8",
    "--override",
    "clip_norm=0.2",
    "--override",
    "scheduler=cosine",
    "--override",
    "warmup_epochs=1.5",
    "--override",
    "min_learning_rate=0.0001",
];

fn command(workshop: &Workshop, out: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rosette"));
    let given = ["--config", "config.yaml", "--experiment-name", "tiny", "--split-manifest", "split.json"];
    command.arg("train").args(given).args(["--data-dir", "data", "--output-dir", out, "--no-timestamp"]);
    command.args(SETTINGS.map(|setting| ["--override", setting]).as_flattened()).args(more);
    command.current_dir(workshop.path("")).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Trains to the end; standard error.
fn finish(workshop: &Workshop, out: &str, more: &[&str]) -> String {
    let output = command(workshop, out, more).output().expect("the binary runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stderr)
}

/// What must not depend on how often a training was interrupted: weights, and metrics but for the times.
fn result(workshop: &Workshop, out: &str) -> (Vec<u8>, Vec<String>) {
    let metrics = std::fs::read_to_string(workshop.path(out).join("metrics.csv")).expect("a metrics.csv");
    let rows = metrics.lines().map(|line| line.rsplitn(3, ',').last().expect("columns").to_string());
    (std::fs::read(workshop.path(out).join("best_model.pth")).expect("weights"), rows.collect())
}

fn assert_alike(workshop: &Workshop, out: &str, how: &str) {
    let (weights, rows) = result(workshop, out);
    let (expected, expected_rows) = result(workshop, "whole");
    assert_eq!(rows, expected_rows, "{how}");
    assert!(weights == expected, "{how}: other weights");
    let left = |name: &str| workshop.path(out).join(name).exists();
    assert!(!left(".best_model.pth"), "{how}");
    assert!(!left("last.safetensors") && !left("previous.safetensors") && !left(".rosette.lock"), "{how}");
}

/// Waits until a checkpoint has been written so many times, or the process has ended.
fn wait_for_checkpoints(child: &mut Child, path: &Path, count: usize) {
    let written = || std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let (mut seen, mut last, started) = (0, None, Instant::now());
    while seen < count && child.try_wait().expect("a child").is_none() {
        assert!(started.elapsed() < Duration::from_secs(120), "no checkpoint");
        let now = written();
        if now.is_some() && now != last {
            (seen, last) = (seen + 1, now);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_killed_training_goes_on_to_the_same_bytes() {
    survives_kills(&[], 4);
}

#[test]
fn a_killed_training_with_averages_accumulation_and_clipping_goes_on_to_the_same_bytes() {
    survives_kills(&PRACTICE, 3);
}

/// Kills trainings with these settings `usual` times, or as often as the environment says.
fn survives_kills(settings: &[&str], usual: usize) {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let saved = [settings, &CHECKPOINTS].concat();
    let started = Instant::now();
    finish(&workshop, "whole", settings);
    let whole = started.elapsed();
    let kills: usize = std::env::var("ROSETTE_KILLS").map_or(usual, |n| n.parse().expect("a number"));
    let (mut resumed, mut run) = (0, 0);
    let mut left = kills;
    while left > 0 {
        let out = format!("killed{run}");
        run += 1;
        // A few kills a run, at moments that differ from kill to kill, down to before the first checkpoint.
        for kill in 0..left.min(3) {
            let mut child = command(&workshop, &out, &saved).spawn().expect("the binary runs");
            let share = ((left * 7 + kill * 5) % 23) as f64 / 23.0;
            std::thread::sleep(whole.mul_f64(share));
            child.kill().expect("a child");
            child.wait().expect("a child");
            // As Snakemake does with the outputs of a job that did not end.
            let _ = std::fs::remove_file(workshop.path(&out).join("best_model.pth"));
        }
        left -= left.min(3);
        let said = finish(&workshop, &out, &saved);
        resumed += usize::from(said.contains("going on in epoch"));
        assert!(!said.contains("passed over"), "{said}");
        assert_alike(&workshop, &out, &out);
        std::fs::remove_dir_all(workshop.path(&out)).expect("a directory");
    }
    println!("{kills} kills in {run} trainings, {resumed} of which went on {settings:?}");
    assert!(resumed > 0, "no training went on from a checkpoint");
}

#[test]
#[cfg(unix)]
fn a_training_that_is_told_to_stop_saves_and_goes_on() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    finish(&workshop, "whole", &[]);
    for (signal, checkpoints) in [("-TERM", 2), ("-INT", 9)] {
        let mut child = command(&workshop, "out", &CHECKPOINTS).spawn().expect("the binary runs");
        wait_for_checkpoints(&mut child, &workshop.path("out/last.safetensors"), checkpoints);
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
        let output = child.wait_with_output().expect("a child");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains("stopped by a signal in epoch"), "{said}");
        assert!(said.contains("the same command goes on from there"), "{said}");
    }
    let said = finish(&workshop, "out", &[]);
    assert!(said.contains("going on in epoch"), "{said}");
    assert_alike(&workshop, "out", "after two signals");
}

#[test]
fn a_training_with_averages_goes_on_in_the_middle_of_a_step() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    for precision in ["precision=f32", "precision=f16"] {
        if precision.ends_with("f16") && common::device().is_some_and(|gpu| !gpu.limits().f16) {
            continue;
        }
        let practice = [&PRACTICE[..], &["--override", precision]].concat();
        let _ = std::fs::remove_dir_all(workshop.path("whole"));
        finish(&workshop, "whole", &practice);
        let saved = [&practice[..], &CHECKPOINTS].concat();
        // After the first of all, then one batch, then all of a step and a batch more at a time.
        let mut middles = 0;
        for checkpoints in [2, 3, 6, 6] {
            interrupted(&workshop, "out", &saved, checkpoints);
            let bytes = std::fs::read(workshop.path("out/last.safetensors")).expect("a checkpoint");
            let head = String::from_utf8_lossy(&bytes[..bytes.len().min(65536)]).into_owned();
            middles += usize::from(head.contains("\"gradients\""));
        }
        assert!(middles > 0, "no interruption fell within a step");
        let said = finish(&workshop, "out", &practice);
        assert!(said.contains("going on in epoch"), "{said}");
        assert_alike(&workshop, "out", precision);
        std::fs::remove_dir_all(workshop.path("out")).expect("a directory");
    }
}

/// Starts a training and kills it after some checkpoints.
fn interrupted(workshop: &Workshop, out: &str, more: &[&str], checkpoints: usize) {
    let mut child = command(workshop, out, more).spawn().expect("the binary runs");
    wait_for_checkpoints(&mut child, &workshop.path(out).join("last.safetensors"), checkpoints);
    child.kill().expect("a child");
    child.wait().expect("a child");
}

/// Both are written beside the training, one after the other.
#[test]
fn a_checkpoint_speaks_of_weights_that_are_on_the_disk() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    for checkpoints in [8, 9] {
        interrupted(&workshop, "out", &CHECKPOINTS, checkpoints);
        let (_, texts) = read_safetensors_with(&workshop.path("out/last.safetensors")).expect("a checkpoint");
        let header: serde_json::Value = serde_json::from_str(&texts["state"]).expect("JSON");
        let state = &header["state"];
        assert!(state["epoch"].as_u64() > Some(1) && state["best"].is_object(), "{state}");
        let sha256 = state["best_sha256"].as_str().expect("known");
        let written = std::fs::read_to_string(workshop.path("out/.best_model.sha256")).expect("a list");
        assert!(written.lines().any(|line| line == sha256), "{sha256}: {written}");
    }
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    finish(&workshop, "whole", &[]);
    interrupted(&workshop, "out", &CHECKPOINTS, 10);
    let path = workshop.path("out/last.safetensors");
    let mut bytes = std::fs::read(&path).expect("a checkpoint");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("a writable file");
    let said = finish(&workshop, "out", &[]);
    assert!(said.contains("passed over") && said.contains("another checksum"), "{said}");
    assert!(said.contains("going on in epoch"), "{said}");
    assert_alike(&workshop, "out", "from the one before");
}

#[test]
fn another_training_in_the_same_place_starts_anew_and_keeps_the_old_weights() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    interrupted(&workshop, "out", &CHECKPOINTS, 10);
    let said = finish(&workshop, "out", &["--override", "num_epochs=1", "--override", "seed=8"]);
    assert!(!said.contains("going on"), "{said}");
    assert!(said.contains("is given up: num_epochs (4, now 1), seed (7, now 8)"), "{said}");
    let restarted = ["--restart", "--override", "num_epochs=1", "--override", "seed=8"];
    let first = std::fs::read(workshop.path("out/best_model.pth")).expect("weights");
    finish(&workshop, "out", &restarted);
    assert!(std::fs::read(workshop.path("out/best_model.old.pth")).expect("the older weights") == first);
    assert!(
        std::fs::read(workshop.path("out/best_model.pth")).expect("weights") == first,
        "the same training"
    );
}

#[test]
fn a_second_training_in_the_same_place_is_told_who_holds_it() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let mut first =
        command(&workshop, "out", &["--override", "num_epochs=1000", "--override", "patience=1000"])
            .spawn()
            .expect("the binary runs");
    wait_for_checkpoints(&mut first, &workshop.path("out/last.safetensors"), 1);
    let second = command(&workshop, "out", &[]).output().expect("the binary runs");
    let id = first.id();
    first.kill().expect("a child");
    first.wait().expect("a child");
    let said = text(&second.stderr);
    assert_eq!(second.status.code(), Some(2), "{said}");
    assert!(said.contains(&format!("one held by process {id} since 2")), "{said}");
    finish(&workshop, "out", &["--override", "num_epochs=1"]);
}

#[test]
fn weights_of_another_training_are_not_taken_for_those_of_a_killed_one() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    finish(&workshop, "whole", &[]);
    // Members are assembled where a plain training was killed; then the plain one comes again.
    interrupted(&workshop, "out", &CHECKPOINTS, 9);
    let said = finish(&workshop, "out", &["--override", "seeds=[3]", "--override", "num_epochs=1"]);
    assert!(said.contains("is given up for the members"), "{said}");
    assert!(
        !workshop.path("out/last.safetensors").exists() && !workshop.path("out/.best_model.pth").exists()
    );
    let said = finish(&workshop, "out", &[]);
    assert!(!said.contains("going on in epoch"), "{said}");
    assert_alike(&workshop, "out", "after members");
    // Foreign weights in place of its own: the second name is taken, and without it the training starts anew.
    for keeps_second in [true, false] {
        std::fs::remove_dir_all(workshop.path("out")).expect("a directory");
        interrupted(&workshop, "out", &CHECKPOINTS, 9);
        workshop.write("other.pth", "another training's");
        std::fs::rename(workshop.path("other.pth"), workshop.path("out/best_model.pth")).expect("a file");
        if !keeps_second {
            std::fs::remove_file(workshop.path("out/.best_model.pth")).expect("a second name");
        }
        let said = finish(&workshop, "out", &[]);
        assert_eq!(said.contains("going on in epoch"), keeps_second, "{said}");
        assert_eq!(said.contains("it starts anew"), !keeps_second, "{said}");
        assert_alike(&workshop, "out", "foreign weights");
    }
}

#[test]
fn members_are_not_put_into_a_directory_that_another_process_holds() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let long = ["--override", "num_epochs=1000", "--override", "patience=1000"];
    let mut first = command(&workshop, "out", &long).spawn().expect("the binary runs");
    wait_for_checkpoints(&mut first, &workshop.path("out/last.safetensors"), 1);
    let second = command(&workshop, "out", &["--override", "seeds=[3]"]).output().expect("the binary runs");
    let is_left = workshop.path("out/last.safetensors").exists();
    let id = first.id();
    first.kill().expect("a child");
    first.wait().expect("a child");
    let said = text(&second.stderr);
    assert_eq!(second.status.code(), Some(2), "{said}");
    assert!(said.contains(&format!("one held by process {id} since 2")) && is_left, "{said}");
}
