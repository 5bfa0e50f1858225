//! Whatever is read from outside ends in an answer: damaged, mixed and rearranged configurations, manifests, weights,
//! samples, records and event files. No panic, no file of kilobytes that takes gigabytes, no error that is not the
//! user's.
//!
//! `ROSETTE_FUZZ=100 cargo test --release --test fuzz -- --nocapture` makes a hundred times as many and counts them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rosette::config::Config;
use rosette::data::hdf5::File;
use rosette::data::sample::Sample;
use rosette::data::split::Manifest;
use rosette::error::Error;
use rosette::interop::{read_pth, read_safetensors};
use rosette::report::RunRecord;
use rosette::report::metrics::read_metrics;
use rosette::report::tensorboard::records;

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The files of a directory with one of these endings, in a stable order.
fn seeds(dir: &str, endings: &[&str]) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(root(dir)).expect(dir).map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<PathBuf> = entries
        .filter(|path| endings.iter().any(|end| path.to_str().is_some_and(|p| p.ends_with(end))))
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a fixture")).collect()
}

/// Bytes changed, inserted, removed, repeated or taken from another seed: a few times.
fn mutated(rng: &mut ChaCha8Rng, all: &[Vec<u8>]) -> Vec<u8> {
    const ODD: [u64; 8] = [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, u64::MAX];
    let mut bytes = all[rng.random_range(0..all.len())].clone();
    for _ in 0..rng.random_range(1..4) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.random_range(0..bytes.len());
        let end = (at + rng.random_range(1..64)).min(bytes.len());
        match rng.random_range(0..8) {
            0 => bytes[at] = rng.random(),
            1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                let to = rng.random_range(0..=bytes.len());
                bytes.splice(to..to, piece);
            }
            4 => bytes.truncate(at),
            5 => {
                let width = [1, 2, 4, 8][rng.random_range(0..4)].min(bytes.len() - at);
                let odd = ODD[rng.random_range(0..ODD.len())].to_le_bytes();
                bytes[at..at + width].copy_from_slice(&odd[..width]);
            }
            6 => {
                let other = &all[rng.random_range(0..all.len())];
                if !other.is_empty() {
                    let from = rng.random_range(0..other.len());
                    let to = (from + end - at).min(other.len());
                    bytes.splice(at..end, other[from..to].iter().copied());
                }
            }
            _ => {
                // Rearranged by lines, which is what matters to texts.
                let mut lines: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
                let (a, b) = (rng.random_range(0..lines.len()), rng.random_range(0..lines.len()));
                lines.swap(a, b);
                bytes = lines.join(&b'\n');
            }
        }
    }
    bytes
}

/// Answers to mutated inputs: how many were taken, how many refused.
fn run(what: &str, count: usize, all: &[Vec<u8>], answer: impl Fn(&[u8]) -> Result<(), Error>) {
    let times: usize = std::env::var("ROSETTE_FUZZ").map_or(1, |n| n.parse().expect("a number"));
    let first: u64 = std::env::var("ROSETTE_FUZZ_SEED").map_or(0, |n| n.parse().expect("a number"));
    let (mut taken, mut refused) = (0, 0);
    for seed in first..first + (count * times) as u64 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let bytes = mutated(&mut rng, all);
        match catch_unwind(AssertUnwindSafe(|| answer(&bytes))) {
            Ok(Ok(())) => taken += 1,
            Ok(Err(error)) => {
                assert_eq!(error.exit_code(), 2, "{what}, seed {seed}: {error}");
                refused += 1;
            }
            Err(_) => panic!("{what}: a panic with ROSETTE_FUZZ_SEED={seed}"),
        }
    }
    println!("{what}: {} inputs, {taken} taken, {refused} refused, no panic", taken + refused);
    assert!(
        taken > 0 && refused > 0,
        "{what}: {taken} taken, {refused} refused: the mutations miss the point"
    );
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux has it");
        let kib: usize = peak.trim().trim_end_matches(" kB").parse().expect("a number");
        assert!(kib < 2 << 20, "{what}: {kib} KiB of memory at the peak");
    }
}

/// In a file of this name, since the readers take paths.
fn as_file<T>(name: &str, bytes: &[u8], read: impl Fn(&Path) -> Result<T, Error>) -> Result<(), Error> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).expect("a writable file");
    read(&path).map(drop)
}

#[test]
fn configurations() {
    let mut all = seeds("tests/fixtures/config", &[".yaml"]);
    all.push(std::fs::read(root("config.yaml")).expect("config.yaml"));
    all.push(b"a: &a [*a, {<<: *b}]\n? [x]\n: !!int \"3\"\n--- |\n  text\n%TAG ! tag:x\n...\n'\"\\x00\\u{110000}\n".to_vec());
    run("configurations", 3000, &all, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let config = Config::parse(Path::new("config.yaml"), &text)?;
        config.names().into_iter().try_for_each(|name| config.resolve(name, &[]).map(drop))
    });
}

#[test]
fn overrides() {
    let config = Config::load(&root("config.yaml")).expect("it is sound");
    let texts = [
        "num_epochs=3",
        "augmentation.rotation=0.5",
        "model.skip=pooled",
        "data={memory_budget: 1}",
        "seed=0x10",
        "report.tensorboard=no",
    ];
    let all: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    run("overrides", 3000, &all, |bytes| {
        config.resolve("baseline_test", &[String::from_utf8_lossy(bytes).into_owned()]).map(drop)
    });
}

#[test]
fn manifests() {
    let names = ["A", "B", "C", "D"].map(String::from);
    let manifest = Manifest::create(&names, 0.25, 7).expect("it is sound");
    let dir = tempfile::tempdir().expect("a temporary directory");
    manifest.write(&dir.path().join("split.json")).expect("a writable file");
    let mut all = vec![std::fs::read(dir.path().join("split.json")).expect("it was written")];
    all.push(b"{\"a\": [1e999, -0, \"\\ud800\", {\"a\": null}], \"train_samples\": -1}".to_vec());
    run("manifests", 2000, &all, |bytes| as_file("split.json", bytes, Manifest::read));
}

#[test]
fn samples() {
    let all = seeds("tests/fixtures/h5", &[".h5"]);
    assert!(all.len() > 40);
    run("samples (HDF5)", 1500, &all, |bytes| {
        as_file("sample.h5", bytes, |path| {
            let file = File::open(path)?;
            Sample::rosettes(&file)?;
            Sample::from_file(&file, "sample", Sample::has_intensity(&file))
        })
    });
}

#[test]
fn weights() {
    let all = seeds("tests/fixtures/pth", &[".pth", ".pt"]);
    run("weights (.pth)", 500, &all, |bytes| as_file("weights.pth", bytes, read_pth));
    let mut goldens = seeds("tests/goldens", &[".safetensors"]);
    goldens.retain(|bytes| bytes.len() < 1 << 20);
    goldens.push(b"\x02\0\0\0\0\0\0\0{}".to_vec());
    run("weights (.safetensors)", 500, &goldens, |bytes| as_file("w.safetensors", bytes, read_safetensors));
}

#[test]
fn records_of_trainings() {
    let config = Config::load(&root("config.yaml")).expect("it is sound");
    let experiment = config.resolve("higher_lr", &[]).expect("it is there");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("config.json");
    RunRecord::new(&experiment, 31, "device").write(&path).expect("a writable file");
    let record = std::fs::read(&path).expect("it was written");
    run("config.json", 1000, &[record], |bytes| as_file("config.json", bytes, RunRecord::read));
    let metrics = "epoch,train_loss,val_loss,val_iou,val_f1,val_precision,val_recall,learning_rate,skipped_steps,\
                   seconds,patches_per_second\n1,0.3,0.75,0.3,0.5,0.0,1.0,0.0001,0,75.25,12.5\n2,NaN,inf,0,0,0,0,0,0,0,0\n";
    run("metrics.csv", 1000, &[metrics.into()], |bytes| as_file("metrics.csv", bytes, read_metrics));
}

/// What is left of an event file is a beginning of what was there, or less.
#[test]
fn event_files() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut file = rosette::report::tensorboard::EventFile::open(dir.path(), 0).expect("a directory");
    (1..20).for_each(|_| file.picture(3, b"no picture at all").expect("a disk"));
    let path =
        std::fs::read_dir(dir.path()).expect("a directory").next().expect("one").expect("an entry").path();
    let sound = std::fs::read(path).expect("it was written");
    run("event files", 2000, std::slice::from_ref(&sound), |bytes| {
        let messages: Vec<&[u8]> = records(bytes).collect();
        let known: Vec<&[u8]> = records(&sound).collect();
        assert!(messages.iter().all(|message| known.contains(message)), "a record with a wrong checksum");
        let whole: usize = messages.iter().map(|message| message.len() + 16).sum();
        let refusal = || Err(Error::user("events", "whole records", "others", "none"));
        if whole == bytes.len() { Ok(()) } else { refusal() }
    });
}
