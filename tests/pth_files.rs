//! Checkpoints that PyTorch wrote are read to the value, and what is written here is, byte for byte, a file that
//! PyTorch 1.13 and 2.4 loaded (`tests/fixtures/pth/check_written.py`).

use std::path::{Path, PathBuf};

use rosette::interop::{TensorData, Values, read_pth, read_safetensors, write_pth, write_safetensors};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pth").join(name)
}

#[derive(serde::Deserialize)]
struct Expected {
    name: String,
    shape: Vec<usize>,
    values: Vec<f64>,
}

#[test]
fn checkpoints_of_pytorch_are_read_to_the_value() {
    let text = std::fs::read_to_string(fixture("expected.json")).unwrap();
    let files: std::collections::BTreeMap<String, Vec<Expected>> = serde_json::from_str(&text).unwrap();
    assert_eq!(files.len(), 6);
    for (file, expected) in files {
        let tensors = read_pth(&fixture(&file)).unwrap_or_else(|e| panic!("{e}"));
        let names = |t: &[TensorData]| t.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&tensors), expected.iter().map(|e| e.name.clone()).collect::<Vec<_>>(), "{file}");
        for (tensor, expected) in tensors.iter().zip(&expected) {
            assert_eq!(tensor.shape, expected.shape, "{file}: {}", expected.name);
            // The JSON reader may be one f64 step off; as f32 the values are exact again.
            let matches = match &tensor.values {
                Values::F32(v) => *v == expected.values.iter().map(|&x| x as f32).collect::<Vec<_>>(),
                Values::I64(v) => *v == expected.values.iter().map(|&x| x as i64).collect::<Vec<_>>(),
            };
            assert!(matches, "{file}: {}: {:?}", expected.name, tensor.values);
        }
    }
}

#[test]
fn integers_stay_integers_and_floats_become_f32() {
    for tensor in read_pth(&fixture("types.pth")).unwrap() {
        let is_integer = matches!(tensor.values, Values::I64(_));
        assert_eq!(is_integer, ["int", "long"].contains(&tensor.name.as_str()), "{}", tensor.name);
    }
}

/// A state dict with a scalar, an empty tensor, a name beyond ASCII and sizes of one, two and four bytes.
fn small_state_dict() -> Vec<TensorData> {
    let ramp = |n: usize| (0..n).map(|i| i as f32 * 0.25 - 3.0).collect::<Vec<f32>>();
    vec![
        TensorData::f32("enc1.0.weight", &[3, 2, 2, 1], ramp(12)),
        TensorData::f32("enc1.0.bias", &[3], vec![f32::MIN_POSITIVE, -0.0, f32::MAX]),
        TensorData::i64("enc1.1.num_batches_tracked", &[], vec![1 << 40]),
        TensorData::f32("empty", &[0, 2], vec![]),
        TensorData::f32("größe", &[300], ramp(300)),
        TensorData::f32("long", &[70_000, 1], ramp(70_000)),
    ]
}

fn written(write: fn(&Path, &[TensorData]) -> rosette::error::Result<()>, tensors: &[TensorData]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights");
    write(&path, tensors).unwrap();
    std::fs::read(&path).unwrap()
}

#[test]
fn what_is_written_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.pth");
    write_pth(&path, &small_state_dict()).unwrap();
    assert_eq!(read_pth(&path).unwrap(), small_state_dict());
}

#[test]
fn the_same_weights_give_the_same_bytes() {
    let (first, second) = (written(write_pth, &small_state_dict()), written(write_pth, &small_state_dict()));
    assert!(first == second);
    let first = written(write_safetensors, &small_state_dict());
    let mut reversed = small_state_dict();
    reversed.reverse();
    assert!(first == written(write_safetensors, &reversed), "nor does the order matter to safetensors");
}

/// The file was loaded by PyTorch; were the writer to change, it would have to be loaded again:
/// `UPDATE_GOLDEN=1 cargo test --test pth_files`, then `check_written.py`.
#[test]
fn what_is_written_is_the_file_that_pytorch_loaded() {
    let tensors = &small_state_dict()[..5];
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        write_pth(&fixture("written.pth"), tensors).unwrap();
    }
    assert!(written(write_pth, tensors) == std::fs::read(fixture("written.pth")).unwrap());
}

#[test]
fn the_data_of_every_tensor_is_aligned_to_64_bytes() {
    let bytes = written(write_pth, &small_state_dict());
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    assert_eq!(archive.len(), 3 + 6);
    for index in 0..archive.len() {
        let entry = archive.by_index(index).unwrap();
        assert_eq!(entry.data_start().unwrap() % 64, 0, "{}", entry.name().unwrap());
    }
}

#[test]
fn safetensors_are_read_back_sorted_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.safetensors");
    write_safetensors(&path, &small_state_dict()).unwrap();
    let mut expected = small_state_dict();
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(read_safetensors(&path).unwrap(), expected);
}

#[test]
#[should_panic(expected = "tensor w of shape [2, 2]")]
fn a_tensor_with_too_few_values_is_a_broken_invariant() {
    let _ = write_pth(Path::new("/nonexistent/never-written"), &[TensorData::f32("w", &[2, 2], vec![0.0])]);
}
