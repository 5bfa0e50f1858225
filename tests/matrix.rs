//! `rosette run` and `rosette summary`: what they write, what they leave alone, and what one failure does to the rest.

mod common;
#[path = "common/workshop.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod workshop;

#[path = "common/matrix.rs"]
mod matrix;

use matrix::{config, rosette, run};
use rosette::config::is_reserved;
use rosette::data::split::Manifest;
use rosette::report::RunRecord;
use workshop::{CONFIG, Workshop};

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
        planned.out.matches("not trained yet").count() == 2 && planned.out.contains("MiB"),
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
    let results = workshop.path("results");
    for path in written.keys().filter(|path| path.parent() == Some(&results)) {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a plain name");
        assert!(is_reserved(name), "an experiment could be called {name}");
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

/// One experiment with two folds and two seeds, one with two seeds.
fn config_of_members() -> String {
    let (head, _) = CONFIG.split_once("experiments:").expect("a list");
    format!(
        "{head}experiments:\n  - name: \"cv\"\n    folds: 2\n    seeds: [1, 2]\n  - name: \"seeds\"\n    seeds: [1, 7]\n"
    )
}

fn record(workshop: &Workshop, path: &str) -> RunRecord {
    RunRecord::read(&workshop.path(path).join("config.json")).expect(path)
}

#[test]
fn folds_and_seeds_are_trained_each_and_summed_up() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    workshop.write("config.yaml", config_of_members());
    // An older training of the same name, once and not in members, is not taken for theirs.
    let once = run(&workshop, &["--only", "seeds", "--override", "seeds=[]"]);
    assert_eq!(once.code, Some(0), "{}", once.err);
    let said = run(&workshop, &[]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("[6/6] seeds/seed_7: not trained yet"), "{}", said.err);
    assert!(workshop.path("results/seeds/best_model.old.pth").is_file());
    assert!(!workshop.path("results/seeds/tensorboard").exists(), "curves of the older training");
    let page = std::fs::read_to_string(workshop.path("results/seeds/report.html")).expect("a page");
    assert!(page.contains("seed_7/report.html") && page.contains(" ± "), "members on the page");
    let table = std::fs::read_to_string(workshop.path("results/report.html")).expect("a page");
    assert!(table.contains(" ± "), "deviations on the matrix's page");

    let members = ["fold_1_seed_1", "fold_1_seed_2", "fold_2_seed_1", "fold_2_seed_2"];
    let top = record(&workshop, "results/cv");
    let summed = top.members.clone().expect("members");
    assert_eq!(summed.all.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), members);
    let of = |name: &str| record(&workshop, &format!("results/cv/{name}"));
    let f1: Vec<f64> = members.iter().map(|name| of(name).best.expect("an epoch").val_f1).collect();
    let mean = f1.iter().sum::<f64>() / 4.0;
    let deviation = (f1.iter().map(|f1| (f1 - mean).powi(2)).sum::<f64>() / 3.0).sqrt();
    assert!((summed.mean.val_f1 - mean).abs() < 1e-12 && (summed.deviation.val_f1 - deviation).abs() < 1e-12);
    let best = f1.iter().copied().fold(0.0, f64::max);
    assert_eq!(top.best.as_ref().expect("an epoch").val_f1, best);
    assert_eq!((top.training.folds, top.training.seed), (2, 7), "the experiment's own settings");
    let bytes = |path: &str| std::fs::read(workshop.path(path)).expect(path);
    for name in ["best_model.pth", "training_plots.png", "metrics.csv", "training.log", "split_manifest.json"]
    {
        assert!(bytes(&format!("results/cv/{name}")) == bytes(&format!("results/cv/{}/{name}", summed.best)));
    }

    // Folds share samples as scikit-learn's do, and seeds the split.
    let split = |path: &str| Manifest::read(&workshop.path(path)).expect(path).val_sample_list;
    let validated = [
        split("results/cv/fold_1_seed_1/split_manifest.json"),
        split("results/cv/fold_2_seed_2/split_manifest.json"),
    ];
    let mut all = validated.concat();
    all.sort();
    assert_eq!(all, ["A", "B", "C"]);
    assert_eq!(split("results/seeds/seed_7/split_manifest.json"), split("results/split_manifest_seeds.json"));
    // The seed of the experiment itself, as a member and alone: the same training.
    assert!(bytes("results/seeds/seed_7/best_model.pth") == bytes("results/seeds/best_model.old.pth"));

    let summary = String::from_utf8(bytes("results/experiment_summary.csv")).expect("text");
    let mut reader = csv::Reader::from_reader(summary.as_bytes());
    let columns = reader.headers().expect("a header").clone();
    let row = reader.records().next().expect("a row").expect("a row");
    let column = |name: &str| row[columns.iter().position(|column| column == name).expect(name)].to_string();
    assert_eq!(
        (column("experiment_name"), column("status"), column("members")),
        ("cv".into(), "finished".into(), "4".into())
    );
    let number = |name: &str| column(name).parse::<f64>().expect(name);
    assert!((number("val_f1") - mean).abs() < 1e-12 && (number("val_f1_sd") - deviation).abs() < 1e-12);
    assert!(said.out.contains(&format!("{mean:.4} ± {deviation:.4}")), "{}", said.out);
    assert!(workshop.path("results/model_training.flag").is_file());
}

#[test]
fn members_that_are_done_stay_and_one_that_is_lost_is_trained_again() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    workshop.write("config.yaml", config_of_members());
    run(&workshop, &["--only", "seeds"]);
    let written = workshop.files();
    let again = run(&workshop, &["--only", "seeds"]);
    assert!(again.out.contains("nothing to train"), "{}", again.out);
    assert!(workshop.files() == written, "what is done and unchanged was touched");

    // A third seed does not move the first two; a lost member comes back with the same bytes, and so do the shown files.
    let lost = std::fs::read(workshop.path("results/seeds/seed_7/best_model.pth")).expect("weights");
    std::fs::remove_dir_all(workshop.path("results/seeds/seed_7")).expect("a directory");
    std::fs::remove_file(workshop.path("results/seeds/best_model.pth")).expect("a file");
    let more = run(&workshop, &["--only", "seeds", "--override", "seeds=[1,7,9]"]);
    assert!(
        more.err.contains("[1/2] seeds/seed_7: not trained yet") && more.err.contains("[2/2] seeds/seed_9"),
        "{}",
        more.err
    );
    assert!(std::fs::read(workshop.path("results/seeds/seed_7/best_model.pth")).expect("weights") == lost);
    assert!(workshop.path("results/seeds/best_model.pth").is_file());
    assert_eq!(record(&workshop, "results/seeds").members.expect("members").all.len(), 3);

    // Several adapters train members to the same bytes; `rosette train`, as Snakemake calls it, finds them done.
    let alone = std::fs::read(workshop.path("results/seeds/best_model.pth")).expect("weights");
    std::fs::remove_dir_all(workshop.path("results/seeds")).expect("a directory");
    let spread = run(&workshop, &["--only", "seeds", "--override", "seeds=[1,7,9]", "--adapters", "0,0"]);
    assert_eq!(spread.code, Some(0), "{}", spread.err);
    assert!(std::fs::read(workshop.path("results/seeds/best_model.pth")).expect("weights") == alone);
    std::fs::remove_file(workshop.path("results/seeds/config.json")).expect("a file");
    let partial = rosette(&workshop, &["summary", "--output-dir", "results"]);
    assert_eq!(partial.code, Some(0), "{}", partial.err);
    assert!(partial.out.contains("seeds") && partial.out.contains("unfinished"), "{}", partial.out);
    let usual = [
        "train",
        "--config",
        "config.yaml",
        "--experiment-name",
        "seeds",
        "--data-dir",
        "data",
        "--no-timestamp",
    ];
    let places = ["--split-manifest", "results/split_manifest_seeds.json", "--output-dir", "results/seeds"];
    let trained = rosette(&workshop, &[&usual[..], &places, &["--override", "seeds=[1,7,9]"]].concat());
    assert_eq!(trained.code, Some(0), "{}", trained.err);
    assert_eq!(trained.err.matches("done and unchanged").count(), 3, "{}", trained.err);
    assert!(record(&workshop, "results/seeds").members.is_some());
}

#[test]
fn members_go_into_a_directory_of_the_time_as_well() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let arguments =
        ["train", "--config", "config.yaml", "--experiment-name", "tiny", "--split-manifest", "split.json"];
    let more = ["--data-dir", "data", "--output-dir", "out", "--override", "seeds=[7]"];
    let said = rosette(&workshop, &[&arguments[..], &more].concat());
    assert_eq!(said.code, Some(0), "{}", said.err);
    let dirs: Vec<_> = std::fs::read_dir(workshop.path("out")).expect("a directory").collect();
    assert_eq!(dirs.len(), 1);
    let dir = dirs[0].as_ref().expect("an entry").path();
    assert!(dir.join("best_model.pth").is_file() && dir.join("seed_7/best_model.pth").is_file(), "{dir:?}");
    // Of one training there is no deviation.
    let page = std::fs::read_to_string(dir.join("report.html")).expect("a page");
    assert!(page.contains("one training") && !page.contains(" ± "));
    rosette(&workshop, &["summary", "--output-dir", "out"]);
    let table = std::fs::read_to_string(workshop.path("out/report.html")).expect("a page");
    assert!(!table.contains(" ± "));
}

/// Name, status and reason of every row of the summary.
fn statuses(workshop: &Workshop) -> Vec<(String, String, String)> {
    let path = workshop.path("results/experiment_summary.csv");
    let mut reader = csv::Reader::from_path(path).expect("a summary");
    let columns = reader.headers().expect("a header").clone();
    let at = |name: &str| columns.iter().position(|column| column == name).expect(name);
    let places = [at("experiment_name"), at("status"), at("reason")];
    let rows = reader.records().map(|row| {
        let [name, status, reason] = places.map(|place| row.as_ref().expect("a row")[place].to_string());
        (name, status, reason)
    });
    rows.collect()
}

#[test]
fn failed_and_outdated_experiments_are_not_told_as_finished() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    workshop.write("config.yaml", config(""));
    assert_eq!(run(&workshop, &[]).code, Some(0));
    let flag = workshop.path("results/model_training.flag");
    assert!(flag.is_file());

    // Other settings for one, and only the other asked for, which is done.
    workshop
        .write("config.yaml", config("").replace("name: \"tiny\"", "name: \"tiny\"\n    learning_rate: 0.5"));
    let said = run(&workshop, &["--only", "faster"]);
    assert!(said.out.contains("nothing to train") && !flag.exists(), "{} {}", said.out, said.err);

    // Other settings for all, and only one of them trained; a third one was never trained.
    workshop.write("config.yaml", config("  - name: \"late\"\n").replace("seed: 7", "seed: 8"));
    let said = run(&workshop, &["--only", "faster"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let rows = statuses(&workshop);
    let status: Vec<&str> = rows.iter().map(|row| row.1.as_str()).collect();
    assert_eq!(status, ["outdated", "finished", "not trained"], "{rows:?}");
    assert!(rows[0].2.contains("changed: seed (7, now 8)"), "{rows:?}");
    assert!(said.out.contains("outdated") && !flag.exists());
    let page = std::fs::read_to_string(workshop.path("results/report.html")).expect("a page");
    assert!(page.contains("outdated (changed: seed"));
    let again = run(&workshop, &["--only", "faster"]);
    assert!(again.out.contains("nothing to train") && !again.out.contains("every experiment is done"));

    // The table made again, which knows no configuration: nothing is forgotten or put into another order.
    let summary = rosette(&workshop, &["summary", "--output-dir", "results"]);
    assert_eq!(summary.code, Some(0), "{}", summary.err);
    assert_eq!(statuses(&workshop), rows);
    let trained = std::fs::read_to_string(workshop.path("results/faster/config.json")).expect("a record");
    workshop.write("results/another/config.json", trained.replace("\"faster\"", "\"another\""));
    std::fs::remove_dir_all(workshop.path("results/faster")).expect("a directory");
    rosette(&workshop, &["summary", "--output-dir", "results"]);
    let names: Vec<String> = statuses(&workshop).into_iter().map(|row| row.0).collect();
    assert_eq!(names, ["tiny", "late", "another"], "what is gone goes, what is new comes last");
    std::fs::remove_dir_all(workshop.path("results/another")).expect("a directory");

    // A mistake in one of them: it is named, the others are trained, and what it left is not passed off as new.
    let text = config("  - name: \"late\"\n").replace("name: \"tiny\"", "name: \"tiny\"\n    folds: 9");
    workshop.write("config.yaml", text.replace("seed: 7", "seed: 8"));
    let told = run(&workshop, &["--dry-run"]);
    assert_eq!(told.code, Some(2), "{}", told.err);
    assert!(told.out.contains("fails") && told.out.contains("late"), "{}", told.out);
    let said = run(&workshop, &[]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("tiny failed: folds: expected at most the number of samples"), "{}", said.err);
    assert!(said.err.contains("1 of 3 experiments failed: tiny"), "{}", said.err);
    let rows = statuses(&workshop);
    let status: Vec<&str> = rows.iter().map(|row| row.1.as_str()).collect();
    assert_eq!(status, ["failed", "finished", "finished"], "{rows:?}");
    assert!(rows[0].2.contains("found 9") && !flag.exists(), "{rows:?}");
    let log = std::fs::read_to_string(workshop.path("logs/model_training/tiny.log")).expect("a log");
    assert!(log.contains("failed: folds: expected at most"), "{log}");
}

#[test]
fn mistakes_are_told_before_anything_is_written() {
    let workshop = Workshop::new();
    workshop.write("config.yaml", config(""));
    let cases: [(&[&str], &str); 5] = [
        (&["--override", "folds=4"], "folds: expected at most the number of samples, 3, found 4"),
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

#[test]
fn a_removed_page_or_log_is_no_reason_to_train() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    workshop.write("config.yaml", config_of_members());
    run(&workshop, &["--only", "seeds"]);
    let places = ["results/seeds", "results/seeds/seed_1", "results/seeds/seed_7"];
    for place in places {
        std::fs::remove_file(workshop.path(place).join("report.html")).expect("a page");
        std::fs::remove_file(workshop.path(place).join("training.log")).expect("a log");
    }
    let again = run(&workshop, &["--only", "seeds"]);
    assert!(again.out.contains("nothing to train"), "{} {}", again.out, again.err);
    assert!(places.iter().all(|place| workshop.path(place).join("report.html").is_file()));
    let written = workshop.files();
    run(&workshop, &["--only", "seeds"]);
    assert!(workshop.files() == written, "what is done and unchanged was touched");
}
