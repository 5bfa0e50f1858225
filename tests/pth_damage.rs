//! Checkpoints that are damaged, hostile or something else: each gets a user error that says so; none a panic, an
//! execution, or memory beyond its own size.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rosette::interop::{TensorData, read_pth, read_safetensors, write_safetensors};
use zip::write::SimpleFileOptions;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pth").join(name)
}

/// What is said of a file with these bytes.
fn refusal(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.pth");
    std::fs::write(&path, bytes).unwrap();
    let error = read_pth(&path).expect_err("refused");
    assert_eq!(error.exit_code(), 2);
    error.to_string().split_once("weights.pth: ").unwrap().1.to_string()
}

#[test]
fn what_is_no_state_dict_is_told_with_a_remedy() {
    let cases = [
        ("legacy.pth", "the legacy format from before PyTorch 1.6", "torch.save(torch.load("),
        ("hostile.pth", "`posix.system`, which is not needed for weights and was not run", "state_dict()"),
        ("whole_module.pth", "`torch.nn.modules.container.Sequential`", "torch.save(model.state_dict()"),
        ("torchscript.pt", "a TorchScript program", "torch.save(model.state_dict()"),
        ("no_tensors.pth", "no tensors in the dictionary with the keys [epoch, lr]", "state_dict()"),
        ("complex.pth", "`torch.ComplexFloatStorage`", "state_dict()"),
        ("generate.py", "no zip archive", "state_dict()"),
        ("absent.pth", "no such file", "check the path"),
    ];
    for (file, found, remedy) in cases {
        let error = read_pth(&fixture(file)).expect_err(file);
        let said = error.to_string();
        assert_eq!(error.exit_code(), 2);
        for phrase in [file, found, remedy] {
            assert!(said.contains(phrase), "no {phrase:?} in {said}");
        }
    }
}

/// A checkpoint around a pickle, with one storage of two floats.
fn checkpoint(pickle: &[u8]) -> Vec<u8> {
    archive(&[("a/data.pkl", pickle), ("a/data/0", &[0; 8])])
}

fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(*name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn int(n: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &n.to_le_bytes()].concat()
}

fn tuple(ints: &[i64]) -> Vec<u8> {
    [&b"("[..], &ints.iter().flat_map(|&n| int(n)).collect::<Vec<u8>>(), b"t"].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// `{"w": tensor}` with the given storage length, offset, sizes and strides.
fn one_tensor(len: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let storage = [
        b"((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        int(len),
        b"tQ".to_vec(),
    ];
    let pickle = [
        b"\x80\x02}".to_vec(),
        text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec(),
        storage.concat(),
        int(offset),
        tuple(shape),
        tuple(strides),
        b"\x89}tRs.".to_vec(),
    ];
    checkpoint(&pickle.concat())
}

#[test]
fn a_sound_handmade_checkpoint_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.pth");
    std::fs::write(&path, one_tensor(2, 0, &[2], &[1])).unwrap();
    assert_eq!(read_pth(&path).unwrap(), [TensorData::f32("w", &[2], vec![0.0; 2])]);
}

/// Elements in the storage, offset, sizes, strides, and what is said.
type View = (i64, i64, &'static [i64], &'static [i64], &'static str);

#[test]
fn views_that_do_not_fit_are_refused() {
    const BEYOND: &str = "tensor `w`: a view beyond its storage of 2 elements";
    const TOO_MANY: &str = "tensors with more elements than the file has bytes";
    const HUGE: i64 = i64::MAX;
    let cases: [View; 14] = [
        (2, 1, &[2], &[1], BEYOND),
        (2, 0, &[2], &[2], BEYOND),
        (2, HUGE, &[2], &[1], BEYOND),
        (2, 0, &[2], &[HUGE], BEYOND),
        (2, 0, &[2, 2], &[HUGE, HUGE], BEYOND),
        (2, 0, &[3], &[1], BEYOND),
        (2, 0, &[HUGE], &[0], TOO_MANY),
        (2, 0, &[1 << 20], &[0], TOO_MANY),
        (2, 0, &[1 << 40, 1 << 40, 0], &[0, 0, 0], TOO_MANY),
        (3, 0, &[2], &[1], "tensor `w`: 8 bytes for 3 elements of 4"),
        (HUGE, 0, &[2], &[1], "tensor `w`: 8 bytes for 9223372036854775807 elements of 4"),
        (2, 0, &[-1], &[1], "the size -1"),
        (2, 0, &[2], &[1, 1], "a tensor of 1 axes with 2 strides"),
        (2, 0, &[1; 17], &[1; 17], "a tensor of 17 axes"),
    ];
    for (len, offset, shape, strides, found) in cases {
        let said = refusal(&one_tensor(len, offset, shape, strides));
        assert!(said.contains(found), "{shape:?} {strides:?}: no {found:?} in {said}");
    }
}

#[test]
fn pickles_that_are_no_state_dict_are_refused() {
    let deep = [b"\x80\x02".to_vec(), b")".to_vec(), b"\x85".repeat(300_000), b".".to_vec()].concat();
    let doubling = [b"\x80\x02)".to_vec(), b"q\x00h\x00\x86".repeat(10_000), b".".to_vec()].concat();
    let wide = [b"\x80\x02(".to_vec(), b"N".repeat(300_000), b"t.".to_vec()].concat();
    let cases: [(&[u8], &str); 17] = [
        (b"", "a pickle that is cut off"),
        (b"\x80\x02", "a pickle that is cut off"),
        (b"\x80\x04.", "pickle protocol 4 in place of 2"),
        (b"\x80\x02.", "too few values on the stack"),
        (b"\x80\x02}(.", "too few values on the stack"),
        (b"\x80\x02t.", "no mark on the stack"),
        (b"\x80\x02h\x05.", "a reference to nothing"),
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", "`os.system`"),
        (b"\x80\x02cbuiltins\neval\n.", "`builtins.eval`"),
        (b"\x80\x02ios\nsystem\n.", "the pickle instruction 0x69"),
        (b"\x80\x02ccollections\nOrderedDict\n(NtR.", "a call that is not needed for weights"),
        (b"\x80\x02X\xff\xff\xff\xff.", "a pickle that is cut off"),
        (b"\x80\x02]N(NNu.", "items for something that takes none"),
        (b"\x80\x02K\x01.", "no dictionary at the top"),
        (&deep, "more than 262144 values"),
        (&doubling, "no dictionary at the top"),
        (&wide, "more than 262144 values"),
    ];
    for (pickle, found) in cases {
        let said = refusal(&checkpoint(pickle));
        assert!(said.contains(found), "no {found:?} in {said}");
    }
}

#[test]
fn archives_that_lack_something_are_refused() {
    let sound = one_tensor(2, 0, &[2], &[1]);
    let mut zip = zip::ZipArchive::new(Cursor::new(&sound)).unwrap();
    let mut pickle = Vec::new();
    std::io::copy(&mut zip.by_name("a/data.pkl").unwrap(), &mut pickle).unwrap();
    let cases = [
        (sound[..sound.len() / 2].to_vec(), "a zip archive with"),
        (archive(&[("a/other", b"")]), "without an entry `data.pkl`"),
        (archive(&[("a/data.pkl", &pickle)]), "the archive's entry `data/0`"),
        (archive(&[("a/data.pkl", &pickle), ("a/data/0", &[0; 7])]), "7 bytes for 2 elements of 4"),
        (archive(&[("a/data.pkl", &pickle), ("a/byteorder", b"big")]), "a byte order other than little"),
    ];
    for (bytes, found) in cases {
        let said = refusal(&bytes);
        assert!(said.contains(found), "no {found:?} in {said}");
    }
}

#[test]
fn a_flipped_bit_in_the_data_is_found_by_the_checksum() {
    let mut bytes = std::fs::read(fixture("plain.pth")).unwrap();
    let mut zip = zip::ZipArchive::new(Cursor::new(&bytes)).unwrap();
    let start = zip.by_name("plain/data/0").unwrap().data_start().unwrap() as usize;
    bytes[start + 3] ^= 1;
    let said = refusal(&bytes);
    assert!(said.contains("the archive's entry `data/0`") && said.contains("copy the file again"), "{said}");
}

#[test]
fn damaged_safetensors_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    write_safetensors(&path, &[TensorData::f32("w", &[2], vec![1.0, 2.0])]).unwrap();
    let sound = std::fs::read(&path).unwrap();
    let huge_header = [&u64::MAX.to_le_bytes()[..], &sound[8..]].concat();
    let mut other_type = sound.clone();
    let at = sound.windows(3).position(|w| w == b"F32").unwrap();
    other_type[at] = b'U';
    for (bytes, phrase) in [
        (sound[..sound.len() - 1].to_vec(), "expected a safetensors file"),
        (huge_header, "expected a safetensors file"),
        (Vec::new(), "expected a safetensors file"),
        (other_type, "found U32"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = read_safetensors(&path).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(phrase), "{error}");
    }
}

/// Reads bytes that may be anything: an answer is all that is asked for.
fn read_any(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weights.pth");
    std::fs::write(&path, bytes).unwrap();
    let sizes = |tensors: Vec<TensorData>| tensors.iter().map(|t| t.values.len()).sum::<usize>();
    match read_pth(&path) {
        Ok(tensors) => assert!(sizes(tensors) <= bytes.len()),
        Err(error) => assert_eq!(error.exit_code(), 2, "{error}"),
    }
}

/// Executions of each property; more by ROSETTE_FUZZ.
fn cases(usual: u32) -> ProptestConfig {
    let cases = std::env::var("ROSETTE_FUZZ").ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn a_mutated_checkpoint_is_answered(
        file in prop::sample::select(vec!["plain.pth", "views.pth", "checkpoint.pth", "parallel.pth"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = std::fs::read(fixture(file)).unwrap();
        for (index, byte) in changes {
            let len = bytes.len();
            bytes[index.index(len)] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_any(&bytes);
    }

    /// With the archive around it sound, every mutation reaches the pickle's reader.
    #[test]
    fn a_mutated_pickle_is_answered(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let sound = std::fs::read(fixture("checkpoint.pth")).unwrap();
        let mut zip = zip::ZipArchive::new(Cursor::new(&sound)).unwrap();
        let mut entries = Vec::new();
        for i in 0..zip.len() {
            let mut entry = zip.by_index(i).unwrap();
            let name = entry.name().unwrap().into_owned();
            let mut bytes = Vec::new();
            std::io::copy(&mut entry, &mut bytes).unwrap();
            if name.ends_with("data.pkl") {
                for (index, byte) in &changes {
                    let len = bytes.len();
                    bytes[index.index(len)] = *byte;
                }
            }
            entries.push((name, bytes));
        }
        let entries: Vec<(&str, &[u8])> = entries.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
        read_any(&archive(&entries));
    }
}
