//! Mistakes that people make, and what they are told: every one is made against the built binary, which must end with
//! exit code 2, write nothing and say what `docs/MISTAKES.md` holds. `UPDATE_MISTAKES=1 cargo test --release --test
//! mistakes` writes that page anew, to be read before it is committed.

mod common;
#[path = "common/workshop.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod workshop;

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use rosette::config::Skip;
use rosette::model::{AttentionUNet, NamedTensor, Spec};
use rosette::train::save_weights;

use workshop::{CONFIG, Workshop, sample};

/// What is on the disk before a command is given, besides a sound configuration, samples and their split.
enum Disk {
    /// Nothing.
    Sound,
    /// In the configuration, a text is replaced.
    Config(&'static str, &'static str),
    /// In the split's manifest, a text is replaced.
    Split(&'static str, &'static str),
    /// Sample B is a file of `tests/fixtures`.
    Sample(&'static str),
    /// A file with this content.
    File(&'static str, &'static [u8]),
    /// `w.pth` is a file of `tests/fixtures`.
    Weights(&'static str),
    /// `w.pth` is a network of so many input channels and so wide, with this done to it.
    Network(usize, usize, fn(&mut Vec<NamedTensor>)),
}

use Disk::{Config, File, Network, Sample, Sound, Split, Weights};

/// Area, the mistake in words, the disk, the command. `TRAIN`, `SPLIT` and `SHOW` are commands without a mistake.
struct Case(&'static str, &'static str, Disk, &'static str);

const CASES: &[Case] = &[
    Case("Configuration", "a key is misspelt", Config("num_epochs: 1", "num_epoch: 1"), "SHOW"),
    Case("Configuration", "a section is misspelt", Config("default_training:", "default_trainig:"), "SHOW"),
    Case(
        "Configuration",
        "a key stands in the wrong section",
        Config("patch_size: 32", "batch_size: 2"),
        "SHOW",
    ),
    Case(
        "Configuration",
        "a key of a subsection stands outside it",
        Config("seed: 7", "rotation: 0.5"),
        "SHOW",
    ),
    Case("Configuration", "a key of another program", Config("seed: 7", "optimizer: adam"), "SHOW"),
    Case("Configuration", "a word for a number", Config("batch_size: 2", "batch_size: two"), "SHOW"),
    Case("Configuration", "a number in quotes", Config("seed: 7", "seed: \"7\""), "SHOW"),
    Case("Configuration", "a decimal comma", Config("seed: 7", "learning_rate: 0,001"), "SHOW"),
    Case(
        "Configuration",
        "a fraction where a count is wanted",
        Config("num_epochs: 1", "num_epochs: 1.5"),
        "SHOW",
    ),
    Case(
        "Configuration",
        "a patch that cannot be halved four times",
        Config("patch_size: 32", "patch_size: 500"),
        "SHOW",
    ),
    Case(
        "Configuration",
        "a width that the kernels do not have",
        Config("base_channels: 8", "base_channels: 12"),
        "SHOW",
    ),
    Case("Configuration", "more than one class", Config("patch_size: 32", "num_classes: 2"), "SHOW"),
    Case(
        "Configuration",
        "an architecture that there is not",
        Config("patch_size: 32", "architecture: unet"),
        "SHOW",
    ),
    Case("Configuration", "no patch in a batch", Config("batch_size: 2", "batch_size: 0"), "SHOW"),
    Case("Configuration", "a learning rate of zero", Config("seed: 7", "learning_rate: 0"), "SHOW"),
    Case(
        "Configuration",
        "a probability above one",
        Config("seed: 7", "augmentation: {rotation: 50}"),
        "SHOW",
    ),
    Case("Configuration", "one number for all augmentations", Config("seed: 7", "augmentation: 0.5"), "SHOW"),
    Case("Configuration", "every sample validates", Config("seed: 7", "val_split: 1"), "SHOW"),
    Case("Configuration", "a negative seed", Config("seed: 7", "seed: -7"), "SHOW"),
    Case("Configuration", "a word that is no choice", Config("patch_size: 32", "skip: half"), "SHOW"),
    Case("Configuration", "another name for a choice", Config("seed: 7", "precision: fp16"), "SHOW"),
    Case("Configuration", "1 for true", Config("patch_size: 32", "use_intensity: 1"), "SHOW"),
    Case("Configuration", "one seed for a list of them", Config("seed: 7", "seeds: 7"), "SHOW"),
    Case("Configuration", "a seed twice", Config("seed: 7", "seeds: [7, 8, 7]"), "SHOW"),
    Case("Configuration", "a decay of one", Config("seed: 7", "ema_decay: 1"), "SHOW"),
    Case("Configuration", "a floor above the start", Config("seed: 7", "min_learning_rate: 0.1"), "SHOW"),
    Case("Configuration", "a warm-up without an end", Config("seed: 7", "warmup_epochs: 5.0"), "SHOW"),
    Case("Configuration", "a schedule that there is not", Config("seed: 7", "scheduler: cosin"), "SHOW"),
    Case("Configuration", "a value is missing", Config("seed: 7", "seed:"), "SHOW"),
    Case("Configuration", "a key twice", Config("seed: 7", "num_epochs: 3"), "SHOW"),
    Case("Configuration", "a tab", Config("  seed: 7", "\tseed: 7"), "SHOW"),
    Case("Configuration", "a quote is not closed", Config("\"for tests\"", "\"for tests"), "SHOW"),
    Case(
        "Configuration",
        "a placeholder of the pipeline in a setting",
        Config("seed: 7", "seed: \"{global[seed]}\""),
        "SHOW",
    ),
    Case("Configuration", "an experiment without a name", Config("- name: \"tiny\"\n    ", "- "), "SHOW"),
    Case("Configuration", "two experiments of one name", Config("tiny_intensity", "tiny"), "SHOW"),
    Case("Configuration", "two names that differ in case alone", Config("tiny_intensity", "TINY"), "SHOW"),
    Case("Configuration", "the name of a file of the run", Config("\"tiny\"", "\"Report.html\""), "SHOW"),
    Case("Configuration", "a name that would leave the directory", Config("\"tiny\"", "\"../tiny\""), "SHOW"),
    Case("Configuration", "a number for a name", Config("\"tiny\"", "2"), "SHOW"),
    Case("Configuration", "no experiments", File("config.yaml", b"model: {patch_size: 32}\n"), "SHOW"),
    Case("Configuration", "an empty file", File("config.yaml", b""), "SHOW"),
    Case(
        "Configuration",
        "a file that is no text",
        File("config.yaml", &[0x89, b'H', b'D', b'F', 0xff]),
        "SHOW",
    ),
    Case("Configuration", "the file is not there", Sound, "config tiny --config confg.yaml"),
    Case("Configuration", "a directory for the file", Sound, "config tiny --config data"),
    Case(
        "Configuration",
        "an experiment that the file does not have",
        Sound,
        "config tinny --config config.yaml",
    ),
    Case("Overrides", "no `=`", Sound, "SHOW --override num_epochs"),
    Case("Overrides", "nothing after the `=`", Sound, "SHOW --override num_epochs="),
    Case("Overrides", "a key is misspelt", Sound, "SHOW --override learnig_rate=0.1"),
    Case("Overrides", "a value out of its range", Sound, "SHOW --override augmentation.rotation=1.5"),
    Case("Overrides", "a value for a whole section", Sound, "SHOW --override augmentation=off"),
    Case("Overrides", "a key below a key that has none", Sound, "SHOW --override num_epochs.max=3"),
    Case("Overrides", "a dot too many", Sound, "SHOW --override augmentation..rotation=1"),
    Case("Command line", "a command is misspelt", Sound, "trian --config config.yaml"),
    Case("Command line", "an option is misspelt", Sound, "TRAIN --overide seed=1"),
    Case("Command line", "options are missing", Sound, "train --config config.yaml --experiment-name tiny"),
    Case("Command line", "an option without its value", Sound, "config tiny --config"),
    Case("Command line", "a word for a number", Sound, "TRAIN --checkpoint-every often"),
    Case("Command line", "options that exclude each other", Sound, "TRAIN --json --quiet"),
    Case("Command line", "an image side that is too small", Sound, "synth --output-dir new --size 64"),
    Case("Command line", "a patch that cannot be halved four times", Sound, "bench --step --patch 40"),
    Case(
        "Command line",
        "`tune` for an experiment that is not there",
        Sound,
        "tune --config config.yaml --experiment-name tini",
    ),
    Case("Data", "the directory is not there", Sound, "TRAIN --data-dir absent"),
    Case("Data", "a file for the directory", Sound, "TRAIN --data-dir config.yaml"),
    Case(
        "Data",
        "a directory without samples",
        File("empty/notes.txt", b"none here"),
        "check --data-dir empty",
    ),
    Case("Data", "a sample of the split has no file", Split("\"C\"", "\"D\""), "TRAIN"),
    Case("Data", "an empty file", Sample("h5/bad_zero_bytes.h5"), "TRAIN"),
    Case("Data", "a file of another kind", Sample("h5/bad_text_file.h5"), "TRAIN"),
    Case("Data", "a file that was cut off", Sample("h5/bad_truncated.h5"), "TRAIN"),
    Case("Data", "a damaged block", Sample("h5/bad_checksum.h5"), "TRAIN"),
    Case("Data", "no target", Sample("h5/bad_no_target.h5"), "TRAIN"),
    Case("Data", "labels under another name", Sample("h5/bad_name.h5"), "TRAIN"),
    Case("Data", "nothing in the file", Sample("h5/bad_nothing.h5"), "TRAIN"),
    Case("Data", "three dimensions too many", Sample("h5/bad_rank.h5"), "TRAIN"),
    Case("Data", "labels and target of different sizes", Sample("h5/bad_shape.h5"), "TRAIN"),
    Case("Data", "an image without pixels", Sample("h5/bad_empty.h5"), "TRAIN"),
    Case("Data", "a stack without its four planes", Sample("h5/bad_stack.h5"), "TRAIN"),
    Case("Data", "a negative label", Sample("h5/bad_negative.h5"), "TRAIN"),
    Case("Data", "a target that is not a number somewhere", Sample("h5/bad_nan_target.h5"), "TRAIN"),
    Case("Data", "text for a target", Sample("h5/bad_text.h5"), "TRAIN"),
    Case(
        "Data",
        "`use_intensity`, and no raw image",
        Sound,
        "train --split-manifest split.json --data-dir data --output-dir out --config config.yaml --experiment-name tiny_intensity",
    ),
    Case(
        "Data",
        "`preview` of a sample that there is not",
        Sound,
        "preview --data-dir data --config config.yaml --experiment-name tiny --samples A E",
    ),
    Case(
        "Split",
        "one sample",
        Sound,
        "split --samples A --config-dir . --config-file config.yaml --experiment-name tiny --output-name m.json",
    ),
    Case("Split", "a sample twice", Sound, "SPLIT A"),
    Case("Split", "a path for a sample's name", Sound, "SPLIT data/D"),
    Case("Split", "a share above one", Sound, "SPLIT D --test-size 20"),
    Case("Split", "a share that leaves nothing to train on", Sound, "SPLIT D --test-size 0.9"),
    Case("Split", "a seed that NumPy would not take", Sound, "SPLIT D --random-state -1"),
    Case("Split", "the manifest is not there", Sound, "TRAIN --split-manifest absent.json"),
    Case("Split", "another file for the manifest", Sound, "TRAIN --split-manifest config.yaml"),
    Case("Split", "a manifest that was cut off", File("split.json", b"{\"split_created\": \"2026"), "TRAIN"),
    Case("Split", "a key of the manifest is missing", Split("val_sample_list", "val"), "TRAIN"),
    Case("Split", "a sample on both lists", Split("\"C\"", "\"A\""), "TRAIN"),
    Case(
        "Split",
        "counts that do not fit the lists",
        Split("\"val_samples\": 1", "\"val_samples\": 5"),
        "TRAIN",
    ),
    Case("Weights", "the file is not there", Sound, "TRAIN --init-weights absent.pth"),
    Case("Weights", "a file of another kind", Sound, "TRAIN --init-weights config.yaml"),
    Case(
        "Weights",
        "PyTorch's format of before 2020",
        Weights("pth/legacy.pth"),
        "TRAIN --init-weights w.pth",
    ),
    Case(
        "Weights",
        "a whole module was saved",
        Weights("pth/whole_module.pth"),
        "TRAIN --init-weights w.pth",
    ),
    Case("Weights", "a TorchScript program", Weights("pth/torchscript.pt"), "TRAIN --init-weights w.pth"),
    Case(
        "Weights",
        "a file that would run commands",
        Weights("pth/hostile.pth"),
        "TRAIN --init-weights w.pth",
    ),
    Case(
        "Weights",
        "a checkpoint without tensors",
        Weights("pth/no_tensors.pth"),
        "TRAIN --init-weights w.pth",
    ),
    Case("Weights", "a network of another width", Network(2, 16, |_| ()), "TRAIN --init-weights w.pth"),
    Case("Weights", "a network with another input", Network(3, 8, |_| ()), "TRAIN --init-weights w.pth"),
    Case(
        "Weights",
        "weights of a training that diverged",
        Network(2, 8, |t| t[3].values[5] = f32::NAN),
        "TRAIN --init-weights w.pth",
    ),
    Case("Weights", "a tensor is missing", Network(2, 8, |t| drop(t.pop())), "TRAIN --init-weights w.pth"),
    Case("Results", "a file where the directory should be", Sound, "TRAIN --output-dir config.yaml"),
    Case("Results", "a directory for the log", Sound, "TRAIN --log-file data"),
    Case("Results", "`summary` of a directory without experiments", Sound, "summary --output-dir data"),
    Case(
        "Results",
        "`summary` of a record that was edited badly",
        File("results/tiny/config.json", b"{\"experiment_name\": 3}"),
        "summary --output-dir results",
    ),
    Case(
        "Results",
        "`predict` with a directory that holds no model",
        Sound,
        "predict --model data --data-dir data --output-dir predictions",
    ),
    Case(
        "Results",
        "`threshold` with the configuration for a model",
        Sound,
        "threshold --model config.yaml --data-dir data --split-manifest split.json",
    ),
];

const TRAIN: &[&str] = &[
    "--split-manifest",
    "split.json",
    "--data-dir",
    "data",
    "--output-dir",
    "out",
    "--config",
    "config.yaml",
    "--experiment-name",
    "tiny",
    "--no-timestamp",
];
const SPLIT: &[&str] = &[
    "split",
    "--config-dir",
    ".",
    "--config-file",
    "config.yaml",
    "--experiment-name",
    "tiny",
    "--output-name",
    "m.json",
    "--samples",
    "A",
    "B",
];

fn arguments(line: &str) -> Vec<&str> {
    let mut words = line.split(' ');
    let Some(first) = words.next() else { return Vec::new() };
    let given: Vec<&str> = words.collect();
    match first {
        "SHOW" => [&["config", "tiny", "--config", "config.yaml"], &given[..]].concat(),
        "SPLIT" => [SPLIT, &given].concat(),
        "TRAIN" => {
            // What is given takes the place of the sound flag.
            let sound = TRAIN[..TRAIN.len() - 1].chunks(2).filter(|pair| !given.contains(&pair[0]));
            let sound: Vec<&str> = sound.flatten().copied().chain(["--no-timestamp"]).collect();
            [&["train"], &sound[..], &given].concat()
        }
        _ => [&[first], &given[..]].concat(),
    }
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).expect(name)
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no {from:?}");
    text.replacen(from, to, 1)
}

fn prepare(workshop: &Workshop, disk: &Disk) {
    match disk {
        Sound => {}
        Config(from, to) => workshop.write("config.yaml", replaced(CONFIG, from, to)),
        Split(from, to) => {
            let text = std::fs::read_to_string(workshop.path("split.json")).expect("a manifest");
            workshop.write("split.json", replaced(&text, from, to));
        }
        Sample(name) => {
            // The others are of the fixture's size, where sizes matter.
            workshop.write(&sample("B"), fixture(name));
        }
        File(name, content) => workshop.write(name, content),
        Weights(name) => workshop.write("w.pth", fixture(name)),
        Network(in_channels, base_channels, change) => {
            let spec = Spec { in_channels: *in_channels, base_channels: *base_channels, skip: Skip::Full };
            let mut tensors = AttentionUNet::new(spec).initial(1);
            change(&mut tensors);
            save_weights(&workshop.path("w.pth"), &tensors, 1).expect("a writable file");
        }
    }
}

/// Makes the mistake; what is said, without the remarks of a driver and the usage that every command can print.
fn make(Case(area, what, disk, line): &Case) -> String {
    let workshop = Workshop::new();
    prepare(&workshop, disk);
    let before = workshop.files();
    let output = Command::new(env!("CARGO_BIN_EXE_rosette"))
        .args(arguments(line))
        .current_dir(workshop.path(""))
        .output()
        .expect("the binary runs");
    let said = String::from_utf8(output.stderr).expect("text");
    let what = format!("{area}, {what}: {line}\n{said}");
    assert_eq!(output.status.code(), Some(2), "{what}");
    assert!(!said.contains("panicked") && output.stdout.is_empty(), "{what}");
    assert!(workshop.files() == before, "files were written or changed: {what}");
    let said = said.split("\nUsage:").next().unwrap_or_default();
    let lines = said.lines().filter(|line| !line.contains("XDG_RUNTIME_DIR")).map(str::trim);
    let lines: Vec<&str> =
        lines.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    let text = lines.join("\n");
    text.strip_prefix("error: ").unwrap_or_else(|| panic!("no error: {what}")).to_string()
}

/// A text as a cell of a table.
fn cell(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('|', "\\|").replace('\n', "<br>")
}

#[test]
fn what_is_said_of_mistakes_is_what_the_page_holds() {
    if common::device().is_none() {
        return;
    }
    let mut page = String::from(
        "# Mistakes, and what is said of them\n\n\
         Every row was made against the program by `tests/mistakes.rs`, which also writes this page. Each ends with exit \
         code 2, before anything is written.\n",
    );
    let mut area = "";
    for case in CASES {
        if case.0 != area {
            area = case.0;
            write!(page, "\n## {area}\n\n| mistake | what is said |\n| --- | --- |\n").expect("into memory");
        }
        writeln!(page, "| {} | {} |", cell(case.1), cell(&make(case))).expect("into memory");
    }
    assert!(CASES.len() >= 40);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/MISTAKES.md");
    if std::env::var_os("UPDATE_MISTAKES").is_some() {
        std::fs::write(&path, &page).expect("a writable file");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let pairs = known.lines().zip(page.lines());
    let other = pairs.clone().find(|(old, new)| old != new);
    assert_eq!(other, None, "see the head of this file");
    assert_eq!(known.lines().count(), page.lines().count(), "see the head of this file");
}
