//! A directory with everything that `rosette train` reads, small: what tests of the command line start from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use rosette::data::hdf5::{Plane, encode};
use rosette::data::sample::sample_path;
use rosette::data::split::{Manifest, Split};
use tempfile::TempDir;

/// A network and patches as small as they come, one step an epoch.
pub const CONFIG: &str = "\
model:
  base_channels: 8
  patch_size: 32

default_training:
  num_epochs: 1
  batch_size: 2
  seed: 7

experiments:
  - name: \"tiny\"
    description: \"for tests\"
  - name: \"tiny_intensity\"
    use_intensity: true
";

/// The built binary.
pub fn rosette() -> Command {
    Command::new(env!("CARGO_BIN_EXE_rosette"))
}

/// The directory; it goes when this is dropped.
pub struct Workshop {
    dir: TempDir,
}

impl Workshop {
    /// A configuration, samples A and B to train on, C to validate, the manifest that says so.
    pub fn new() -> Self {
        let workshop = Self { dir: TempDir::new().expect("a temporary directory") };
        workshop.write("config.yaml", CONFIG);
        for (index, name) in ["A", "B", "C"].into_iter().enumerate() {
            workshop.write(&sample(name), tissue(40 + 8 * index, 48, Form::Separate));
        }
        workshop.manifest(&["A", "B"], &["C"]);
        workshop
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file, and the directories that lead to it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("below the workshop")).expect("a writable directory");
        fs::write(path, content).expect("a writable file");
    }

    /// Writes the manifest.
    pub fn manifest(&self, train: &[&str], val: &[&str]) {
        let names = |list: &[&str]| list.iter().map(|name| name.to_string()).collect();
        let split = Split { train: names(train), val: names(val) };
        let manifest = Manifest::record(split, 0.3, 7, "2026-01-01T00:00:00+00:00".into());
        manifest.write(&self.path("split.json")).expect("a writable file");
    }

    /// `rosette train` on all of it, into `out`; `changed` flags take the place of those here.
    pub fn train(&self, changed: &[&str]) -> Command {
        let flags = [
            ("--config", self.path("config.yaml").into_os_string()),
            ("--experiment-name", "tiny".into()),
            ("--split-manifest", self.path("split.json").into()),
            ("--data-dir", self.path("data").into()),
            ("--output-dir", self.path("out").into()),
        ];
        let mut command = rosette();
        command.current_dir(self.dir.path()).arg("train").args(changed);
        for (flag, value) in flags.into_iter().filter(|(flag, _)| !changed.contains(flag)) {
            command.arg(flag).arg(value);
        }
        command
    }

    /// Every file with its bytes, by its path.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let (mut found, mut dirs) = (BTreeMap::new(), vec![self.dir.path().to_path_buf()]);
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).expect("a readable directory") {
                let path = entry.expect("a readable entry").path();
                match path.is_dir() {
                    true => dirs.push(path),
                    false => drop(found.insert(path.clone(), fs::read(&path).expect("a readable file"))),
                }
            }
        }
        found
    }
}

/// Where a sample's file is in a workshop.
pub fn sample(name: &str) -> String {
    sample_path(Path::new("data"), name).to_str().expect("a plain name").to_string()
}

/// How the planes of [`tissue`] are stored.
#[derive(Clone, Copy, PartialEq)]
pub enum Form {
    /// One dataset each, without the raw image.
    Separate,
    /// The older stack of four planes.
    Stacked,
}

/// Square cells 8 px wide, with a block of 4 px wide ones, which is the rosette.
pub fn tissue(height: usize, width: usize, form: Form) -> Vec<u8> {
    let pixels = || (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
    let in_rosette = |y: usize, x: usize| (8..24).contains(&y) && (16..32).contains(&x);
    let label = |(y, x): (usize, usize)| match in_rosette(y, x) {
        true => 1000 + (y / 4) * 100 + x / 4,
        false => 1 + (y / 8) * 100 + x / 8,
    };
    let labels: Vec<i32> = pixels().map(|at| label(at) as i32).collect();
    let target: Vec<u8> = pixels().map(|(y, x)| u8::from(in_rosette(y, x))).collect();
    let (image, stack) = ([height, width], [4, height, width]);
    let encoded = match form {
        Form::Separate => encode(
            &[
                ("segmentation_outlines", &image, Plane::I32(&labels)),
                ("rosettes_binary", &image, Plane::U8(&target)),
            ],
            &[],
        ),
        Form::Stacked => {
            let floats = |values: &mut dyn Iterator<Item = f32>| values.collect::<Vec<f32>>();
            let labels = floats(&mut labels.iter().map(|v| *v as f32));
            let target = floats(&mut target.iter().map(|v| f32::from(*v)));
            let raw = floats(&mut pixels().map(|(y, x)| ((y * 31 + x * 17) % 251) as f32));
            let planes = [labels, target.clone(), target, raw].concat();
            encode(&[("data", &stack, Plane::F32(&planes))], &[])
        }
    };
    encoded.expect("shapes that fit")
}
