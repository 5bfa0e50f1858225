//! `rosette bench`: its numbers add up, and its tables say what its JSON says.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use rosette::config::Skip;
use rosette::gpu::Limits;
use rosette::model::{AttentionUNet, Spec};
use rosette::ops::conv2d::{Conv2d, Form};
use rosette::tape::{Flops, Mode, Shape, Store, Tape};
use rosette::train::{Spent, StepTimes};
use tempfile::TempDir;

const STEP: [&str; 10] =
    ["bench", "--step", "--base", "8", "--patch", "32", "--batch", "2", "--repeats", "1"];

/// What it prints with these arguments more.
fn printed(directory: &Path, more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rosette"));
    let output = command.current_dir(directory).args(STEP).args(more).output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{more:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

fn is_close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

#[test]
fn its_json_adds_up_and_its_tables_say_the_same() {
    let Some(gpu) = common::device() else { return };
    if !gpu.summary().timestamps {
        return println!("SKIPPED: {} has no timestamps", gpu.summary());
    }
    let directory = TempDir::new().expect("a temporary directory");
    let json = printed(directory.path(), &["--json"]);
    let times: StepTimes = serde_json::from_str(&json).expect("what it prints is what it reads");
    assert_eq!((times.base, times.patch, times.batch, &*times.precision), (8, 32, 2, "f32"));
    let all: Spent = times.kernels.iter().map(|time| time.spent).sum();
    assert!(is_close(all.gflop, times.gflop), "{} of {} GFLOP", all.gflop, times.gflop);
    assert!(is_close(all.gigabytes, times.bound_bytes as f64 / 1e9), "{} GB", all.gigabytes);
    assert!(is_close(all.ms, times.on_device_ms()), "{} of {} ms", all.ms, times.on_device_ms());
    for (phase, ms) in &times.phases[..4] {
        let of_phase: f64 = times.kernels.iter().filter(|t| t.phase == *phase).map(|t| t.spent.ms).sum();
        assert!(is_close(of_phase, *ms) && *ms > 0.0, "{phase}: {of_phase} of {ms} ms");
    }
    assert!(times.kernels.iter().all(|time| time.spent.bound_ms > 0.0 && time.spent.gigabytes > 0.0));
    let ms_of = |name: &str| times.phases.iter().find(|(phase, _)| phase == name).expect("it is there").1;
    let rest = ["upload", "read-back", "idle"].map(ms_of);
    assert!(rest.iter().all(|ms| *ms >= 0.0) && rest[1] > 0.0, "{rest:?}");
    let parts: f64 = times.phases.iter().map(|(_, ms)| ms).sum();
    assert!(
        is_close(parts, times.step_ms_best.max(parts - rest[2])),
        "{:?}, {} ms",
        times.phases,
        times.step_ms_best
    );
    assert!(times.step_ms_streamed > 0.0 && times.step_ms_best <= times.step_ms_median);
    assert!(times.least_bytes < times.bound_bytes, "what is read twice counts twice");
    let ceilings = times.ceilings.expect("it has timestamps");
    assert!(ceilings.gflops > 0.1 && ceilings.gigabytes_per_s > 0.1, "{ceilings:?}");
    // Weights and both moments are read and written, gradients read: seven times 4 bytes a weight, and the step's sizes.
    let adamw: Spent = times.kernels.iter().filter(|time| time.has("adamw")).map(|time| time.spent).sum();
    let net = AttentionUNet::new(Spec { in_channels: 2, base_channels: 8, skip: Skip::Full });
    let moved = (7 * net.weights().total_bytes() + 16) as f64 / 1e9;
    assert!(is_close(adamw.gigabytes, moved), "{} of {moved} GB", adamw.gigabytes);

    let filtered: StepTimes =
        serde_json::from_str(&printed(directory.path(), &["--json", "--filter", "adamw"])).expect("its JSON");
    assert!(filtered.kernels.iter().all(|time| time.operation == "adamw") && !filtered.kernels.is_empty());
    assert_eq!(filtered.phases.len(), times.phases.len(), "the step's parts are all its kernels'");

    fs::write(directory.path().join("there.json"), &json).expect("a file written");
    let table = printed(directory.path(), &["--against", "there.json", "--markdown", "--all"]);
    assert!(table.contains("times as fast"), "{table}");
    let there = by_operation(&times);
    let mut rows = 0;
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 10, "{line}");
        if let Some(spent) = there.get(&(cells[0].to_owned(), cells[1].to_owned())) {
            rows += 1;
            assert_eq!(cells[2], spent.dispatches.to_string(), "{line}");
            assert_eq!(cells[8], format!("{:.2}", spent.ms), "{line}");
        }
    }
    assert_eq!(rows, there.len(), "{table}");
    let operations: Vec<&str> = there.keys().map(|(operation, _)| operation.as_str()).collect();
    for expected in
        ["conv2d 3x3", "conv2d 1x1", "conv_transpose2d", "batch_norm", "attention", "adamw", "warp"]
    {
        assert!(operations.contains(&expected), "no {expected} in {operations:?}");
    }
}

fn by_operation(times: &StepTimes) -> BTreeMap<(String, String), Spent> {
    let mut sums = BTreeMap::new();
    for time in &times.kernels {
        let sum: &mut Spent = sums.entry((time.operation.clone(), time.phase.clone())).or_default();
        *sum = [*sum, time.spent].into_iter().sum();
    }
    sums
}

/// Winograd's products of a convolution, forward and backward, do 16 of 36 or 36 of 144 multiplications; nobody else saves any.
#[test]
fn what_winograd_saves_is_counted_but_not_executed() {
    let limits = Limits { software: true, subgroup_lanes: 8, ..Limits::WEBGPU };
    let flops = |form: Form| {
        let mut tape = Tape::new(limits, Mode::Train { accumulate: false });
        let x = tape.input("x", Shape::nhwc(2, 16, 16, 16));
        tape.set_differentiable(x, true);
        let weight = tape.stored("weight", Shape::new([4, 4, 9, 4, 8]), Store::Weights, 0, true);
        let bias = tape.stored("bias", Shape::new([32]), Store::Weights, 1 << 20, true);
        let y = tape.apply1("conv", Conv2d { form: Some(form), ..Conv2d::new(3, 32) }, &[x, weight, bias]);
        let seed = tape.input("dy", Shape::nhwc(2, 16, 16, 32));
        tape.backward(y, seed, |_, _, _| unreachable!("one node"));
        let program = tape.finish();
        assert!(program.dispatches.iter().all(|dispatch| dispatch.operation == "conv2d 3x3"));
        // The bias's gradient is a sum, which counts too.
        let products = program.dispatches.iter().filter(|dispatch| dispatch.kernel.name().contains("conv2d"));
        let products: Vec<Flops> = products.map(|dispatch| dispatch.flops).collect();
        let sum = |of: fn(&Flops) -> u64| products.iter().map(of).sum::<u64>();
        (sum(|f| f.counted), sum(|f| f.executed))
    };
    // Three passes of 2 x 16 x 16 pixels, 16 to 32 channels, nine taps, two operations each.
    let direct = 3 * 2 * 16 * 16 * 16 * 32 * 9 * 2;
    assert_eq!(flops(Form::Direct), (direct, direct));
    assert_eq!(flops(Form::WinogradTwo), (direct, direct * 16 / 36));
    assert_eq!(flops(Form::Winograd), (direct, direct / 4));
}
