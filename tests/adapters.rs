//! `rosette run` over several adapters, and beside another process: who holds what, and what the end of one does to the
//! others. The same adapter twice is two workers.

mod common;
#[path = "common/matrix.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod matrix;
#[path = "common/workshop.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod workshop;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use matrix::{RUN, config, run};
use rosette::train::DirLock;
use workshop::Workshop;

#[test]
fn several_adapters_train_to_the_same_bytes_as_one() {
    let Some(_) = common::device() else { return };
    let workshop = Workshop::new();
    workshop.write("config.yaml", config(""));
    run(&workshop, &[]);
    let weights = |name: &str| std::fs::read(workshop.path(name)).expect(name);
    let alone = [weights("results/tiny/best_model.pth"), weights("results/faster/best_model.pth")];
    std::fs::rename(workshop.path("results"), workshop.path("alone")).expect("a directory");
    // The same adapter twice is two workers.
    let said = run(&workshop, &["--adapters", "0,0"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("tiny: epoch 1/1") && said.err.contains("faster: epoch 1/1"), "{}", said.err);
    assert!([weights("results/tiny/best_model.pth"), weights("results/faster/best_model.pth")] == alone);
}

#[test]
fn a_second_run_into_a_directory_is_told_who_holds_it() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    workshop.write("config.yaml", config(""));
    let held = DirLock::take(&workshop.path("results")).expect("a free directory");
    let before = workshop.files();
    let said = run(&workshop, &[]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    let holder = format!("found one held by process {}", std::process::id());
    assert!(said.err.contains(&holder), "{}", said.err);
    assert!(workshop.files() == before, "it wrote all the same");
    // What would be done can be asked.
    assert_eq!(run(&workshop, &["--dry-run"]).code, Some(0));
    drop(held);
    assert_eq!(run(&workshop, &["--only", "tiny"]).code, Some(0));
    assert!(!workshop.path("results/.rosette.lock").exists());
}

#[test]
fn an_adapter_that_is_not_there_is_told_before_anything_is_written() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    workshop.write("config.yaml", config(""));
    let before = workshop.files();
    let said = run(&workshop, &["--adapters", "0,no such adapter"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("no such adapter"), "{}", said.err);
    assert!(workshop.files() == before, "it wrote all the same");
}

#[test]
fn a_quiet_run_over_adapters_says_only_what_is_wrong() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    workshop.write("config.yaml", config(""));
    // The log cannot be written: a directory stands there.
    std::fs::create_dir_all(workshop.path("logs/model_training/faster.log")).expect("a directory");
    let said = run(&workshop, &["--adapters", "0,0", "--quiet"]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(!said.err.contains("epoch"), "{}", said.err);
    // The whole of it, once.
    assert_eq!(said.err.matches("faster.log: expected").count(), 1, "{}", said.err);
    assert!(said.err.contains("\n  help: "), "{}", said.err);
}

/// Experiments of an epoch for each second or so, in a workshop of its own.
#[cfg(target_os = "linux")]
const LONG: [&str; 4] = ["--override", "num_epochs=20", "--override", "patience=20"];

#[cfg(target_os = "linux")]
fn start(workshop: &Workshop) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rosette"));
    command.args(RUN).args(["--adapters", "0,0"]).args(LONG).current_dir(workshop.path(""));
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs")
}

/// The processes that a process has started, which train into these directories.
#[cfg(target_os = "linux")]
fn children(parent: u32) -> Vec<(u32, String)> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    // Threads start processes, too.
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let known = lists.chain(std::fs::read_to_string(path).ok()).collect::<Vec<_>>().join(" ");
    let mut ids: Vec<u32> = known.split_whitespace().filter_map(|id| id.parse().ok()).collect();
    ids.sort_unstable();
    ids.dedup();
    let line = |id: &u32| std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
    ids.iter().map(|id| (*id, line(id))).collect()
}

#[cfg(target_os = "linux")]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(target_os = "linux")]
fn signal(name: &str, id: u32) {
    assert!(Command::new("kill").args([name, &id.to_string()]).status().expect("kill runs").success());
}

/// Whether both trainings are under way and have written a checkpoint.
#[cfg(target_os = "linux")]
fn are_under_way(workshop: &Workshop, child: &mut Child) -> bool {
    assert!(child.try_wait().expect("a child").is_none(), "it has ended");
    let has = |file: &str| {
        ["tiny", "faster"].iter().all(|name| workshop.path("results").join(name).join(file).exists())
    };
    has(".rosette.lock") && has("last.safetensors") && children(child.id()).len() == 2
}

#[cfg(target_os = "linux")]
#[test]
fn an_experiment_whose_process_is_killed_goes_on_with_another_adapter() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    workshop.write("config.yaml", config(""));
    let mut child = start(&workshop);
    wait_until("no checkpoints", || are_under_way(&workshop, &mut child));
    let trainings = children(child.id());
    let (victim, _) = trainings.iter().find(|(_, line)| line.contains("results/tiny")).expect("a training");
    signal("-KILL", *victim);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("adapter 0 is used no more in this run"), "{said}");
    let after = said.split("is used no more").nth(1).expect("more");
    assert!(after.contains("tiny: going on in epoch"), "{said}");
    let bytes = |path: &str| std::fs::read(workshop.path(path)).expect(path);
    let broken = ["results/tiny/best_model.pth", "results/faster/best_model.pth"].map(bytes);
    std::fs::remove_dir_all(workshop.path("results")).expect("a directory");
    assert_eq!(run(&workshop, &LONG).code, Some(0));
    assert!(["results/tiny/best_model.pth", "results/faster/best_model.pth"].map(bytes) == broken);
}

#[cfg(target_os = "linux")]
#[test]
fn trainings_save_and_leave_when_the_run_that_started_them_is_told_to_stop_or_killed() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    workshop.write("config.yaml", config(""));
    for (name, to_all) in [("-TERM", false), ("-KILL", false), ("-TERM", true)] {
        let mut child = start(&workshop);
        wait_until("no checkpoints", || are_under_way(&workshop, &mut child));
        let trainings = children(child.id());
        assert_eq!(trainings.len(), 2, "{trainings:?}");
        // To this process alone, as a scheduler may do it.
        signal(name, child.id());
        if to_all {
            // The end of their input has reached them: a first signal after it does not end them at once.
            std::thread::sleep(Duration::from_millis(80));
            for (id, _) in &trainings {
                let _ = Command::new("kill").args([name, &id.to_string()]).stderr(Stdio::null()).status();
            }
        }
        let code = child.wait().expect("it ends").code();
        assert_eq!(code, if name == "-TERM" { Some(130) } else { None });
        wait_until("a training goes on alone", || {
            trainings.iter().all(|(id, _)| !std::path::Path::new(&format!("/proc/{id}")).exists())
        });
        for name in ["tiny", "faster"] {
            let dir = workshop.path("results").join(name);
            assert!(dir.join("last.safetensors").exists() && !dir.join(".rosette.lock").exists(), "{name}");
        }
    }
    let finished = run(&workshop, &LONG);
    assert_eq!(finished.code, Some(0), "{}", finished.err);
    assert_eq!(finished.err.matches("going on in epoch").count(), 2, "{}", finished.err);
}
