//! Models to and from other programs: the ONNX graph against PyTorch's results, round trips to the bit, the package, and
//! what is said of mistakes.

mod common;
#[path = "common/onnx.rs"]
mod onnx;
#[path = "common/workshop.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod workshop;

use std::io::Read;
use std::path::{Path, PathBuf};

use prost::Message;
use rosette::config::Skip;
use rosette::exchange::{Format, Import, export, import};
use rosette::inference::Model;
use rosette::interop::onnx::Model as OnnxModel;
use rosette::interop::{Values, read_safetensors, read_safetensors_with};
use rosette::report::RunRecord;
use sha2::{Digest, Sha256};
use workshop::{Workshop, rosette};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

const SKIPS: [(Skip, &str); 2] = [(Skip::Full, "full"), (Skip::Pooled, "pooled")];

fn model(skip: Skip) -> Model {
    Model::open(&golden("net_weights.safetensors"), Some(skip)).expect("the golden")
}

/// What the file holds once it is read again.
fn written(skip: Skip) -> OnnxModel {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.onnx");
    export(&model(skip), &Format::Onnx, &path).expect("it is written");
    OnnxModel::decode(std::fs::read(&path).unwrap().as_slice()).expect("a protocol buffer")
}

/// [N, H, W, C] to [N, C, H, W].
fn channels_first(values: &[f32], [n, h, w, c]: [usize; 4]) -> onnx::Value {
    let at = |i: usize| {
        let (image, channel, pixel) = (i / (c * h * w), i / (h * w) % c, i % (h * w));
        f64::from(values[(image * h * w + pixel) * c + channel])
    };
    onnx::Value { shape: vec![n, c, h, w], values: (0..values.len()).map(at).collect() }
}

/// The graph is computed in f64 here and was computed in f64 by PyTorch: nothing but the rounding of the golden's
/// logits to f32 may lie between them.
#[test]
fn the_graph_computes_what_pytorch_computes() {
    for (skip, word) in SKIPS {
        let goldens = read_safetensors(&golden(&format!("net_{word}.safetensors"))).expect("the golden");
        let get = |name: &str| {
            let found = goldens.iter().find(|tensor| tensor.name == name).expect("in the golden");
            let Values::F32(values) = &found.values else { panic!("floats") };
            (found.shape.clone(), values)
        };
        let ((shape, x), (_, logits)) = (get("x"), get("logits_eval"));
        let graph = written(skip).graph.expect("a graph");
        let found = onnx::run(&graph, channels_first(x, shape.try_into().unwrap()));
        assert_eq!(found.shape, [4, 1, 64, 64]);
        let expected = logits.iter().map(|logit| 1.0 / (1.0 + (-f64::from(*logit)).exp()));
        let apart = found.values.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        println!("{word}: {apart:e}");
        assert!(apart < 1e-6, "{word}: {apart}");
        assert!(found.values.iter().any(|p| *p > 0.6) && found.values.iter().any(|p| *p < 0.4));
    }
}

#[test]
fn the_graph_holds_the_weights_to_the_bit_and_says_what_it_is() {
    for (skip, word) in SKIPS {
        let (model, file) = (model(skip), written(skip));
        assert_eq!((file.ir_version, file.opset_import[0].version), (8, 17));
        let graph = file.graph.expect("a graph");
        for tensor in &model.tensors {
            let found = graph.initializer.iter().find(|found| found.name == tensor.name);
            let found = found.unwrap_or_else(|| panic!("no {}", tensor.name));
            assert_eq!(found.dims, tensor.shape.iter().map(|size| *size as i64).collect::<Vec<_>>());
            let same =
                onnx::floats(found).iter().zip(&tensor.values).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{}", tensor.name);
            let uses = graph.node.iter().filter(|node| node.input.contains(&tensor.name)).count();
            assert_eq!(uses, 1, "{} is read once", tensor.name);
        }
        assert_eq!(graph.initializer.len(), model.tensors.len() + usize::from(skip == Skip::Pooled));
        let dims = |info: &rosette::interop::onnx::ValueInfo| -> Vec<String> {
            let shape = info.kind.clone().unwrap().tensor.unwrap().shape.unwrap();
            shape.dim.into_iter().map(|d| d.name.unwrap_or_else(|| d.value.unwrap().to_string())).collect()
        };
        assert_eq!(dims(&graph.input[0]), ["batch", "2", "height", "width"]);
        assert_eq!(dims(&graph.output[0]), ["batch", "1", "height", "width"]);
        let said = |key: &str| {
            let key = format!("rosette.{key}");
            file.metadata_props
                .iter()
                .find(|property| property.key == key)
                .map(|property| property.value.clone())
        };
        assert_eq!(said("skip").as_deref(), Some(word));
        assert_eq!(said("threshold").as_deref(), Some("0.5"));
        assert!(said("channels").expect("their meaning").starts_with("boundaries: 1 where"));
    }
}

/// A variable-length number of the wire format, and what follows it.
fn varint(bytes: &[u8]) -> (u64, &[u8]) {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0).expect("an end");
    let value = bytes[..=end].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    (value, &bytes[end + 1..])
}

/// What stands under a path of field numbers, as bytes; numbers as eight of them.
fn fields(mut bytes: &[u8], path: &[u64]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (tag, rest) = varint(bytes);
        let (content, rest) = match tag & 7 {
            0 => {
                let (value, rest) = varint(rest);
                (value.to_le_bytes().to_vec(), rest)
            }
            2 => {
                let (length, rest) = varint(rest);
                (rest[..length as usize].to_vec(), &rest[length as usize..])
            }
            5 => (rest[..4].to_vec(), &rest[4..]),
            other => panic!("wire type {other}"),
        };
        bytes = rest;
        if tag >> 3 == path[0] {
            if path.len() == 1 { found.push(content) } else { found.extend(fields(&content, &path[1..])) }
        }
    }
    found
}

/// The reader above shares its field numbers with the writer. Here they are those of onnx.proto, read off the bytes.
#[test]
fn the_file_has_the_field_numbers_of_the_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net.onnx");
    let model = model(Skip::Pooled);
    export(&model, &Format::Onnx, &path).unwrap();
    let file = bytes(&path);
    let texts = |path: &[u64]| -> Vec<String> {
        fields(&file, path).into_iter().map(|bytes| String::from_utf8(bytes).expect("UTF-8")).collect()
    };
    let numbers = |path: &[u64]| -> Vec<u64> {
        fields(&file, path).into_iter().map(|b| u64::from_le_bytes(b.try_into().expect("a number"))).collect()
    };
    // ModelProto: ir_version 1, producer_name 2, graph 7, opset_import 8 {version 2}, metadata_props 14 {key 1}.
    assert_eq!((numbers(&[1]), numbers(&[8, 2])), (vec![8], vec![17]));
    assert_eq!(texts(&[2]), ["rosette"]);
    assert!(texts(&[14, 1]).contains(&"rosette.threshold".to_string()));
    // GraphProto: node 1 {input 1, output 2, op_type 4, attribute 5}, initializer 5, input 11, output 12.
    let operators = texts(&[7, 1, 4]);
    let count = |name: &str| operators.iter().filter(|operator| *operator == name).count();
    assert_eq!(
        ["Conv", "ConvTranspose", "BatchNormalization", "AveragePool", "Resize"].map(count),
        [18 + 12 + 1, 4, 18 + 12, 4, 4]
    );
    assert_eq!(texts(&[7, 1, 2]).len(), operators.len());
    assert_eq!(texts(&[7, 1, 1])[..3], ["image", "enc1.0.weight", "enc1.0.bias"]);
    // AttributeProto: name 1, f 2, i 3, s 4, ints 8, type 20 (1 a float, 2 an integer, 3 a text, 7 integers).
    assert_eq!(texts(&[7, 1, 5, 1])[..2], ["kernel_shape", "pads"]);
    assert_eq!(numbers(&[7, 1, 5, 8])[..6], [3, 3, 1, 1, 1, 1]);
    assert!(fields(&file, &[7, 1, 5, 2]).iter().all(|bytes| *bytes == 1e-5_f32.to_le_bytes()));
    assert_eq!(numbers(&[7, 1, 5, 3]), [1; 4], "the axes of concatenations");
    assert_eq!(texts(&[7, 1, 5, 4])[..2], ["linear", "half_pixel"]);
    assert_eq!(numbers(&[7, 1, 5, 20])[..3], [7, 7, 1]);
    // TensorProto: dims 1, data_type 2 (1 is float), name 8, raw_data 9.
    assert_eq!(numbers(&[7, 5, 1])[..4], [8, 2, 3, 3]);
    assert!(numbers(&[7, 5, 2]).iter().all(|kind| *kind == 1));
    assert_eq!(texts(&[7, 5, 8])[0], "enc1.0.weight");
    assert_eq!(fields(&file, &[7, 5, 9])[0].len(), 4 * 8 * 2 * 9);
    // ValueInfoProto: name 1, type 2 {tensor_type 1 {elem_type 1, shape 2 {dim 1 {dim_value 1, dim_param 2}}}}.
    assert_eq!((texts(&[7, 11, 1]), texts(&[7, 12, 1])), (vec!["image".into()], vec!["probability".into()]));
    assert_eq!(texts(&[7, 11, 2, 1, 2, 1, 2]), ["batch", "height", "width"]);
    assert_eq!((numbers(&[7, 11, 2, 1, 2, 1, 1]), numbers(&[7, 12, 2, 1, 2, 1, 1])), (vec![2], vec![1]));
    assert_eq!(numbers(&[7, 11, 2, 1, 1]), [1]);
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Exports, imports what was exported, exports that: the same bytes.
#[test]
fn round_trips_are_equal_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    for (skip, word) in SKIPS {
        let original = model(skip);
        for (format, extension) in [(Format::Pth, "pth"), (Format::Safetensors, "safetensors")] {
            let at = |name: &str| dir.path().join(format!("{word}-{extension}")).join(name);
            let first = at("first").with_extension(extension);
            export(&original, &format, &first).unwrap();
            let wanted = Import {
                weights: first.clone(),
                // A safetensors file of ours says itself which variant it is of.
                skip: (extension == "pth").then_some(skip),
                patch_px: Some(64),
                name: None,
                output_dir: at("model"),
            };
            let imported = import(&wanted).unwrap();
            assert_eq!((imported.net.spec().skip, imported.window_px), (skip, 64));
            let opened = Model::open(&at("model"), None).expect("config.json says the rest");
            assert_eq!(opened.tensors, original.tensors);
            assert_eq!(opened.batches_tracked, original.batches_tracked);
            let second = at("second").with_extension(extension);
            export(&opened, &format, &second).unwrap();
            let third = at("third").with_extension(extension);
            export(&Model::open(&second, wanted.skip).unwrap(), &format, &third).unwrap();
            assert!(bytes(&second) == bytes(&third), "{word}.{extension}");
            if extension == "pth" {
                assert!(
                    bytes(&first) == bytes(&second) && bytes(&first) == bytes(&at("model/best_model.pth"))
                );
            } else {
                assert_eq!(read_safetensors(&first).unwrap(), read_safetensors(&second).unwrap());
            }
        }
    }
}

#[test]
fn what_is_known_of_a_model_survives_safetensors() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = model(Skip::Pooled);
    let mut record = model.record_or_known("tissue");
    record.threshold = Some(0.37);
    record.model.patch_size = 96;
    model.record = Some(record.clone());
    let path = dir.path().join("w.safetensors");
    export(&model, &Format::Safetensors, &path).unwrap();
    let (_, texts) = read_safetensors_with(&path).unwrap();
    assert_eq!(RunRecord::parse(&texts[RunRecord::KEY], &path).unwrap(), record);
    let found = Model::open(&path, None).unwrap();
    assert_eq!((found.threshold, found.window_px, found.net.spec()), (0.37, 96, model.net.spec()));
    assert_eq!(found.record_path, None, "there is no config.json to write a threshold into");
    let error = Model::open(&path, Some(Skip::Full)).unwrap_err().to_string();
    assert!(error.contains("--skip as the model has it, Pooled"), "{error}");
}

fn unpacked(path: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes(path))).expect("an archive");
    let names: Vec<String> = zip.file_names().map(|name| name.expect("UTF-8").into_owned()).collect();
    let read = |name: String| {
        let mut content = Vec::new();
        zip.by_name(&name).unwrap().read_to_end(&mut content).unwrap();
        (name, content)
    };
    names.into_iter().map(read).collect()
}

fn npy_floats(bytes: &[u8]) -> Vec<f32> {
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[start..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn a_package_is_whole_and_its_test_passes() {
    if common::device().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.zip");
    let weights = golden("net_weights.safetensors");
    let done = rosette()
        .args([
            "export",
            "--format",
            "bioimageio",
            "--skip",
            "pooled",
            "--author",
            "Ada Byron @ada",
            "--model",
        ])
        .arg(&weights)
        .args(["--license", "CC-BY-4.0", "--output"])
        .arg(&path)
        .output()
        .expect("it runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let files = unpacked(&path);
    let text = String::from_utf8(files["rdf.yaml"].clone()).unwrap();
    let description: serde_json::Value = serde_saphyr::from_str(&text).expect("YAML");
    // Every file that the description names is there, with that checksum, and none that it does not name.
    let mut named = vec![("rdf.yaml".to_string(), String::new())];
    collect_sources(&description, &mut named);
    named.sort();
    assert_eq!(named.iter().map(|(name, _)| name).collect::<Vec<_>>(), files.keys().collect::<Vec<_>>());
    for (name, sha256) in &named[..] {
        let found = rosette::files::hex(&Sha256::digest(&files[name]));
        assert!(name == "rdf.yaml" || found == *sha256, "{name}");
    }
    assert_eq!(description["authors"][0], serde_json::json!({ "name": "Ada Byron", "github_user": "ada" }));
    assert_eq!(description["weights"]["pytorch_state_dict"]["architecture"]["kwargs"]["skip"], "pooled");
    assert!(files["cover.png"].len() < 500_000, "as the format asks");
    let (input, output) = (npy_floats(&files["test_input.npy"]), npy_floats(&files["test_output.npy"]));
    assert_eq!((input.len(), output.len()), (2 * 256 * 256, 256 * 256));
    let onnx = OnnxModel::decode(files["weights.onnx"].as_slice()).expect("a protocol buffer");
    let input =
        onnx::Value { shape: vec![1, 2, 256, 256], values: input.into_iter().map(f64::from).collect() };
    let found = onnx::run(&onnx.graph.expect("a graph"), input);
    let apart = found.values.iter().zip(&output).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max);
    println!("test tensors: {apart:e}");
    assert!(apart < 1e-5, "{apart}");
}

fn collect_sources(value: &serde_json::Value, found: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(fields) => {
            if let (Some(source), Some(sha256)) = (fields.get("source"), fields.get("sha256")) {
                found.push((source.as_str().unwrap().into(), sha256.as_str().unwrap().into()));
            }
            fields.values().for_each(|value| collect_sources(value, found));
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect_sources(value, found)),
        _ => {}
    }
}

#[test]
fn mistakes_are_told_and_nothing_is_written() {
    let workshop = Workshop::new();
    let weights = golden("net_weights.safetensors");
    let weights = weights.to_str().unwrap();
    let with = |usual: &[&str], more: &[&str]| -> Vec<String> {
        usual.iter().chain(more).map(|word| word.to_string()).collect()
    };
    let export = |more: &[&str]| with(&["export", "--output", "made", "--model", weights], more);
    let import = |more: &[&str]| with(&["import", "--output-dir", "made", weights], more);
    workshop.write("there/config.json", "{}");
    workshop.write("odd/config.json", "{}");
    workshop.write("odd/best_model.pth", "");
    let package = ["--format", "bioimageio", "--skip", "full"];
    let others = ["--format", "onnx", "--skip", "full"];
    let cases: Vec<(Vec<String>, &str)> = vec![
        (export(&[&others[..], &["--name", "a name"]].concat()), "--name: expected --format bioimageio"),
        (export(&[&others[..], &["--author", "A"]].concat()), "--author: expected --format bioimageio"),
        (export(&[&others[..], &["--license", "MIT"]].concat()), "--license: expected --format bioimageio"),
        (export(&[&others[..], &["--sample", "a.png"]].concat()), "--sample: expected --format bioimageio"),
        (export(&["--format", "onnx"]), "--skip full or --skip pooled, for weights without a config.json"),
        (export(&["--format", "gguf"]), "possible values: pth, safetensors, onnx, bioimageio"),
        (export(&[&package[..], &["--license", "MIT"]].concat()), "--author: expected who made the model"),
        (export(&[&package[..], &["--author", "A/B", "--license", "MIT"]].concat()), "found A/B"),
        (export(&[&package[..], &["--author", " @account", "--license", "MIT"]].concat()), "--author"),
        (export(&[&package[..], &["--author", "A", "--license", "Banana"]].concat()), "found Banana"),
        (
            export(&[&package[..], &["--author", "A"]].concat()),
            "--license: expected the identifier of a licence",
        ),
        (
            export(&[&package[..], &["--author", "A", "--license", "MIT", "--name", "abc"]].concat()),
            "--name: expected 5 to 64 characters, found abc",
        ),
        (import(&[]), "--skip full or --skip pooled"),
        (import(&["--skip", "full", "--patch-size", "100"]), "--patch-size: expected a multiple of 16"),
        (
            with(&["import", weights, "--skip", "full", "--output-dir", "there"], &[]),
            "there/config.json: expected a directory without a model",
        ),
        (
            with(&["import", "nowhere.pth", "--output-dir", "made"], &[]),
            "nowhere.pth: expected a training's directory",
        ),
        (
            with(&["export", "--model", "odd", "--format", "pth", "--output", "made"], &[]),
            "odd/config.json: expected the record",
        ),
        (
            with(
                &["export", "--model", weights, "--skip", "full", "--format", "pth", "--output", "data"],
                &[],
            ),
            "data: expected a file to write, found a directory",
        ),
    ];
    let before = workshop.files();
    for (arguments, expected) in cases {
        let done = rosette().args(&arguments).current_dir(workshop.path("")).output().expect("it runs");
        let said = String::from_utf8_lossy(&done.stderr).replace('\n', " ");
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    assert!(workshop.files() == before, "something was written");
}

/// The state dict says nothing of skip and threshold: a record of other weights would be believed.
#[test]
fn weights_beside_the_record_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("model");
    let wanted = Import {
        weights: golden("net_weights.safetensors"),
        skip: Some(Skip::Pooled),
        patch_px: None,
        name: None,
        output_dir: made.clone(),
    };
    import(&wanted).unwrap();
    let mut other = model(Skip::Full);
    other.tensors[0].values[0] += 1.0;
    let weights = made.join("best_model.pth");
    let kept = bytes(&weights);
    std::fs::remove_file(&weights).unwrap();
    export(&other, &Format::Pth, &weights).unwrap();
    std::fs::write(made.join("same.pth"), &kept).unwrap();
    for path in [&made, &weights] {
        let error = Model::open(path, None).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("best_model.pth: expected the weights that"), "{error}");
        assert!(error.to_string().contains("`rosette import` them with --skip"), "{error}");
    }
    assert_eq!(Model::open(&made.join("same.pth"), None).unwrap().net.spec().skip, Skip::Pooled);
    // A threshold changes the record alone, and a record without a checksum is that of a training under way.
    std::fs::write(&weights, &kept).unwrap();
    let mut record = RunRecord::read(&made.join("config.json")).unwrap();
    record.threshold = Some(0.3);
    record.write(&made.join("config.json")).unwrap();
    assert_eq!(Model::open(&made, None).unwrap().threshold, 0.3);
    record.weights_sha256 = None;
    record.write(&made.join("config.json")).unwrap();
    export(&other, &Format::Pth, &made.join("later.pth")).unwrap();
    assert!(Model::open(&made.join("later.pth"), None).is_ok());
}

#[test]
fn a_model_is_not_exported_over_itself() {
    let dir = tempfile::tempdir().unwrap();
    let weights = dir.path().join("w.safetensors");
    std::fs::copy(golden("net_weights.safetensors"), &weights).unwrap();
    let model = Model::open(&weights, Some(Skip::Full)).unwrap();
    std::fs::write(dir.path().join("config.json"), "a record").unwrap();
    std::fs::create_dir(dir.path().join("in")).unwrap();
    let before = bytes(&weights);
    for name in ["w.safetensors", "in/../w.safetensors", "config.json"] {
        let error = export(&model, &Format::Safetensors, &dir.path().join(name)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("found one of the model's own"), "{error}");
    }
    assert!(bytes(&weights) == before);
    assert_eq!(bytes(&dir.path().join("config.json")), b"a record");
}
