//! Weight files that are damaged, hostile or of something else, in both formats: a reader that answers whatever it is
//! given, and commands that name the file, leave with 2 and write nothing.

#[path = "common/workshop.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod workshop;

use std::path::Path;

use proptest::prelude::*;
use rosette::config::Skip;
use rosette::exchange::{Format, export};
use rosette::inference::Model;
use rosette::interop::{TensorData, Values, read_safetensors, write_pth, write_safetensors};
use rosette::model::{AttentionUNet, Spec};
use rosette::train::state_dict;
use workshop::{Workshop, rosette};

/// Executions of each property; more by ROSETTE_FUZZ.
fn cases(usual: u32) -> ProptestConfig {
    let cases = std::env::var("ROSETTE_FUZZ").ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// A file of a header and so many bytes of data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn entry(name: &str, dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":[{shape}],\"data_offsets\":[{from},{to}]}}")
}

fn refusal(bytes: &[u8]) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let error = read_safetensors(&path).err()?;
    assert_eq!(error.exit_code(), 2);
    Some(error.to_string())
}

#[test]
fn headers_that_lie_are_refused() {
    let one = |entry: String| format!("{{{entry}}}");
    let two = |a: String, b: String| format!("{{{a},{b}}}");
    let data = [0; 16];
    let sound = file(&two(entry("a", "F32", "2", 0, 8), entry("b", "F32", "2", 8, 16)), &data);
    assert_eq!(refusal(&sound), None, "the cases differ from what is right");
    let most = u64::MAX.to_string();
    let lies: [(&str, Vec<u8>); 19] = [
        ("empty", Vec::new()),
        ("shorter than its length", vec![1, 2, 3]),
        ("a length beyond the file", [&[0xff; 8][..], b"{}"].concat()),
        ("a length of 4 GiB", [&(1u64 << 32).to_le_bytes()[..], b"{}"].concat()),
        ("no JSON", file("{", &data)),
        ("JSON of something else", file("[1, 2]", &data)),
        ("no UTF-8", [&4u64.to_le_bytes()[..], &[0xff; 4], &data].concat()),
        ("nested a million times", file(&"[".repeat(1 << 20), &data)),
        ("cut off", sound[..sound.len() - 1].to_vec()),
        ("more data than tensors", [&sound[..], &[0]].concat()),
        ("overlap", file(&two(entry("a", "F32", "2", 0, 8), entry("b", "F32", "2", 4, 12)), &data)),
        (
            "the same bytes twice",
            file(&two(entry("a", "F32", "4", 0, 16), entry("b", "F32", "4", 0, 16)), &data),
        ),
        ("a gap", file(&two(entry("a", "F32", "1", 0, 4), entry("b", "F32", "2", 8, 16)), &data)),
        ("backwards", file(&one(entry("a", "F32", "2", 8, 0)), &data)),
        ("beyond the end", file(&one(entry("a", "F32", "1024", 0, 4096)), &data)),
        ("fewer bytes than elements", file(&one(entry("a", "F32", "1000000000000", 0, 16)), &data)),
        ("a size that overflows", file(&one(entry("a", "F32", &format!("{most},{most}"), 0, 16)), &data)),
        ("a negative size", file(&one(entry("a", "F32", "-4", 0, 16)), &data)),
        ("an unknown type", file(&one(entry("a", "F31", "4", 0, 16)), &data)),
    ];
    for (what, bytes) in lies {
        let said = refusal(&bytes).unwrap_or_else(|| panic!("{what} was read"));
        assert!(said.contains("w.safetensors: expected a safetensors file"), "{what}: {said}");
    }
    let said = refusal(&file(&one(entry("a", "U8", "16", 0, 16)), &data)).expect("no weights are bytes");
    assert!(said.contains("w.safetensors: a: expected floats") && said.contains("found U8"), "{said}");
}

fn network() -> Vec<TensorData> {
    let net = AttentionUNet::new(Spec { in_channels: 2, base_channels: 8, skip: Skip::Full });
    state_dict(&net.initial(1), 5)
}

/// The network's state dict with one thing changed.
fn with(change: impl Fn(&mut Vec<TensorData>)) -> Vec<TensorData> {
    let mut tensors = network();
    change(&mut tensors);
    tensors
}

fn set(tensor: &mut TensorData, at: usize, value: f32) {
    let Values::F32(values) = &mut tensor.values else { panic!("{} holds floats", tensor.name) };
    values[at] = value;
}

/// What is wrong with a state dict, and what has to be said.
fn wrong_dicts() -> Vec<(&'static str, Vec<TensorData>, &'static str)> {
    vec![
        ("missing", with(|t| drop(t.remove(7))), "no such tensor"),
        (
            "extra",
            with(|t| t.push(TensorData::f32("head", &[1], vec![1.0]))),
            "that the network does not have",
        ),
        ("nan", with(|t| set(&mut t[0], 5, f32::NAN)), "NaN at element 5"),
        ("infinite", with(|t| set(&mut t[1], 2, f32::NEG_INFINITY)), "-inf at element 2"),
        ("variance", with(|t| set(&mut t[5], 0, -1.0)), "variances, from 0 up, found -1 at element 0"),
        ("shape", with(|t| t[2].shape = vec![2, 4]), "[2, 4]"),
        ("integers", with(|t| t[2] = TensorData::i64(&t[2].name, &[8], vec![0; 8])), "floats of shape [8]"),
        ("none", Vec::new(), ""),
        ("other", vec![TensorData::f32("fc.weight", &[2, 2], vec![0.0; 4])], "enc1.0.weight"),
    ]
}

/// Writes each into the workshop: names with what has to be said.
fn wrong_files(workshop: &Workshop) -> Vec<(String, &'static str)> {
    let mut files = Vec::new();
    for (what, tensors, said) in wrong_dicts() {
        let name = |extension: &str| format!("{what}.{extension}");
        write_pth(&workshop.path(&name("pth")), &tensors).unwrap();
        write_safetensors(&workshop.path(&name("safetensors")), &tensors).unwrap();
        files.extend([(name("pth"), said), (name("safetensors"), said)]);
    }
    for (name, write) in
        [("cut.pth", write_pth as fn(&Path, &[TensorData]) -> _), ("cut.safetensors", write_safetensors)]
    {
        write(&workshop.path(name), &network()).unwrap();
        let bytes = std::fs::read(workshop.path(name)).unwrap();
        workshop.write(name, &bytes[..bytes.len() * 2 / 3]);
        files.push((name.to_string(), "copy"));
    }
    for hostile in ["hostile.pth", "whole_module.pth", "torchscript.pt", "legacy.pth", "complex.pth"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pth").join(hostile);
        workshop.write(hostile, std::fs::read(path).unwrap());
        files.push((hostile.to_string(), "help: "));
    }
    files.push(("text.pth".into(), "no zip archive"));
    workshop.write("text.pth", "weights");
    files
}

fn refused(workshop: &Workshop, arguments: &[&str], file: &str, phrase: &str) {
    let done = rosette().args(arguments).current_dir(workshop.path("")).output().expect("it runs");
    let said = String::from_utf8_lossy(&done.stderr).replace('\n', " ");
    assert_eq!(done.status.code(), Some(2), "{arguments:?}: {said}");
    assert!(said.contains(file) && said.contains(phrase) && said.contains("help: "), "{arguments:?}: {said}");
}

#[test]
fn every_command_that_reads_weights_refuses_wrong_files_and_writes_nothing() {
    let workshop = Workshop::new();
    let files = wrong_files(&workshop);
    assert!(files.len() > 25);
    let before = workshop.files();
    for (file, phrase) in &files {
        let skip = ["--skip", "full"];
        let data = ["--data-dir", "data", "--output-dir", "made"];
        for command in ["predict", "evaluate"] {
            refused(&workshop, &[&[command, "--model", file][..], &skip, &data].concat(), file, phrase);
        }
        let onnx = ["--format", "onnx", "--output", "made.onnx"];
        refused(&workshop, &[&["export", "--model", file][..], &skip, &onnx].concat(), file, phrase);
        refused(&workshop, &[&["import", file, "--output-dir", "made"][..], &skip].concat(), file, phrase);
        let done = workshop.train(&["--no-timestamp", "--init-weights", file]).output().expect("it runs");
        let said = String::from_utf8_lossy(&done.stderr).replace('\n', " ");
        assert_eq!(done.status.code(), Some(2), "{file}: {said}");
        assert!(said.contains(file.as_str()) && said.contains(phrase), "{file}: {said}");
        assert!(workshop.files() == before, "{file}: something was written");
    }
}

/// A small file with every type of element that is read, and one of our own with a record in its header.
fn seeds() -> (Vec<u8>, Vec<u8>) {
    let header = [
        "\"__metadata__\":{\"format\":\"pt\"}".to_string(),
        entry("half", "F16", "2", 0, 4),
        entry("bf", "BF16", "2", 4, 8),
        entry("single", "F32", "2,1", 8, 16),
        entry("double", "F64", "1", 16, 24),
        entry("int", "I32", "2", 24, 32),
        entry("long", "I64", "", 32, 40),
        entry("none", "F32", "0,3", 40, 40),
    ];
    let small = file(&format!("{{{}}}", header.join(",")), &[0x3f; 40]);
    assert_eq!(refusal(&small), None, "what is mutated is sound");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    write_safetensors(&path, &network()).unwrap();
    let model = Model::open(&path, Some(Skip::Full)).unwrap();
    let own = dir.path().join("own.safetensors");
    export(&model, &Format::Safetensors, &own).unwrap();
    (small, std::fs::read(&own).unwrap())
}

type Changes = Vec<(prop::sample::Index, u8)>;

fn changes() -> impl Strategy<Value = Changes> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
}

/// Changes bytes among the first `range`.
fn mutate(bytes: &mut [u8], range: usize, changes: &Changes) {
    for (index, byte) in changes {
        bytes[index.index(range)] = *byte;
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn mutated_safetensors_are_answered(
        changes in changes(),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = SEEDS.with(|(small, _)| small.clone());
        let len = bytes.len();
        mutate(&mut bytes, len, &changes);
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        match read_safetensors(&path) {
            Ok(tensors) => prop_assert!(tensors.iter().map(|t| t.values.len()).sum::<usize>() <= bytes.len()),
            Err(error) => prop_assert_eq!(error.exit_code(), 2),
        }
    }
}

proptest! {
    #![proptest_config(cases(300))]

    /// The header of a whole model, in which the record stands as well.
    #[test]
    fn a_model_with_a_mutated_header_is_opened_or_refused(changes in changes()) {
        let mut bytes = SEEDS.with(|(_, own)| own.clone());
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        mutate(&mut bytes, header, &changes);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        std::fs::write(&path, &bytes).unwrap();
        match Model::open(&path, None) {
            Ok(model) => prop_assert_eq!(model.net.spec().in_channels, 2),
            Err(error) => prop_assert_eq!(error.exit_code(), 2),
        }
    }

    /// The same with the digits of its record replaced, so that it still is JSON: no size leads astray.
    #[test]
    fn a_model_with_another_record_is_opened_or_refused(
        base in prop::sample::select(vec!["0", "8", "7", "16", "256", "18446744073709551615", "1e400", "-8", "null"]),
        patch in prop::sample::select(vec!["0", "512", "17", "4096", "18446744073709551600", "0.5"]),
        threshold in prop::sample::select(vec!["null", "0.5", "-1", "2", "1e308"]),
    ) {
        let bytes = SEEDS.with(|(_, own)| own.clone());
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = std::str::from_utf8(&bytes[8..8 + length]).unwrap();
        let change = |text: &str, key: &str, from: &str, to: &str| {
            let old = format!("\\\"{key}\\\":{from}");
            assert!(text.contains(&old), "{old} in {}", &text[..2000]);
            text.replacen(&old, &format!("\\\"{key}\\\":{to}"), 1)
        };
        let header = change(header, "base_channels", "8", base);
        let header = change(&header, "patch_size", "512", patch);
        let header = change(&header, "threshold", "null", threshold);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        std::fs::write(&path, file(&header, &bytes[8 + length..])).unwrap();
        match Model::open(&path, None) {
            Ok(model) => {
                prop_assert_eq!(model.net.spec().base_channels, 8);
                prop_assert!(model.window_px % 16 == 0 && (0.0..=1.0).contains(&model.threshold));
            }
            Err(error) => prop_assert_eq!(error.exit_code(), 2),
        }
    }
}

thread_local! {
    static SEEDS: (Vec<u8>, Vec<u8>) = seeds();
}
