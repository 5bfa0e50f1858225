//! Trainings that diverge: which batch is named, what is tried, and what is told when nothing helps.

mod common;
#[path = "common/workshop.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod workshop;

use rosette::config::Skip;
use rosette::model::{AttentionUNet, NamedTensor, Spec};
use rosette::train::save_weights;
use serde_json::Value;

use workshop::Workshop;

/// First weights of the workshop's network.
fn initial() -> Vec<NamedTensor> {
    AttentionUNet::new(Spec { in_channels: 2, base_channels: 8, skip: Skip::Full }).initial(1)
}

fn change(tensors: &mut [NamedTensor], name: &str, to: impl Fn(usize, f32) -> f32) {
    let tensor = tensors.iter_mut().find(|tensor| tensor.name == name).expect(name);
    tensor.values.iter_mut().enumerate().for_each(|(at, value)| *value = to(at, *value));
}

/// Weights whose loss is a number, since logits far out count as 100, and whose gradients are none: behind the last batch
/// norm, which tiny values come into, they exceed f32.
fn exploding() -> Vec<NamedTensor> {
    let mut tensors = initial();
    change(&mut tensors, "final.0.weight", |_, _| 1e12);
    change(&mut tensors, "dec1.4.weight", |_, _| 1e32);
    change(&mut tensors, "dec1.4.bias", |_, _| 1.0);
    change(&mut tensors, "dec1.3.weight", |_, value| value * 1e-20);
    tensors
}

/// The batch after it was blamed, whose loss was no number any more.
#[test]
fn a_batch_with_gradients_that_are_no_numbers_is_named_without_clipping_too() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    save_weights(&workshop.path("exploding.pth"), &exploding(), 0).expect("a writable file");
    let usual = ["--json", "--no-timestamp", "--init-weights", "exploding.pth", "--override", "batch_size=1"];
    let cases = [
        (&["clip_norm=0", "patches_per_sample=1"][..], "epoch 1, batch 1 ("),
        (&["clip_norm=1", "patches_per_sample=1"], "epoch 1, batch 1 ("),
        (&["accumulation=3", "patches_per_sample=2"], "epoch 1, batches 1 to 3 ("),
    ];
    for (settings, place) in cases {
        let overrides: Vec<&str> = settings.iter().flat_map(|setting| ["--override", *setting]).collect();
        let output = workshop.train(&[&usual[..], &overrides].concat()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let events = String::from_utf8_lossy(&output.stdout).into_owned();
        let events = events.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event"));
        let back: Vec<Value> = events.filter(|event| event["event"] == "rolled_back").collect();
        assert_eq!(back.len(), 3, "{said}");
        for (number, event) in (1..).zip(&back) {
            let reason = event["reason"].as_str().expect("a reason");
            assert!(reason.starts_with(place) && reason.contains("the norm of the gradients is"), "{reason}");
            assert_eq!((event["epoch"].as_u64(), event["halvings"].as_u64()), (Some(1), Some(number)));
            assert_eq!(event["learning_rate"].as_f64(), Some(1e-3 * 0.5_f64.powi(number as i32)));
        }
        assert!(said.contains(&format!("after 3 halvings of the learning rate: {place}")), "{said}");
    }
}

#[test]
fn a_training_that_stops_says_why_on_the_terminal_and_in_the_log() {
    if common::device().is_none() {
        return;
    }
    let workshop = Workshop::new();
    let mut tensors = initial();
    // Products of either sign beyond the range of f32: infinity less infinity is no number.
    change(&mut tensors, "final.0.weight", |at, _| [f32::MAX, f32::MIN][at % 2]);
    save_weights(&workshop.path("huge.pth"), &tensors, 0).expect("a writable file");
    workshop.write("blocked/best_model.pth/file", "in the way");
    let cases = [
        (["--init-weights", "huge.pth", "--output-dir", "diverged"], 1, "diverged again after 3 halvings"),
        (
            ["--quiet", "--no-timestamp", "--output-dir", "blocked"],
            2,
            "best_model.pth: expected a file to write",
        ),
    ];
    for (changed, exit_code, why) in cases {
        let output =
            workshop.train(&[&changed[..], &["--log-file", "log"]].concat()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(exit_code), "{said}");
        let is_reason = |line: &&str| line.starts_with("error: ") && line.contains(why);
        assert_eq!(said.lines().filter(is_reason).count(), 1, "{said}");
        let log = std::fs::read_to_string(workshop.path("log")).expect("a log");
        let last = log.lines().rfind(|line| line.contains("INFO stopped: ")).expect("the reason");
        assert!(last.contains(why), "{log}");
    }
}
