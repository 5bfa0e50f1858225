//! `rosette run` in a workshop, and what it said.

use std::process::Command;

use crate::workshop::{CONFIG, Workshop};

/// Two experiments that train and, at the end of the list, one that cannot.
pub fn config(third: &str) -> String {
    CONFIG.replace(
        "  - name: \"tiny_intensity\"\n    use_intensity: true\n",
        &format!("  - name: \"faster\"\n    learning_rate: 0.01\n{third}"),
    )
}

pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub fn rosette(workshop: &Workshop, arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_rosette"))
        .args(arguments)
        .current_dir(workshop.path(""))
        .output()
        .expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// The arguments of [`run`].
pub const RUN: [&str; 7] =
    ["run", "--config", "config.yaml", "--data-dir", "data", "--output-dir", "results"];

pub fn run(workshop: &Workshop, more: &[&str]) -> Said {
    rosette(workshop, &[&RUN[..], more].concat())
}
