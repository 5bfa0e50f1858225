//! What a training shows of itself: events with `--json`, TensorBoard's files, overlays, pages.

mod common;
#[path = "common/workshop.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod workshop;

use std::path::Path;
use std::process::{Command, Output};

use rosette::report::EpochRow;
use rosette::report::metrics::read_metrics;
use rosette::report::tensorboard::{EventFile, PICTURES, event_files, records};
use serde_json::Value;

use workshop::{CONFIG, Workshop};

/// One field of a Protocol Buffer message: its number and what it holds.
#[derive(Debug, Clone, PartialEq)]
enum Field<'a> {
    Number(u64),
    Double(f64),
    Float(f32),
    Bytes(&'a [u8]),
}

/// The fields of a message, read independently of the writer.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
            shift += 7;
        }
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let length = match tag & 7 {
            0 => {
                found.push((tag >> 3, Field::Number(varint(&mut bytes))));
                continue;
            }
            1 => 8,
            5 => 4,
            2 => varint(&mut bytes) as usize,
            other => panic!("wire type {other}"),
        };
        let (value, rest) = bytes.split_at(length);
        bytes = rest;
        found.push((
            tag >> 3,
            match tag & 7 {
                1 => Field::Double(f64::from_le_bytes(value.try_into().unwrap())),
                5 => Field::Float(f32::from_le_bytes(value.try_into().unwrap())),
                _ => Field::Bytes(value),
            },
        ));
    }
    found
}

/// What an event file holds of one step and tag.
#[derive(Debug, PartialEq)]
enum Entry {
    Scalar(f32),
    /// Height, width and the first bytes of the picture.
    Picture(u64, u64, Vec<u8>),
}

struct Events {
    /// In the file's order.
    entries: Vec<(u64, String, Entry)>,
    wall_times: Vec<f64>,
}

/// All event files of a directory, one after the other, as TensorBoard reads them.
fn read_events(dir: &Path) -> Events {
    let mut events = Events { entries: Vec::new(), wall_times: Vec::new() };
    for path in event_files(dir) {
        let bytes = std::fs::read(path).unwrap();
        let messages: Vec<&[u8]> = records(&bytes).collect();
        // 12 bytes before each message and 4 after it: the checksums of all of them hold.
        assert_eq!(messages.iter().map(|message| message.len() + 16).sum::<usize>(), bytes.len());
        if let Some((first, others)) = messages.split_first() {
            assert!(fields(first).contains(&(3, Field::Bytes(b"brain.Event:2"))), "the version comes first");
            others.iter().for_each(|message| events.read(message));
        }
    }
    events
}

fn picture(image: &[u8]) -> Entry {
    let image = fields(image);
    let (Field::Number(height), Field::Number(width), Field::Bytes(png)) =
        (&image[0].1, &image[1].1, &image[3].1)
    else {
        panic!("{image:?}")
    };
    let reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    assert_eq!((reader.info().height as u64, reader.info().width as u64), (*height, *width));
    Entry::Picture(*height, *width, png[..8].to_vec())
}

impl Events {
    fn read(&mut self, message: &[u8]) {
        let all = fields(message);
        let get = |number: u64| all.iter().find(|(n, _)| *n == number).map(|(_, field)| field.clone());
        let Some(Field::Double(time)) = get(1) else { panic!("a time") };
        let Some(Field::Number(step)) = get(2) else { panic!("a step") };
        let Some(Field::Bytes(summary)) = get(5) else {
            assert_eq!(get(7), Some(Field::Bytes(&[8, 1])), "the start of a session");
            // What a running TensorBoard drops, no file holds any more.
            assert!(self.entries.iter().all(|(known, _, _)| *known < step));
            return;
        };
        self.wall_times.push(time);
        for (_, value) in fields(summary) {
            let Field::Bytes(value) = value else { panic!("a value") };
            let value = fields(value);
            let Field::Bytes(tag) = value[0].1 else { panic!("a tag") };
            let entry = match &value[1] {
                (2, Field::Float(scalar)) => Entry::Scalar(*scalar),
                (4, Field::Bytes(image)) => picture(image),
                other => panic!("{other:?}"),
            };
            self.entries.push((step, String::from_utf8(tag.to_vec()).unwrap(), entry));
        }
    }

    fn scalars(&self, tag: &str) -> Vec<(u64, f32)> {
        let entries = self.entries.iter().filter(|(_, t, _)| t == tag);
        entries
            .map(|(step, _, entry)| match entry {
                Entry::Scalar(value) => (*step, *value),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn pictures(&self) -> Vec<u64> {
        self.entries.iter().filter(|(_, tag, _)| tag == PICTURES).map(|(step, _, _)| *step).collect()
    }
}

fn row(epoch: usize) -> EpochRow {
    EpochRow {
        epoch,
        train_loss: 0.5 / epoch as f64,
        val_loss: f64::NAN,
        val_iou: 0.25,
        val_f1: 0.5,
        val_precision: 0.0,
        val_recall: 1.0,
        learning_rate: 1e-4,
        skipped_steps: 0,
        seconds: 2.0,
        patches_per_second: 12.5,
    }
}

#[test]
fn an_event_file_goes_on_without_steps_that_are_trained_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = EventFile::open(dir.path(), 0).unwrap();
    (1..=300).for_each(|epoch| file.scalars(&row(epoch)).unwrap());
    let before = read_events(dir.path());
    assert_eq!(before.scalars("Loss/train").len(), 300);
    assert!(before.scalars("Loss/validation").iter().all(|(_, value)| value.is_nan()));
    // A kill in the middle of a record.
    let path = event_files(dir.path()).pop().expect("a file");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();

    let mut file = EventFile::open(dir.path(), 200).unwrap();
    (200..=201).for_each(|epoch| file.scalars(&row(epoch)).unwrap());
    let after = read_events(dir.path());
    let steps: Vec<u64> = after.scalars("F1_Score/validation").iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, (1..=201).collect::<Vec<u64>>());
    assert_eq!(after.wall_times[..199], before.wall_times[..199], "what stays keeps its time");

    // An older training's is not this one's, whatever is in it.
    for path in event_files(dir.path()) {
        std::fs::write(path, "no events at all").unwrap();
    }
    EventFile::open(dir.path(), 5).unwrap();
    assert!(read_events(dir.path()).entries.is_empty());
    let mut file = EventFile::open(dir.path(), 0).unwrap();
    file.scalars(&row(1)).unwrap();
    EventFile::open(dir.path(), 0).unwrap();
    assert!(read_events(dir.path()).entries.is_empty());
}

fn train(workshop: &Workshop, more: &[&str]) -> Output {
    workshop.train(&[&["--no-timestamp"], more].concat()).output().expect("the binary runs")
}

#[test]
fn a_training_shows_itself_and_is_not_changed_by_it() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let overrides = ["--override", "num_epochs=4", "--override", "report.overlay_every=2"];
    let output = train(&workshop, &[&overrides[..], &["--json"]].concat());
    assert!(output.status.success(), "{output:?}");

    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |kind: &str| lines.iter().filter(|line| line["event"] == kind).collect::<Vec<&Value>>();
    assert!(lines.iter().all(|line| line["experiment"] == "tiny" && line["time"].is_string()));
    assert_eq!((lines[0]["event"].as_str(), lines[0]["version"].as_u64()), (Some("started"), Some(3)));
    assert_eq!((&lines[0]["train_samples"], &lines[0]["num_epochs"]), (&Value::from(2), &Value::from(4)));
    let rows = read_metrics(&workshop.path("out/metrics.csv")).unwrap();
    assert_eq!(of("epoch").len(), 4);
    for (event, row) in of("epoch").iter().zip(&rows) {
        assert_eq!(event["epoch"], row.epoch);
        assert_eq!(event["val_loss"].as_f64(), Some(row.val_loss));
        assert!(event["is_best"].is_boolean());
    }
    assert!(of("step").len() >= 4 && of("step")[0]["steps"] == 1, "{lines:?}");
    let first = |kind: &str| lines.iter().position(|line| line["event"] == kind).expect(kind);
    assert!(first("checkpoint") < first("weights"), "who finds weights finds a checkpoint: {lines:?}");
    let best: Vec<&Value> = of("epoch").into_iter().filter(|line| line["is_best"] == true).collect();
    let written = of("weights");
    let epochs = |events: &[&Value]| events.iter().map(|event| event["epoch"].clone()).collect::<Vec<_>>();
    assert_eq!(epochs(&best), epochs(&written));
    let record: Value =
        serde_json::from_slice(&std::fs::read(workshop.path("out/config.json")).unwrap()).unwrap();
    assert_eq!(written.last().unwrap()["sha256"], record["weights_sha256"]);
    let last = lines.last().unwrap();
    assert_eq!((last["event"].as_str(), last["epochs_trained"].as_u64()), (Some("finished"), Some(4)));
    assert!(last["best"]["val_f1"].is_number());
    let drawn: Vec<u64> = of("overlay").iter().map(|line| line["epoch"].as_u64().unwrap()).collect();
    assert_eq!(drawn, [2, 4]);
    for name in
        ["overlays/epoch_0002.png", "overlays/epoch_0004.png", "predictions.png", "training_plots.png"]
    {
        assert!(workshop.path("out").join(name).is_file(), "{name}");
    }

    let events = read_events(&workshop.path("out/tensorboard"));
    for (tag, value) in [
        ("Loss/train", (|row| row.train_loss) as fn(&EpochRow) -> f64),
        ("Loss/validation", |row| row.val_loss),
        ("IoU/validation", |row| row.val_iou),
        ("F1_Score/validation", |row| row.val_f1),
        ("Misc/learning_rate", |row| row.learning_rate),
    ] {
        let expected: Vec<(u64, f32)> =
            rows.iter().map(|row| (row.epoch as u64, value(row) as f32)).collect();
        assert_eq!(events.scalars(tag), expected, "{tag}");
    }
    assert_eq!(events.pictures(), [2, 4]);

    let page = std::fs::read_to_string(workshop.path("out/report.html")).unwrap();
    for text in [
        "<h1>tiny</h1>",
        "for tests",
        "--override num_epochs=4",
        "<li>C</li>",
        "Validation images after epoch 2",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert_eq!(page.matches("src=\"").count(), page.matches("src=\"data:image/png;base64,").count());
    assert!(!page.contains("http://") && !page.contains("https://"), "it opens without a network");

    // The same training without all of it: the same weights.
    let weights = std::fs::read(workshop.path("out/best_model.pth")).unwrap();
    let plain =
        ["--output-dir", "plain", "--quiet", "--override", "report={overlay_every: 0, tensorboard: false}"];
    let output = train(&workshop, &[&plain[..], &overrides[..2]].concat());
    assert!(output.status.success(), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("epoch"), "quiet: {output:?}");
    assert!(std::fs::read(workshop.path("plain/best_model.pth")).unwrap() == weights);
    assert!(!workshop.path("plain/tensorboard").exists() && !workshop.path("plain/overlays").exists());
}

#[test]
fn errors_are_events_too() {
    let workshop = Workshop::new();
    let output = workshop.train(&["--json", "--override", "num_epochs=0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let line: Value = serde_json::from_slice(&output.stdout).expect("one line");
    assert_eq!((line["event"].as_str(), line["exit_code"].as_u64()), (Some("error"), Some(2)));
    assert!(line["message"].as_str().unwrap().contains("--override num_epochs=0: num_epochs"), "{line}");
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: --override num_epochs=0"));
}

#[test]
fn a_matrix_tells_its_plan_and_its_summary_and_compares_on_a_page() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let more = "  - name: \"other\"\n    description: \"<b>bold</b>\"\n    seed: 8\n  - name: \"blocked\"\n";
    workshop.write(
        "config.yaml",
        CONFIG.replace("  - name: \"tiny_intensity\"\n    use_intensity: true\n", more),
    );
    workshop.write("results/blocked", "a file in the way");
    let run = |more: &[&str]| {
        let given = ["run", "--config", "config.yaml", "--data-dir", "data", "--output-dir", "results"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_rosette"));
        command.args(given).args(more).current_dir(workshop.path("")).output().expect("the binary runs")
    };
    let output = run(&["--json"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |kind: &str| lines.iter().filter(|line| line["event"] == kind).collect::<Vec<&Value>>();
    let planned: Vec<_> =
        of("planned").iter().map(|e| (e["experiment"].clone(), e["action"].clone())).collect();
    assert_eq!(planned, ["tiny", "other", "blocked"].map(|name| (name.into(), "train".into())));
    assert_eq!(of("finished").len(), 2);
    let errors = of("error");
    assert_eq!((errors.len(), &errors[0]["experiment"]), (2, &Value::from("blocked")));
    assert!(errors[1]["experiment"].is_null(), "the last is the command's own");
    let summary = of("summary")[0];
    assert_eq!(summary["failed"], serde_json::json!(["blocked"]));
    assert_eq!(summary["experiments"][1]["experiment_name"], "other");

    let path = workshop.path("results/report.html");
    let compare = || {
        let page = std::fs::read_to_string(&path).unwrap();
        for text in ["href=\"./tiny/report.html\"", "&lt;b&gt;bold", "<code>seed</code>", "<code>8</code>"] {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("<b>bold"));
    };
    compare();
    // The pages are made of what the directories hold: `summary` makes the same ones.
    let own = std::fs::read(workshop.path("results/tiny/report.html")).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(workshop.path("results/tiny/report.html")).unwrap();
    let mut again = Command::new(env!("CARGO_BIN_EXE_rosette"));
    let again =
        again.args(["summary", "--output-dir", "results"]).current_dir(workshop.path("")).output().unwrap();
    assert!(again.status.success(), "{again:?}");
    compare();
    assert!(std::fs::read(workshop.path("results/tiny/report.html")).unwrap() == own);

    // What is only shown trains nothing anew.
    let shown = run(&["--only", "tiny", "--override", "report.tensorboard=false"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("nothing to train"), "{shown:?}");
}

/// Of an event file, what does not depend on the clock.
fn timeless(workshop: &Workshop, out: &str) -> Vec<(u64, String, Entry)> {
    let events = read_events(&workshop.path(out).join("tensorboard"));
    events.entries.into_iter().filter(|(_, tag, _)| tag != "Misc/patches_per_second").collect()
}

/// Batches were told as steps, of which there were six an epoch.
#[test]
fn events_count_steps_of_the_optimiser() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let settings = ["accumulation=4", "patches_per_sample=6", "report.tensorboard=false"];
    let overrides: Vec<&str> = settings.iter().flat_map(|setting| ["--override", setting]).collect();
    let output = train(&workshop, &[&overrides[..], &["--json", "--checkpoint-every", "0"]].concat());
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let of = |kind: &str| -> Vec<(u64, Value)> {
        let all = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let found = all.filter(|event| event["event"] == kind);
        found.map(|event| (event["step"].as_u64().unwrap(), event["steps"].clone())).collect()
    };
    // However soon they follow one another.
    assert_eq!(of("step").first(), Some(&(1, Value::from(2))), "{lines}");
    assert_eq!(of("step").last(), Some(&(2, Value::from(2))), "{lines}");
    assert!(of("step").iter().all(|(_, steps)| *steps == 2), "{lines}");
    // At the start and after each batch.
    let steps: Vec<u64> = of("checkpoint").iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [0, 0, 0, 0, 1, 1, 2], "{lines}");
}

#[test]
fn a_training_that_was_killed_shows_what_an_undisturbed_one_shows() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let settings = ["num_epochs=4", "report.overlay_every=2", "patches_per_sample=2"];
    let overrides: Vec<&str> = settings.iter().flat_map(|setting| ["--override", setting]).collect();
    assert!(train(&workshop, &[&overrides[..], &["--output-dir", "whole"]].concat()).status.success());

    let bin = env!("CARGO_BIN_EXE_rosette");
    let mut command = Command::new(bin);
    let given = ["--config", "config.yaml", "--experiment-name", "tiny", "--split-manifest", "split.json"];
    command.arg("train").args(given).args(["--data-dir", "data", "--output-dir", "out", "--no-timestamp"]);
    command.args(&overrides).args(["--json", "--checkpoint-every", "0"]).current_dir(workshop.path(""));
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().expect("the binary runs");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("it is piped")));
    // In the middle of the third epoch: its predecessor has been shown, and its picture drawn.
    for line in lines.map_while(Result::ok) {
        let event: Value = serde_json::from_str(&line).expect("an event");
        if event["event"] == "checkpoint" && event["epoch"] == 3 && event["step"] == 1 {
            break;
        }
    }
    child.kill().expect("a child");
    child.wait().expect("a child");
    // As if it had come further than its last checkpoint.
    let mut ahead = EventFile::open(&workshop.path("out/tensorboard"), 4).unwrap();
    ahead.scalars(&row(3)).unwrap();
    workshop.write("out/overlays/epoch_0099.png", "of another training");

    let resumed = train(&workshop, &[&overrides[..], &["--json"]].concat());
    assert!(resumed.status.success(), "{resumed:?}");
    assert!(String::from_utf8_lossy(&resumed.stdout).contains("\"event\":\"resumed\",\"epoch\":3"));
    assert_eq!(timeless(&workshop, "out"), timeless(&workshop, "whole"));
    let drawn = |out: &str| rosette::report::experiment_page::overlays(&workshop.path(out)).len();
    assert_eq!((drawn("out"), drawn("whole")), (2, 2));
}
