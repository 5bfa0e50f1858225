//! Bad input to every command: exit code 2, an error that names what is wrong, what was expected and found, and the
//! remedy; and nothing written but, at most, an empty directory.

mod common;
#[path = "common/workshop.rs"]
mod workshop;

use std::path::Path;

use assert_cmd::Command;
use rosette::config::Skip;
use rosette::data::hdf5::{Plane, encode};
use rosette::model::{AttentionUNet, NamedTensor, Spec};
use rosette::train::save_weights;

use workshop::{CONFIG, Form, Workshop, rosette, sample, tissue};

/// Runs a command that must be refused: standard error holds all `phrases`, standard output nothing, and the
/// workshop's files stay as they are.
fn refused(workshop: &Workshop, mut command: Command, what: &str, phrases: &[&str]) {
    let before = workshop.files();
    let output = command.output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{what}: {said}");
    assert!(!said.contains("panicked"), "{what}: {said}");
    for phrase in phrases.iter().chain(&["error: "]) {
        assert!(said.contains(phrase), "{what}: no {phrase:?} in: {said}");
    }
    assert!(output.stdout.is_empty(), "{what}: {}", String::from_utf8_lossy(&output.stdout));
    assert!(workshop.files() == before, "{what}: files were written or changed");
}

fn train_refused(workshop: &Workshop, changed: &[&str], phrases: &[&str]) {
    refused(workshop, workshop.train(changed), &changed.join(" "), phrases);
}

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/h5").join(name);
    std::fs::read(path).expect("the fixture is in the repository")
}

#[test]
fn mistakes_in_the_configuration_are_told_with_line_and_column() {
    let workshop = Workshop::new();
    // (text of the default configuration, its replacement, phrases)
    let cases: &[(&str, &str, &[&str])] = &[
        ("num_epochs: 1", "num_epoch: 1", &["config.yaml:6:3", "`num_epoch`", "did you mean `num_epochs`?"]),
        ("patch_size: 32", "patch_size: 40", &["config.yaml:3:15", "patch_size", "multiple of 16", "40"]),
        ("batch_size: 2", "batch_size: \"two\"", &["config.yaml:7:15", "an integer", "the text \"two\""]),
        ("seed: 7", "seed: -7", &["config.yaml:8:9", "seed", "-7"]),
        ("model:", "modle:", &["config.yaml:1:1", "`modle`", "did you mean `model`?"]),
        ("experiments:", "experiments: []\nlogging:", &["config.yaml:10", "at least one experiment"]),
        ("  patch_size: 32", "\tpatch_size: 32", &["config.yaml:2:18", "valid YAML", "a tab", "no tabs"]),
        ("description:", "num_epochs: 1\n    num_epochs:", &["each key once", "`num_epochs` again"]),
    ];
    for (text, replacement, phrases) in cases {
        workshop.write("config.yaml", CONFIG.replacen(text, replacement, 1));
        refused(&workshop, workshop.train(&[]), replacement, phrases);
    }
}

#[test]
fn files_and_names_that_are_not_there_are_told() {
    let workshop = Workshop::new();
    workshop.write("binary.yaml", [0x89, b'H', b'D', b'F', 0xff]);
    let cases: &[(&[&str], &[&str])] = &[
        (&["--config", "absent.yaml"], &["absent.yaml", "no such file", "check the path"]),
        (&["--config", "data"], &["data", "directory"]),
        (&["--config", "binary.yaml"], &["binary.yaml", "UTF-8"]),
        (&["--experiment-name", "tinny"], &["config.yaml", "\"tinny\"", "did you mean `tiny`?"]),
        (&["--experiment-name", "zzz"], &["\"zzz\"", "known are: tiny, tiny_intensity"]),
        (&["--split-manifest", "absent.json"], &["absent.json", "no such file", "rosette split"]),
        (&["--split-manifest", "data"], &["data", "a file to read"]),
        (&["--split-manifest", "config.yaml"], &["config.yaml", "JSON", "rosette split"]),
        (&["--data-dir", "absent"], &["absent", "a directory of samples", "no such directory"]),
        (&["--data-dir", "config.yaml"], &["config.yaml", "a directory of samples", "a file"]),
        (&["--experiment-name", "tiny_intensity"], &["processed_data_A.h5", "raw_image", "use_intensity"]),
        (&["--adapter", "no-such-adapter"], &["adapter"]),
        (&["--init-weights", "absent.pth"], &["absent.pth", "no such file"]),
        (&["--init-weights", "config.yaml"], &["config.yaml", "PyTorch checkpoint", "state_dict()"]),
        (&["--init-weights", "data"], &["data/best_model.pth", "no such file"]),
    ];
    for (changed, phrases) in cases {
        train_refused(&workshop, changed, phrases);
    }
}

#[test]
fn overrides_are_checked_like_the_file() {
    let workshop = Workshop::new();
    let cases = [
        ("num_epochs", ["key=value", "no `=`"]),
        ("=3", ["key=value", "no key"]),
        ("num_epochs=", ["key=value", "no value"]),
        ("num_epoch=3", ["`num_epoch`", "did you mean `num_epochs`?"]),
        ("augmentation.rotatoin=0", ["`rotatoin`", "did you mean `rotation`?"]),
        ("augmentation=0.5", ["the number 0.5", "augmentation.KEY=VALUE"]),
        ("rotation=0.5", ["`rotation`", "under `augmentation`"]),
        ("augmentation.rotation=1.5", ["from 0 to 1", "1.5"]),
        ("patch_size=100", ["multiple of 16", "100"]),
        ("base_channels=12", ["multiple of 8", "12"]),
        ("batch_size=0", ["from 1 to 1024", "0"]),
        ("batch_size=2.5", ["an integer", "2.5"]),
        ("learning_rate=0", ["above 0", "0"]),
        ("learning_rate=fast", ["a number", "fast"]),
        ("use_intensity=maybe", ["true or false", "maybe"]),
        ("skip=half", ["\"full\" or \"pooled\"", "half"]),
        ("num_classes=2", ["nothing else is supported", "rosette or not"]),
    ];
    for (text, phrases) in cases {
        train_refused(
            &workshop,
            &["--override", text],
            &[&format!("--override {text}"), phrases[0], phrases[1]],
        );
    }
}

#[test]
fn a_manifest_that_cannot_be_right_is_refused() {
    let workshop = Workshop::new();
    let good = String::from_utf8(workshop.files()[&workshop.path("split.json")].clone()).expect("text");
    let without_val = good.replace("\"C\"", "").replace("\"val_samples\": 1", "\"val_samples\": 0");
    let cases = [
        (good.replace("\"C\"", "\"D\""), ["processed_data_D.h5", "take it out of the split"]),
        (good.replace("\"C\"", "\"A\""), ["val_sample_list", "'A' again"]),
        (without_val, ["val_sample_list", "at least one"]),
        (good.replace("\"val_samples\": 1", "\"val_samples\": 5"), ["val_sample_list", "(5)"]),
        (good.replace("\"val_sample_list\"", "\"val\""), ["'val_sample_list'", "only split_created"]),
        (good.replace("\"C\"", "3"), ["integer `3`", "rosette split"]),
        ("[]".into(), ["a JSON object", "rosette split"]),
        (good[..good.len() / 2].into(), ["JSON", "EOF"]),
    ];
    for (text, phrases) in cases {
        workshop.write("split.json", &text);
        refused(&workshop, workshop.train(&[]), &text, &phrases);
    }
}

#[test]
fn damaged_samples_are_refused_by_file_and_dataset() {
    let workshop = Workshop::new();
    // (fixture, experiment, phrases)
    let cases: &[(&str, &str, &[&str])] = &[
        ("bad_text_file.h5", "tiny", &["an HDF5 file", "training_data_preparation"]),
        ("bad_zero_bytes.h5", "tiny", &["an HDF5 file", "an empty file"]),
        ("bad_truncated.h5", "tiny", &["truncated", "copy the file again"]),
        ("bad_checksum.h5", "tiny", &["'segmentation_outlines'", "damaged"]),
        ("bad_no_target.h5", "tiny", &["'rosettes_binary'", "only raw_image, segmentation_outlines"]),
        ("bad_name.h5", "tiny", &["'segmentation_outlines'", "rename 'masks/Segmentation_Outline'"]),
        ("bad_nothing.h5", "tiny", &["no dataset at all"]),
        ("bad_rank.h5", "tiny", &["'segmentation_outlines'", "shape [11, 17, 3]"]),
        ("bad_shape.h5", "tiny", &["'rosettes_binary'", "shape [11, 17]", "shape [11, 16]"]),
        ("bad_empty.h5", "tiny", &["'segmentation_outlines'", "shape [0, 17]"]),
        ("bad_stack.h5", "tiny", &["'data'", "shape [3, 11, 17]"]),
        ("bad_negative.h5", "tiny", &["'segmentation_outlines'", "-4 at row 2, column 3"]),
        ("bad_nan_target.h5", "tiny", &["'rosettes_binary'", "NaN at row 1, column 0"]),
        ("bad_text.h5", "tiny", &["'rosettes_binary'", "text"]),
        ("bad_nan.h5", "tiny_intensity", &["'raw_image'", "NaN at row 4, column 9"]),
        ("bad_inf.h5", "tiny_intensity", &["'raw_image'", "inf at row 4, column 9"]),
        ("bad_raw_shape.h5", "tiny_intensity", &["'raw_image'", "shape [9, 17]"]),
        ("layout_no_raw.h5", "tiny_intensity", &["raw_image", "use_intensity"]),
    ];
    workshop.write(&sample("A"), fixture("layout_stack.h5"));
    workshop.write(&sample("C"), fixture("layout_raw_data.h5"));
    for (name, experiment, phrases) in cases {
        workshop.write(&sample("B"), fixture(name));
        let phrases = [&["processed_data_B.h5", "help: "], *phrases].concat();
        refused(&workshop, workshop.train(&["--experiment-name", experiment]), name, &phrases);
    }
}

#[test]
fn weights_of_another_network_are_refused_by_tensor() {
    let workshop = Workshop::new();
    let initial = |in_channels, base_channels| {
        AttentionUNet::new(Spec { in_channels, base_channels, skip: Skip::Full }).initial(1)
    };
    let changed = |change: fn(&mut Vec<NamedTensor>)| {
        let mut tensors = initial(2, 8);
        change(&mut tensors);
        tensors
    };
    let cases: [(_, &[&str]); 6] = [
        (initial(2, 16), &["'enc1.0.weight'", "[8, 2, 3, 3]", "[16, 2, 3, 3]", "base_channels 8"]),
        (initial(3, 8), &["'enc1.0.weight'", "[8, 2, 3, 3]", "[8, 3, 3, 3]", "use_intensity"]),
        (changed(|t| t[3].values[5] = f32::NAN), &["finite numbers", "NaN at element 5", "did not diverge"]),
        (changed(|t| drop(t.pop())), &["no such tensor", "another file"]),
        (changed(|t| t[0].name = "enc1.0.w".into()), &["'enc1.0.weight'", "no such tensor"]),
        (
            changed(|t| {
                let shape = vec![1];
                t.push(NamedTensor { name: "head.weight".into(), shape, values: vec![0.0] });
            }),
            &["'head.weight'", "the network does not have"],
        ),
    ];
    for (tensors, phrases) in cases {
        save_weights(&workshop.path("w.pth"), &tensors, 1).expect("a writable file");
        let phrases = [&["w.pth", "help: "], phrases].concat();
        train_refused(&workshop, &["--init-weights", "w.pth"], &phrases);
    }
}

#[test]
fn outputs_that_cannot_be_written_leave_nothing() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    workshop.write("file", "no directory");
    let mut cases: Vec<(&[&str], &[&str])> = vec![
        (&["--output-dir", "file", "--no-timestamp"], &["file", "a directory to make", "give another path"]),
        (&["--output-dir", "file/below"], &["file/below", "a directory to make", "give another path"]),
        (&["--log-file", "file/train.log"], &["file", "a directory to make"]),
        (&["--log-file", "data"], &["data", "a file to write", "directory"]),
    ];
    if cfg!(target_os = "linux") {
        cases.push((&["--output-dir", "/proc/absent"], &["/proc/absent", "a directory to make"]));
    }
    for (changed, phrases) in cases {
        train_refused(&workshop, changed, phrases);
    }
}

#[test]
fn a_target_without_any_rosette_is_warned_of() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let (image, labels, none) = ([32, 32], [1; 32 * 32], [0; 32 * 32]);
    let planes: [(&str, &[usize], Plane); 2] = [
        ("segmentation_outlines", &image, Plane::I32(&labels)),
        ("rosettes_binary", &image, Plane::U8(&none)),
    ];
    let bytes = encode(&planes, &[]).expect("shapes that fit");
    workshop.write(&sample("A"), &bytes);
    let output = workshop.train(&["--no-timestamp"]).output().expect("the binary runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 without any rosette pixel: A"), "{output:?}");

    workshop.write(&sample("B"), &bytes);
    let output = workshop.train(&["--no-timestamp", "--quiet"]).output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("no sample of 2 has a rosette pixel in 'rosettes_binary'"), "{said}");
    let log = std::fs::read_to_string(workshop.path("out/training.log")).expect("a log");
    assert!(log.contains("WARN training samples: no sample of 2"), "{log}");
}

/// `rosette split` in a workshop, with other values of its flags.
fn split(workshop: &Workshop, changed: &[&str]) -> Command {
    let flags = [
        ("--samples", &["A", "B", "C"][..]),
        ("--config-dir", &["out"]),
        ("--config-file", &["config.yaml"]),
        ("--experiment-name", &["tiny"]),
        ("--output-name", &["manifest.json"]),
    ];
    let mut command = rosette();
    command.current_dir(workshop.path("")).arg("split").args(changed);
    for (flag, values) in flags.into_iter().filter(|(flag, _)| !changed.contains(flag)) {
        command.arg(flag).args(values);
    }
    command
}

#[test]
fn a_split_that_cannot_be_is_refused() {
    let workshop = Workshop::new();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--samples"], &["--samples"]),
        (&["--samples", "A"], &["--samples", "at least 2", "found 1", "give more samples"]),
        (&["--samples", "A", "B", "A"], &["every sample once", "'A' twice"]),
        (&["--samples", "A", ""], &["an empty name"]),
        (&["--samples", "data/A", "data/B"], &["the path 'data/A'", "names of the samples' directories"]),
        (&["--config-file", "absent.yaml"], &["absent.yaml", "no such file"]),
        (&["--experiment-name", "tinyy"], &["did you mean `tiny`?"]),
        (&["--test-size", "1.5"], &["--test-size", "above 0 and below 1", "1.5"]),
        (&["--test-size", "-0.2"], &["--test-size", "-0.2"]),
        (&["--test-size", "0.9"], &["leaves a sample to train on", "0.9 of 3"]),
        (&["--test-size", "few"], &["--test-size", "few"]),
        (&["--random-state", "4294967296"], &["--random-state", "4294967295"]),
        (&["--random-state", "-1"], &["--random-state", "-1"]),
        (&["--config-dir", "config.yaml"], &["config.yaml", "a directory to make"]),
        (&["--output-name", "../data"], &["data", "a file to write"]),
    ];
    for (changed, phrases) in cases {
        refused(&workshop, split(&workshop, changed), &changed.join(" "), phrases);
    }
}

#[test]
fn synth_bench_and_demo_check_their_arguments() {
    let workshop = Workshop::new();
    let cases: &[(&str, &[&str])] = &[
        ("synth", &["--output-dir"]),
        ("synth --output-dir out --samples 0", &["--samples", "at least 1"]),
        ("synth --output-dir out --size 64", &["--size", "128 to 8192", "64"]),
        ("synth --output-dir out --layout flat", &["--layout", "flat", "separate, stacked"]),
        ("synth --output-dir config.yaml --samples 1 --size 128", &["config.yaml", "a directory to make"]),
        ("bench --step --patch 40", &["--patch", "multiple of 16", "40", "try 48"]),
        ("bench --step --patch 8192", &["--patch", "from 16 to 4096", "8192", "try 4096"]),
        ("bench --step --base 3", &["--base", "multiple of 8", "3", "try 8"]),
        ("bench --step --base 1000000", &["--base", "from 8 to 256", "1000000"]),
        ("bench --step --batch 0", &["--batch", "from 1 to 1024"]),
        ("bench --step --repeats 0", &["--repeats", "0"]),
        ("bench --step --clip-norm=-1", &["--clip-norm", "from 0 on", "-1"]),
        ("bench --step --clip-norm nan", &["--clip-norm", "from 0 on", "NaN"]),
        ("bench --step --adapter no-such-adapter", &["adapter"]),
        ("demo --output-dir out --override num_epochs=few", &["--override num_epochs=few", "an integer"]),
        ("demo --output-dir out --override patch_size=20", &["patch_size", "multiple of 16"]),
        ("demo --output-dir out --adapter no-such-adapter", &["adapter"]),
        ("train --plan --config config.yaml --experiment-name tinny", &["did you mean `tiny`?"]),
        (
            "train --config config.yaml --experiment-name tiny",
            &["--split-manifest", "--data-dir", "--output-dir"],
        ),
        ("trian", &["'trian'"]),
    ];
    for (line, phrases) in cases {
        let mut command = rosette();
        command.current_dir(workshop.path("")).args(line.split(' '));
        refused(&workshop, command, line, phrases);
    }
}

/// Before anything is measured, which takes minutes on a software adapter.
#[test]
fn bench_tells_what_is_wrong_with_the_file_to_compare_with() {
    let workshop = Workshop::new();
    let other = r#"{"rosette": "0.1.0", "device": "other", "driver": "", "system": "", "processors": 1,
        "base": 64, "patch": 512, "batch": 8, "precision": "f16", "skip": "pooled", "options": ["--ema"], "filter": null,
        "convolutions": 0, "measured": 0, "step_ms_median": 1, "step_ms_best": 1, "step_ms_streamed": 1, "first_step_ms": 1, "submit_ms_median": 1, "gflop": 1, "planned_bytes": 1, "bound_bytes": 1, "least_bytes": 1,
        "ceilings": null, "kernels": [], "phases": []}"#;
    workshop.write("other.json", other);
    workshop.write("cut.json", &other[..200]);
    let one = other.replace("64, \"patch\": 512, \"batch\": 8", "16, \"patch\": 128, \"batch\": 4");
    let one = one.replace("pooled", "full").replace("[\"--ema\"]", "[]");
    workshop.write("one.json", one.replace("\"filter\": null", "\"filter\": \"adamw\""));
    for (file, phrases) in [
        ("none.json", vec!["none.json", "a file to read", "no such file"]),
        ("cut.json", vec!["cut.json", "bench --step --json", "EOF", "write it anew"]),
        (
            "other.json",
            vec![
                "other.json",
                "a step of --base 16 --patch 128 --batch 4,",
                "rosette bench --step --base 64 --patch 512 --batch 8 --pooled --ema",
            ],
        ),
        ("one.json", vec!["one.json", "all kernels", "measure the same here: --filter adamw"]),
    ] {
        let mut bench = rosette();
        bench.current_dir(workshop.path("")).args(["bench", "--step", "--against", file]);
        refused(&workshop, bench, file, &phrases);
    }
}

/// An empty table would look like a device that takes no time.
#[test]
fn a_filter_that_no_kernel_matches_is_refused_with_those_there_are() {
    let Some(gpu) = common::device() else { return };
    if !gpu.summary().timestamps {
        return println!("SKIPPED: {} has no timestamps", gpu.summary());
    }
    let workshop = Workshop::new();
    let line = "bench --base 8 --patch 16 --batch 1 --repeats 1 --filter conv9d";
    let mut command = rosette();
    command.current_dir(workshop.path("")).args(line.split(' '));
    refused(&workshop, command, line, &["--filter", "conv9d", "choose one of: ", "batch_norm, "]);
}

#[test]
fn sizes_beyond_the_device_are_refused_with_the_numbers() {
    let Some(gpu) = common::device() else { return };
    let workshop = Workshop::new();
    let refuse = |[patch, base, batch]: [u64; 3], place: &str, factor: u64| {
        let bytes = patch * patch * factor * 4;
        if bytes <= gpu.limits().storage_binding_bytes {
            return;
        }
        let size = format!("{} MiB ({patch} x {patch} x {factor} x 4 bytes)", bytes >> 20);
        let sizes = [("patch_size", patch), ("base_channels", base), ("batch_size", batch)];
        let overrides = sizes.map(|(key, value)| ["--override".to_string(), format!("{key}={value}")]);
        let mut plan = rosette();
        plan.current_dir(workshop.path(""));
        plan.args(["train", "--plan", "--config", "config.yaml", "--experiment-name", "tiny"]);
        plan.args(overrides.as_flattened()).args(["--override", "batch_fit=error"]);
        refused(&workshop, plan, "train --plan", &[place, &size, "rosette devices"]);
        let mut bench = rosette();
        bench.args(["bench", "--step"]);
        for (flag, value) in [("--patch", patch), ("--base", base), ("--batch", batch)] {
            bench.args([flag, &value.to_string()]);
        }
        refused(&workshop, bench, "bench", &[place, &size, "rosette devices"]);
    };
    refuse([4096, 256, 1], "patch_size and base_channels", 256);
    refuse([512, 8, 1024], "patch_size and batch_size", 1024);
}

#[test]
#[cfg(unix)]
fn a_reader_that_leaves_and_a_full_disk_are_no_panics() {
    let run = |redirect: &str| {
        let line = format!("\"$0\" devices {redirect}");
        std::process::Command::new("sh")
            .args(["-c", &line, env!("CARGO_BIN_EXE_rosette")])
            .output()
            .expect("a shell")
    };
    let closed = run(">&-");
    assert_eq!(closed.status.code(), Some(0), "{closed:?}");
    let left = run("| true");
    assert!(!String::from_utf8_lossy(&left.stderr).contains("panicked"), "{left:?}");
    if Path::new("/dev/full").exists() {
        let full = run("> /dev/full");
        assert_eq!(full.status.code(), Some(1), "{full:?}");
        assert!(String::from_utf8_lossy(&full.stderr).contains("error: standard output:"), "{full:?}");
    }
}

#[test]
fn samples_of_either_layout_are_sound_before_they_are_damaged() {
    let Some(_) = common::device() else { return };
    let workshop = Workshop::new();
    workshop.write(&sample("B"), tissue(40, 56, Form::Stacked));
    workshop.train(&["--no-timestamp", "--quiet"]).assert().success();
    assert!(workshop.path("out/best_model.pth").is_file());
}
