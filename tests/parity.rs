//! The network against PyTorch, from the same weights: forward in both modes, the first loss, every gradient, the
//! running statistics after one forward pass, ten AdamW steps. Goldens and their generator: tests/goldens.

mod common;

use std::collections::HashMap;

use rosette::config::{Recompute, Skip};
use rosette::model::{AttentionUNet, NamedTensor, Spec};
use rosette::train::{Session, StepSettings};
use safetensors::SafeTensors;

type Golden = HashMap<String, Vec<f32>>;

fn golden(name: &str) -> Golden {
    let path = format!("{}/tests/goldens/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).expect("the golden is in the repository");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let floats = file.iter().filter(|(_, view)| view.dtype() == safetensors::Dtype::F32);
    floats.map(|(name, view)| (name.to_owned(), bytemuck::pod_collect_to_vec(view.data()))).collect()
}

/// Two input channels as the device holds them: zeros up to four.
fn padded(x: &[f32]) -> Vec<f32> {
    x.chunks_exact(2).flat_map(|pixel| [pixel[0], pixel[1], 0.0, 0.0]).collect()
}

/// Largest difference relative to the largest magnitude expected.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-6_f64, |m, v| m.max(f64::from(v.abs())));
    let differences = found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs()) / scale);
    differences.fold(0.0, |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) })
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

/// `sqrt(sum (a - b)^2) / sqrt(sum b^2)`, both over the tensor.
fn norm_distance(found: &[f32], expected: &[f32]) -> f64 {
    let difference: Vec<f32> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
    norm(&difference) / norm(expected)
}

struct Bench {
    session: Session,
    golden: Golden,
    x: Vec<f32>,
}

impl Bench {
    fn open(skip: Skip, name: &str, winograd: bool, recompute: Recompute) -> Option<Self> {
        let gpu = common::device()?;
        let net = AttentionUNet::new(Spec { in_channels: 2, base_channels: 8, skip });
        let weights = golden("net_weights");
        let tensors: Vec<NamedTensor> = net
            .parameters()
            .iter()
            .map(|p| NamedTensor {
                name: p.name.clone(),
                shape: p.kind.torch_shape(),
                values: weights[&p.name].clone(),
            })
            .collect();
        let settings = StepSettings { winograd, recompute, ..StepSettings::new(64) };
        let mut session = Session::new(gpu, net, settings).expect("memory enough");
        session.set_tensors(&tensors);
        session.prepare(true, 4).expect("memory enough");
        session.prepare(false, 4).expect("memory enough");
        session.poison();
        let golden = golden(name);
        let x = padded(&golden["x"]);
        Some(Self { session, golden, x })
    }

    fn evaluation_logits(&mut self) {
        let pending = self.session.start_evaluation(&self.x, &self.golden["y"], true).expect("it runs");
        let logits = self.session.finish(pending).expect("it runs").logits.expect("asked for");
        let worst = distance(&logits, &self.golden["logits_eval"]);
        println!("evaluation logits {worst:.1e}");
        assert!(worst < 1e-4, "evaluation logits differ by {worst:e}");
    }

    fn step(&mut self, learning_rate: f64) -> f32 {
        let y = &self.golden["y"];
        let pending = self.session.start_training_step(&self.x, y, learning_rate).expect("it runs");
        self.session.finish(pending).expect("it runs").loss
    }

    fn first_step(&mut self, tolerance: f64) {
        let loss = self.step(FAST);
        let expected = self.golden["loss"][0];
        assert!(((loss - expected) / expected).abs() < 1e-5, "first loss {loss}, PyTorch {expected}");
        let mut worst = (0.0, String::new());
        let gradients = self.session.gradients().expect("it runs");
        let largest = gradients.iter().map(|g| norm(&g.values)).fold(0.0, f64::max);
        for gradient in gradients {
            let expected = &self.golden[&format!("grad.{}", gradient.name)];
            // A bias before a batch norm has gradient zero: what is left there is rounding, to be small in itself.
            if norm(expected) < 1e-6 * largest {
                assert!(norm(&gradient.values) < 1e-5 * largest, "{} should vanish", gradient.name);
                continue;
            }
            let distance = norm_distance(&gradient.values, expected);
            if distance > worst.0 {
                worst = (distance, gradient.name.clone());
            }
        }
        println!("gradients: at most {:.1e} of the norm ({})", worst.0, worst.1);
        assert!(worst.0 < tolerance, "{} differs by {:e} of its norm", worst.1, worst.0);
    }

    fn running_statistics(&self) {
        for tensor in self.session.tensors().expect("it runs") {
            if let Some(expected) = self.golden.get(&format!("first.{}", tensor.name)) {
                let worst = distance(&tensor.values, expected);
                assert!(worst < 1e-5, "{} differs by {worst:e}", tensor.name);
            }
        }
    }

    /// The loss before each of the steps from number `first` on.
    fn losses(&mut self, first: usize, learning_rate: f64, golden: &str, tolerance: f64) {
        let expected = self.golden[golden].clone();
        for (step, expected) in expected.into_iter().enumerate().skip(first) {
            let found = self.step(learning_rate);
            let relative = f64::from(((found - expected) / expected).abs());
            println!("{golden} {:>2}: {found:.7}, PyTorch {expected:.7}, {relative:.1e}", step + 1);
            assert!(relative < tolerance, "{golden}, step {}: {found}, PyTorch {expected}", step + 1);
        }
    }
}

const FAST: f64 = 1e-3;
const SLOW: f64 = 1e-4;

fn agrees_with_pytorch(skip: Skip, name: &str) {
    let Some(mut bench) = Bench::open(skip, name, false, Recompute::Never) else { return };
    bench.evaluation_logits();
    bench.first_step(1e-3);
    bench.running_statistics();
    // At this rate PyTorch's own f32 run is up to 8e-4 away from its f64 run: see tests/goldens/README.md.
    bench.losses(1, FAST, "losses", 3e-3);
    let Some(mut bench) = Bench::open(skip, name, false, Recompute::Never) else { return };
    bench.losses(0, SLOW, "losses_slow", 1e-4);
}

/// Winograd's convolutions round more: here and there a ReLU takes the other side of its kink, which single gradients
/// of sums that cancel show, and the later losses a little.
fn agrees_with_pytorch_by_winograd(skip: Skip, name: &str) {
    let Some(mut bench) = Bench::open(skip, name, true, Recompute::Always) else { return };
    bench.evaluation_logits();
    bench.first_step(3e-2);
    bench.running_statistics();
    let Some(mut bench) = Bench::open(skip, name, true, Recompute::Always) else { return };
    bench.losses(0, SLOW, "losses_slow", 5e-4);
}

#[test]
fn full_skips_agree_with_pytorch() {
    agrees_with_pytorch(Skip::Full, "net_full");
}

#[test]
fn pooled_skips_agree_with_pytorch() {
    agrees_with_pytorch(Skip::Pooled, "net_pooled");
}

#[test]
fn full_skips_agree_with_pytorch_by_winograd() {
    agrees_with_pytorch_by_winograd(Skip::Full, "net_full");
}

#[test]
fn pooled_skips_agree_with_pytorch_by_winograd() {
    agrees_with_pytorch_by_winograd(Skip::Pooled, "net_pooled");
}

/// What is computed again is the same to the bit, and so are all gradients.
#[test]
fn recomputing_changes_no_gradient() {
    for (skip, name) in [(Skip::Full, "net_full"), (Skip::Pooled, "net_pooled")] {
        let gradients = [Recompute::Never, Recompute::Always].map(|recompute| {
            let mut bench = Bench::open(skip, name, true, recompute)?;
            bench.step(FAST);
            Some(bench.session.gradients().expect("it runs"))
        });
        assert!(gradients[0] == gradients[1], "{name}");
    }
}
