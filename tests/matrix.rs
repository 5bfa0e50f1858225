//! `rosette run` and `rosette summary`: what they write, what they leave alone, and what one failure does to the rest.

mod common;
#[path = "common/workshop.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod workshop;

use std::process::Command;

use workshop::{CONFIG, Workshop};

/// Two experiments that train and, at the end of the list, one that cannot.
fn config(third: &str) -> String {
    CONFIG.replace(
        "  - name: \"tiny_intensity\"\n    use_intensity: true\n",
        &format!("  - name: \"faster\"\n    learning_rate: 0.01\n{third}"),
    )
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn rosette(workshop: &Workshop, arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_rosette"))
        .args(arguments)
        .current_dir(workshop.path(""))
        .output()
        .expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

fn run(workshop: &Workshop, more: &[&str]) -> Said {
    let usual = ["run", "--config", "config.yaml", "--data-dir", "data", "--output-dir", "results"];
    rosette(workshop, &[&usual[..], more].concat())
}

#[test]
fn the_whole_tree_is_written_and_left_alone_while_nothing_changes() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    workshop.write("config.yaml", config(""));
    let planned = run(&workshop, &["--dry-run"]);
    assert_eq!(planned.code, Some(0), "{}", planned.err);
    assert!(
        planned.out.matches("not trained yet").count() == 2 && planned.out.contains("GiB"),
        "{}",
        planned.out
    );
    assert!(!workshop.path("results").exists(), "a dry run writes nothing");

    let first = run(&workshop, &[]);
    assert_eq!(first.code, Some(0), "{}", first.err);
    assert!(first.err.contains("[2/2] faster: not trained yet"), "{}", first.err);
    let written = workshop.files();
    let expected = [
        "results/split_manifest_tiny.json",
        "results/split_manifest_faster.json",
        "results/tiny/best_model.pth",
        "results/tiny/config.json",
        "results/tiny/training_plots.png",
        "results/tiny/training.log",
        "results/faster/best_model.pth",
        "results/experiment_summary.csv",
        "results/model_training.flag",
        "logs/model_training/tiny.log",
    ];
    for name in expected {
        assert!(written.contains_key(&workshop.path(name)), "{name}");
    }
    let summary =
        String::from_utf8_lossy(&written[&workshop.path("results/experiment_summary.csv")]).into_owned();
    let columns = "experiment_name,description,learning_rate,num_epochs,batch_size,total_parameters,device,status,best_epoch,";
    assert!(summary.starts_with(columns), "{summary}");
    assert_eq!(summary.lines().count(), 3);

    let second = run(&workshop, &[]);
    assert!(second.out.contains("nothing to train"), "{}", second.out);
    assert!(workshop.files() == written, "what is done and unchanged was touched");
    let again = rosette(&workshop, &["summary", "--output-dir", "results"]);
    assert!(again.out.contains("faster") && again.out.matches(" best ┆").count() == 1, "{}", again.out);
}

#[test]
fn what_changed_is_trained_again_and_the_reason_is_said() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    workshop.write("config.yaml", config(""));
    run(&workshop, &["--only", "tiny"]);
    assert!(
        !workshop.path("results/faster").exists() && !workshop.path("results/model_training.flag").exists()
    );
    let plan = |more: &[&str]| run(&workshop, &[&["--dry-run"], more].concat()).out;
    assert!(plan(&[]).contains("done and unchanged"), "{}", plan(&[]));
    let rate = plan(&["--override", "learning_rate=0.5"]);
    assert!(rate.contains("changed: learning_rate (0.001, now 0.5)"), "{rate}");
    assert!(plan(&["--force"]).contains("--force"));

    let weights = workshop.path("results/tiny/best_model.pth");
    let kept = std::fs::read(&weights).expect("weights");
    workshop.write("results/tiny/best_model.pth", "another program's");
    assert!(plan(&[]).contains("best_model.pth is not the one that was trained"));
    std::fs::remove_file(&weights).expect("a file");
    assert!(plan(&[]).contains("best_model.pth is missing"));
    std::fs::write(&weights, kept).expect("a writable file");

    let sample = workshop.path("data/A/processed_data_A.h5");
    std::fs::copy(workshop.path("data/B/processed_data_B.h5"), sample).expect("a writable file");
    let changed = plan(&[]);
    assert!(changed.contains("samples changed"), "{changed}");
    let trained = run(&workshop, &["--only", "tiny"]);
    assert_eq!(trained.code, Some(0), "{}", trained.err);
    assert!(trained.err.contains("samples changed"), "{}", trained.err);
    assert!(plan(&["--only", "tiny"]).contains("done and unchanged"));
}

#[test]
fn one_that_fails_does_not_stop_the_others() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    // In the middle of the list: a directory's place is taken.
    workshop.write("config.yaml", config("  - name: \"blocked\"\n  - name: \"after\"\n"));
    workshop.write("results/blocked", "a file in the way");
    let said = run(&workshop, &[]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("blocked failed: ") && said.err.contains("1 of 4 experiments failed: blocked"));
    assert!(workshop.path("results/after/best_model.pth").is_file(), "{}", said.err);
    assert!(!workshop.path("results/model_training.flag").exists(), "not all are done");
    std::fs::remove_file(workshop.path("results/blocked")).expect("a file");
    let mended = run(&workshop, &[]);
    assert_eq!(mended.code, Some(0), "{}", mended.err);
    assert!(mended.err.contains("[1/1] blocked"), "{}", mended.err);
    assert!(workshop.path("results/model_training.flag").exists());
}

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
fn mistakes_are_told_before_anything_is_written() {
    let workshop = Workshop::new();
    workshop.write("config.yaml", config(""));
    let cases: [(&[&str], &str); 4] = [
        (&["--only", "tinny"], "did you mean `tiny`?"),
        (&["--override", "num_epoch=2"], "did you mean `num_epochs`?"),
        (&["--data-dir", "nowhere"], "nowhere: expected a directory of samples"),
        (&["--override", "val_split=0.99"], "a share that leaves a sample to train on"),
    ];
    for (changed, expected) in cases {
        let mut arguments = vec!["run", "--config", "config.yaml", "--output-dir", "results"];
        if changed[0] != "--data-dir" {
            arguments.extend(["--data-dir", "data"]);
        }
        let said = rosette(&workshop, &[&arguments[..], changed].concat());
        assert_eq!(said.code, Some(2), "{}", said.err);
        assert!(said.err.contains(expected), "{}", said.err);
        assert!(!workshop.path("results").exists());
    }
    let empty = rosette(&workshop, &["summary", "--output-dir", "data"]);
    assert_eq!(empty.code, Some(2), "{}", empty.err);
}
