//! Every operation against PyTorch: outputs, gradients and what changes in place, from `tests/goldens/ops`.

mod common;

#[path = "common/bench.rs"]
mod bench;
#[path = "common/golden.rs"]
mod golden;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use bench::{Bench, Input, distance};
use golden::{Case, Golden, cases, folder};
use rosette::gpu::Gpu;
use rosette::ops::activation::{Add, Relu, Sigmoid};
use rosette::ops::adamw::{AdamW, step_sizes};
use rosette::ops::batch_norm::BatchNorm;
use rosette::ops::clip_norm::ClipNorm;
use rosette::ops::conv_transpose2d::{self, ConvTranspose2d};
use rosette::ops::conv2d::{Conv2d, Form, Packing};
use rosette::ops::gate::Gate;
use rosette::ops::max_pool2d::MaxPool2d;
use rosette::ops::project::Project;
use rosette::ops::resize::Resize;
use rosette::ops::segmentation_loss::{PixelLoss, RegionLoss, SUMS, SegmentationLoss};
use rosette::tape::{Op, Shape, Store};

/// Files that a test below reads; each holds the cases of one operation.
const FILES: [&str; 15] = [
    "adamw",
    "add",
    "batch_norm",
    "bce_dice",
    "clip_norm",
    "conv1x1",
    "conv3x3",
    "conv_transpose2x2",
    "gate",
    "losses",
    "max_pool2x2",
    "metrics",
    "relu",
    "resize_bilinear",
    "sigmoid",
];
const FORMS: [Form; 2] = [Form::Direct, Form::Tiled];
/// For what is rounded once, in f32 as in the golden.
const EXACT: f64 = 0.0;
/// For everything else. Measured: 5e-7; a GPU's own exp and log may be a few times worse.
const CLOSE: f64 = 4e-6;

/// One device for all tests of this file.
fn device() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    GPU.get_or_init(common::device).as_ref()
}

#[test]
fn every_file_of_goldens_has_its_test() {
    let found: BTreeSet<String> = std::fs::read_dir(folder())
        .expect("the folder of goldens")
        .map(|entry| {
            entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned()
        })
        .collect();
    assert_eq!(found, FILES.map(str::to_owned).into());
}

/// A convolution's sources on the device: PyTorch's channels with zeros behind those of each source, as the network
/// does for its 2 or 3 input channels. Two sources each start on a boundary of eight channels.
struct Sources {
    inputs: Vec<Input>,
    names: Vec<&'static str>,
    /// The device's channel of each of PyTorch's.
    channels: Vec<usize>,
    in_channels: usize,
}

impl Sources {
    fn new(case: &Case) -> Self {
        let names = if case.tensors.contains_key("x") { vec!["x"] } else { vec!["x0", "x1"] };
        let boundary = if names.len() == 1 { 4 } else { 8 };
        let (mut inputs, mut channels, mut in_channels) = (Vec::new(), Vec::new(), 0);
        for name in &names {
            let x = case.get(name);
            let c = x.shape[3];
            channels.extend(in_channels..in_channels + c);
            inputs.push(x.padded(c.next_multiple_of(boundary)));
            in_channels += c.next_multiple_of(boundary);
        }
        Self { inputs, names, channels, in_channels }
    }

    /// Place in the packed weight of each element of PyTorch's [CO, CI, K, K].
    fn places(&self, packing: Packing) -> Vec<usize> {
        let packed: Vec<usize> = packing.places().collect();
        let taps = packing.kernel * packing.kernel;
        let at = |o: usize, c: usize| {
            let start = (o * self.in_channels + self.channels[c]) * taps;
            packed[start..start + taps].to_vec()
        };
        let outputs = 0..packing.out_channels;
        outputs
            .flat_map(|o| (0..self.channels.len()).flat_map(move |c| at(o, c)).collect::<Vec<_>>())
            .collect()
    }
}

/// The packed weight, zeros where PyTorch has no element.
fn pack(w: &Golden, shape: Shape, places: &[usize]) -> Input {
    assert_eq!(w.values.len(), places.len());
    let mut values = vec![0.0; shape.len()];
    places.iter().zip(&w.values).for_each(|(place, value)| values[*place] = *value);
    Input::weight(shape, values)
}

fn unpack(packed: &[f32], places: &[usize]) -> Vec<f32> {
    places.iter().map(|place| packed[*place]).collect()
}

/// The first `c` channels of each pixel.
fn without_padding(values: &[f32], channels: usize, c: usize) -> Vec<f32> {
    values.chunks_exact(channels).flat_map(|pixel| pixel[..c].to_vec()).collect()
}

fn check_convolution(gpu: &Gpu, case: &Case, kernel: usize, form: Form) {
    let sources = Sources::new(case);
    let (w, b) = (case.get("w"), case.get("b"));
    let packing = Packing { out_channels: w.shape[0], in_channels: sources.in_channels, kernel };
    let places = sources.places(packing);
    let inputs = [&sources.inputs[..], &[pack(w, packing.shape(), &places), b.weight()]].concat();
    let op = Conv2d { form: Some(form), ..Conv2d::new(kernel, w.shape[0]) };
    let bench = case.bench(gpu, op, &inputs);
    case.check("y", &bench.output(0), CLOSE);
    for (place, name) in sources.names.iter().enumerate() {
        let (channels, c) = (sources.inputs[place].shape.dims()[3], case.get(name).shape[3]);
        let dx = without_padding(&bench.gradient(place), channels, c);
        case.check(&format!("d{name}"), &dx, CLOSE);
    }
    let count = sources.names.len();
    case.check("dw", &unpack(&bench.gradient(count), &places), CLOSE);
    case.check("db", &bench.gradient(count + 1), CLOSE);
}

#[test]
fn conv2d_with_kernel_3() {
    let Some(gpu) = device() else { return };
    for form in FORMS {
        cases("conv3x3").into_iter().for_each(|case| check_convolution(gpu, &case.with(form), 3, form));
    }
}

/// Of a single output channel: an operation of its own.
fn is_project(case: &Case) -> bool {
    case.get("b").shape == [1]
}

#[test]
fn conv2d_with_kernel_1() {
    let Some(gpu) = device() else { return };
    for form in FORMS {
        for case in cases("conv1x1").into_iter().filter(|case| !is_project(case)) {
            check_convolution(gpu, &case.with(form), 1, form);
        }
    }
}

#[test]
fn project() {
    let Some(gpu) = device() else { return };
    let cases: Vec<Case> = cases("conv1x1").into_iter().filter(is_project).collect();
    assert!(!cases.is_empty(), "a case has one output channel");
    for case in cases {
        let (x, w, b) = (case.get("x"), case.get("w"), case.get("b"));
        let weight = Input::weight(Shape::new([w.values.len()]), w.values.clone());
        let bench = case.bench(gpu, Project, &[x.activation(), weight, b.weight()]);
        case.check("y", &bench.output(0), CLOSE);
        for (place, name) in ["dx", "dw", "db"].into_iter().enumerate() {
            case.check(name, &bench.gradient(place), CLOSE);
        }
    }
}

fn check_transposed(gpu: &Gpu, case: &Case, form: Form) {
    let (x, w, b) = (case.get("x"), case.get("w"), case.get("b"));
    let (in_channels, out_channels) = (w.shape[0], w.shape[1]);
    let places: Vec<usize> = conv_transpose2d::places(in_channels, out_channels).collect();
    let shape = conv_transpose2d::packing(in_channels, out_channels).shape();
    let op = ConvTranspose2d { out_channels, form: Some(form) };
    let bench = case.bench(gpu, op, &[x.activation(), pack(w, shape, &places), b.weight()]);
    case.check("y", &bench.output(0), CLOSE);
    case.check("dx", &bench.gradient(0), CLOSE);
    case.check("dw", &unpack(&bench.gradient(1), &places), CLOSE);
    case.check("db", &bench.gradient(2), CLOSE);
}

#[test]
fn conv_transpose2d_with_kernel_2() {
    let Some(gpu) = device() else { return };
    for form in FORMS {
        let cases = cases("conv_transpose2x2").into_iter();
        cases.for_each(|case| check_transposed(gpu, &case.with(form), form));
    }
}

#[test]
fn batch_norm() {
    let Some(gpu) = device() else { return };
    for case in cases("batch_norm") {
        let training = case.attributes["training"].as_bool().expect("training");
        let statistics = ["running_mean", "running_var"].map(|name| case.get(name).constant(Store::State));
        let affine = ["gamma", "beta"].map(|name| case.get(name).weight());
        let inputs = [&[case.get("x").activation()], &affine[..], &statistics].concat();
        let bench = case.bench(gpu, BatchNorm::new(training, false), &inputs);
        case.check("y", &bench.output(0), CLOSE);
        case.check("running_mean_after", &bench.input(3), CLOSE);
        case.check("running_var_after", &bench.input(4), CLOSE);
        for (place, name) in ["dx", "dgamma", "dbeta"].into_iter().enumerate() {
            case.check(name, &bench.gradient(place), CLOSE);
        }
    }
}

/// An operation of activations alone: `y`, then the gradient of each input.
fn check_plain(gpu: &Gpu, case: &Case, op: impl Op + 'static, inputs: &[&str], tolerance: f64) {
    let activations: Vec<Input> = inputs.iter().map(|name| case.get(name).activation()).collect();
    let bench = case.bench(gpu, op, &activations);
    case.check("y", &bench.output(0), tolerance);
    for (place, name) in inputs.iter().enumerate() {
        case.check(&format!("d{name}"), &bench.gradient(place), tolerance);
    }
}

#[test]
fn relu_sigmoid_and_add() {
    let Some(gpu) = device() else { return };
    cases("relu").iter().for_each(|case| check_plain(gpu, case, Relu, &["x"], EXACT));
    cases("sigmoid").iter().for_each(|case| check_plain(gpu, case, Sigmoid, &["x"], CLOSE));
    cases("add").iter().for_each(|case| check_plain(gpu, case, Add, &["a", "b"], EXACT));
}

#[test]
fn max_pool2d_also_with_ties() {
    let Some(gpu) = device() else { return };
    cases("max_pool2x2").iter().for_each(|case| check_plain(gpu, case, MaxPool2d, &["x"], EXACT));
}

#[test]
fn gate() {
    let Some(gpu) = device() else { return };
    cases("gate").iter().for_each(|case| check_plain(gpu, case, Gate, &["x", "psi"], CLOSE));
}

#[test]
fn resize() {
    let Some(gpu) = device() else { return };
    for case in cases("resize_bilinear") {
        let [_, height, width, _] = case.get("y").shape().as_nhwc();
        check_plain(gpu, &case, Resize { height, width }, &["x"], CLOSE);
    }
}

#[test]
fn bce_dice() {
    let Some(gpu) = device() else { return };
    for case in cases("bce_dice") {
        let inputs = [case.get("logits").activation(), case.get("target").constant(Store::Inputs)];
        let op = SegmentationLoss::bce_dice(case.number("dice_weight") as f32);
        let bench = Bench::new(gpu, Box::new(op), &inputs, Some(&[1.0]));
        bench.run();
        case.check("loss", &bench.output(0), CLOSE);
        case.check("dlogits", &bench.gradient(0), CLOSE);
    }
}

#[test]
fn losses() {
    let Some(gpu) = device() else { return };
    for case in cases("losses") {
        let number = |name: &str| case.number(name) as f32;
        let dice = SegmentationLoss::bce_dice(0.0);
        let op = match case.attributes["loss"].as_str().expect("a name") {
            "weighted" => SegmentationLoss {
                pixel: PixelLoss::CrossEntropy { pos_weight: number("pos_weight") },
                ..SegmentationLoss::bce_dice(number("dice_weight"))
            },
            "focal" => {
                let (gamma, alpha) = (number("gamma"), number("alpha"));
                SegmentationLoss { pixel: PixelLoss::Focal { gamma, alpha }, ..dice }
            }
            "tversky" => {
                let (alpha, beta) = (number("alpha"), number("beta"));
                let region = RegionLoss::Tversky { alpha, beta };
                SegmentationLoss { region, region_weight: 1.0, ..dice }
            }
            other => panic!("{other}"),
        };
        let inputs = [case.get("logits").activation(), case.get("target").constant(Store::Inputs)];
        let bench = Bench::new(gpu, Box::new(op), &inputs, Some(&[1.0]));
        bench.run();
        case.check("loss", &bench.output(0), CLOSE);
        case.check("dlogits", &bench.gradient(0), CLOSE);
    }
}

#[test]
fn clip_norm() {
    let Some(gpu) = device() else { return };
    for case in cases("clip_norm") {
        let gradients = case.get("grads");
        let inputs = [
            Input::constant(Shape::new([gradients.values.len()]), Store::Gradients, gradients.values.clone()),
            Input::constant(Shape::new([4]), Store::Inputs, vec![0.1, 0.2, 0.3, 1.0]),
        ];
        let bench = Bench::new(gpu, Box::new(ClipNorm { most: case.number("most") as f32 }), &inputs, None);
        bench.run();
        let sizes = bench.output(0);
        assert_eq!(sizes[..3], [0.1, 0.2, 0.3]);
        // What AdamW multiplies them by.
        let clipped: Vec<f32> = gradients.values.iter().map(|g| g * sizes[3]).collect();
        case.check("norm", &bench.output(1), CLOSE);
        case.check("clipped", &clipped, CLOSE);
    }
}

#[test]
fn metric_counts() {
    let Some(gpu) = device() else { return };
    for case in cases("metrics") {
        let inputs = ["logits", "target"].map(|name| case.get(name).constant(Store::Inputs));
        let bench = Bench::new(gpu, Box::new(SegmentationLoss::bce_dice(0.5)), &inputs, None);
        bench.run();
        let sums = bench.output(1);
        for (name, column) in [("tp", 4), ("fp", 5), ("fn", 6)] {
            let counts: Vec<f32> = sums.chunks_exact(SUMS).map(|image| image[column]).collect();
            assert_eq!(counts, case.get(name).values, "{}: {name}", case.label);
        }
    }
}

#[test]
fn ten_steps_of_adamw() {
    let Some(gpu) = device() else { return };
    for case in cases("adamw") {
        let param = case.get("param");
        // The flat buffers come in fours.
        let len = param.values.len().next_multiple_of(4);
        let padded = |values: &[f32]| [values, &vec![0.0; len - values.len()]].concat();
        let flat = |store, values: &[f32]| Input::constant(Shape::new([len]), store, padded(values));
        let inputs = [
            flat(Store::Weights, &param.values),
            flat(Store::Gradients, &[]),
            flat(Store::Moment1, &[]),
            flat(Store::Moment2, &[]),
            Input::constant(Shape::new([4]), Store::Inputs, vec![0.0; 4]),
        ];
        let op = AdamW { weight_decay: case.number("weight_decay") as f32 };
        let bench = Bench::new(gpu, Box::new(op), &inputs, None);
        let check = |name: &str| case.check(name, &bench.input(0)[..param.values.len()], CLOSE);
        let gradients = case.get("grads").values.chunks_exact(param.values.len());
        assert_eq!(gradients.len(), 10);
        for (step, gradient) in (1..).zip(gradients) {
            bench.write(1, &padded(gradient));
            bench.write(4, &step_sizes(case.number("lr"), step));
            bench.run();
            if step == 1 {
                check("param_first");
            }
        }
        check("param_after");
        check_each(&case, "exp_avg", &bench.input(2), 2e-6);
        check_each(&case, "exp_avg_sq", &bench.input(3), 2e-6);
    }
}

/// Compares each element relative to its own magnitude: the gradients are 1e-8 to 100.
fn check_each(case: &Case, name: &str, found: &[f32], tolerance: f64) {
    for (place, expected) in case.get(name).values.iter().enumerate() {
        let error = distance(&found[place..=place], &[*expected]);
        assert!(error <= tolerance, "{}: {name}[{place}] is {error:.1e} off", case.label);
    }
}
