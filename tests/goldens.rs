//! Every operation against PyTorch: outputs, gradients and what changes in place, from `tests/goldens/ops`.

mod common;

#[path = "common/bench.rs"]
mod bench;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bench::{Bench, Input, distance};
use rosette::gpu::Gpu;
use rosette::interop::{Values, read_safetensors};
use rosette::ops::activation::{Add, Relu, Sigmoid};
use rosette::ops::adamw::{AdamW, step_sizes};
use rosette::ops::batch_norm::BatchNorm;
use rosette::ops::bce_dice::{BceDice, SUMS};
use rosette::ops::conv_transpose2d::{self, ConvTranspose2d};
use rosette::ops::conv2d::{Conv2d, Form, Packing};
use rosette::ops::gate::Gate;
use rosette::ops::max_pool2d::MaxPool2d;
use rosette::ops::project::Project;
use rosette::ops::resize::Resize;
use rosette::tape::{Op, Shape, Store};

/// Files that a test below reads; each holds the cases of one operation.
const FILES: [&str; 13] = [
    "adamw",
    "add",
    "batch_norm",
    "bce_dice",
    "conv1x1",
    "conv3x3",
    "conv_transpose2x2",
    "gate",
    "max_pool2x2",
    "metrics",
    "relu",
    "resize_bilinear",
    "sigmoid",
];
const FORMS: [Form; 2] = [Form::Direct, Form::Tiled];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/ops")
}

/// One device for all tests of this file.
fn device() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    GPU.get_or_init(common::device).as_ref()
}

/// A tensor of a golden: activations NHWC, parameters as PyTorch shapes them.
#[derive(Debug, Clone)]
struct Golden {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Golden {
    /// [N, H, W, C], or a vector's shape.
    fn shape(&self) -> Shape {
        Shape::new(self.shape.clone())
    }

    fn activation(&self) -> Input {
        Input::activation(self.shape(), self.values.clone())
    }

    fn weight(&self) -> Input {
        Input::weight(self.shape(), self.values.clone())
    }

    fn constant(&self, store: Store) -> Input {
        Input::constant(self.shape(), store, self.values.clone())
    }

    /// The activation with zeros for channels up to `channels`.
    fn padded(&self, channels: usize) -> Input {
        let [n, h, w, c] = self.shape().as_nhwc();
        let pixel = |pixel: &[f32]| [pixel, &vec![0.0; channels - c]].concat();
        let values = self.values.chunks_exact(c).flat_map(pixel).collect();
        Input::activation(Shape::nhwc(n, h, w, channels), values)
    }
}

/// One case of a file.
struct Case {
    label: String,
    tensors: HashMap<String, Golden>,
    attributes: serde_json::Value,
}

impl Case {
    fn get(&self, name: &str) -> &Golden {
        self.tensors.get(name).unwrap_or_else(|| panic!("{} has no tensor {name}", self.label))
    }

    fn number(&self, attribute: &str) -> f64 {
        self.attributes[attribute].as_f64().unwrap_or_else(|| panic!("{}: {attribute}", self.label))
    }

    /// Runs an operation from the golden's upstream gradient.
    fn bench<'a>(&self, gpu: &'a Gpu, op: impl Op + 'static, inputs: &[Input]) -> Bench<'a> {
        let bench = Bench::new(gpu, Box::new(op), inputs, Some(&self.get("dy").values));
        bench.run();
        bench
    }

    /// Compares with the golden of that name, relative to its largest magnitude.
    fn check(&self, name: &str, found: &[f32], tolerance: f64) {
        let error = distance(found, &self.get(name).values);
        println!("{:<24} {name:<18} {error:.1e}", self.label);
        assert!(error <= tolerance, "{}: {name} is {error:.1e} off", self.label);
    }
}

/// The cases of `tests/goldens/ops/<file>.safetensors`.
fn cases(file: &str) -> Vec<Case> {
    let path = folder().join(format!("{file}.safetensors"));
    let bytes = std::fs::read(&path).expect("a golden");
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).expect("a safetensors file");
    let metadata = metadata.metadata().clone().expect("metadata");
    let mut cases: Vec<Case> = (0..metadata["cases"].parse().expect("a number"))
        .map(|place: usize| Case {
            label: format!("{file} case {place}"),
            tensors: HashMap::new(),
            attributes: serde_json::from_str(&metadata[&format!("case{place}")]).expect("attributes"),
        })
        .collect();
    for tensor in read_safetensors(&path).expect("a safetensors file") {
        let (case, name) = tensor.name.split_once('.').expect("case<i>.<name>");
        let place: usize = case.trim_start_matches("case").parse().expect("case<i>");
        let Values::F32(values) = tensor.values else { panic!("{file}: {name} is not f32") };
        cases[place].tensors.insert(name.to_owned(), Golden { shape: tensor.shape, values });
    }
    assert!(!cases.is_empty(), "{file} has cases");
    cases
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
    let op = Conv2d { kernel, out_channels: w.shape[0], form: Some(form) };
    let bench = case.bench(gpu, op, &inputs);
    case.check("y", &bench.output(0), 1e-6);
    for (place, name) in sources.names.iter().enumerate() {
        let (channels, c) = (sources.inputs[place].shape.dims()[3], case.get(name).shape[3]);
        let dx = without_padding(&bench.gradient(place), channels, c);
        case.check(&format!("d{name}"), &dx, 1e-6);
    }
    let count = sources.names.len();
    case.check("dw", &unpack(&bench.gradient(count), &places), 1e-6);
    case.check("db", &bench.gradient(count + 1), 1e-6);
}

#[test]
fn conv2d_with_kernel_3() {
    let Some(gpu) = device() else { return };
    for case in cases("conv3x3") {
        FORMS.into_iter().for_each(|form| check_convolution(gpu, &case, 3, form));
    }
}

#[test]
fn conv2d_with_kernel_1_and_project() {
    let Some(gpu) = device() else { return };
    for case in cases("conv1x1") {
        if case.get("b").shape == [1] {
            check_project(gpu, &case);
        } else {
            FORMS.into_iter().for_each(|form| check_convolution(gpu, &case, 1, form));
        }
    }
}

/// A convolution to one channel is an operation of its own.
fn check_project(gpu: &Gpu, case: &Case) {
    let (x, w, b) = (case.get("x"), case.get("w"), case.get("b"));
    let weight = Input::weight(Shape::new([w.values.len()]), w.values.clone());
    let bench = case.bench(gpu, Project, &[x.activation(), weight, b.weight()]);
    case.check("y", &bench.output(0), 1e-6);
    for (place, name) in ["dx", "dw", "db"].into_iter().enumerate() {
        case.check(name, &bench.gradient(place), 1e-6);
    }
}

#[test]
fn conv_transpose2d_with_kernel_2() {
    let Some(gpu) = device() else { return };
    for case in cases("conv_transpose2x2") {
        for form in FORMS {
            let (x, w, b) = (case.get("x"), case.get("w"), case.get("b"));
            let (in_channels, out_channels) = (w.shape[0], w.shape[1]);
            let places = conv_transpose2d::places(in_channels, out_channels);
            let shape = conv_transpose2d::packing(in_channels, out_channels).shape();
            let op = ConvTranspose2d { out_channels, form: Some(form) };
            let bench = case.bench(gpu, op, &[x.activation(), pack(w, shape, &places), b.weight()]);
            case.check("y", &bench.output(0), 1e-6);
            case.check("dx", &bench.gradient(0), 1e-6);
            case.check("dw", &unpack(&bench.gradient(1), &places), 1e-6);
            case.check("db", &bench.gradient(2), 1e-6);
        }
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
        let bench = case.bench(gpu, BatchNorm { training, relu: false }, &inputs);
        case.check("y", &bench.output(0), 1e-6);
        case.check("running_mean_after", &bench.input(3), 1e-6);
        case.check("running_var_after", &bench.input(4), 1e-6);
        for (place, name) in ["dx", "dgamma", "dbeta"].into_iter().enumerate() {
            case.check(name, &bench.gradient(place), 1e-6);
        }
    }
}

/// An operation of activations alone: `y`, then the gradient of each input.
fn check_plain(gpu: &Gpu, case: &Case, op: impl Op + 'static, inputs: &[&str]) {
    let activations: Vec<Input> = inputs.iter().map(|name| case.get(name).activation()).collect();
    let bench = case.bench(gpu, op, &activations);
    case.check("y", &bench.output(0), 1e-6);
    for (place, name) in inputs.iter().enumerate() {
        case.check(&format!("d{name}"), &bench.gradient(place), 1e-6);
    }
}

#[test]
fn relu_sigmoid_and_add() {
    let Some(gpu) = device() else { return };
    cases("relu").iter().for_each(|case| check_plain(gpu, case, Relu, &["x"]));
    cases("sigmoid").iter().for_each(|case| check_plain(gpu, case, Sigmoid, &["x"]));
    cases("add").iter().for_each(|case| check_plain(gpu, case, Add, &["a", "b"]));
}

#[test]
fn max_pool2d_also_with_ties() {
    let Some(gpu) = device() else { return };
    cases("max_pool2x2").iter().for_each(|case| check_plain(gpu, case, MaxPool2d, &["x"]));
}

#[test]
fn gate() {
    let Some(gpu) = device() else { return };
    cases("gate").iter().for_each(|case| check_plain(gpu, case, Gate, &["x", "psi"]));
}

#[test]
fn resize() {
    let Some(gpu) = device() else { return };
    for case in cases("resize_bilinear") {
        let [_, height, width, _] = case.get("y").shape().as_nhwc();
        check_plain(gpu, &case, Resize { height, width }, &["x"]);
    }
}

#[test]
fn bce_dice() {
    let Some(gpu) = device() else { return };
    for case in cases("bce_dice") {
        let inputs = [case.get("logits").activation(), case.get("target").constant(Store::Inputs)];
        let op = BceDice { dice_weight: case.number("dice_weight") as f32 };
        let bench = Bench::new(gpu, Box::new(op), &inputs, Some(&[1.0]));
        bench.run();
        case.check("loss", &bench.output(0), 1e-6);
        case.check("dlogits", &bench.gradient(0), 1e-6);
    }
}

#[test]
fn metric_counts() {
    let Some(gpu) = device() else { return };
    for case in cases("metrics") {
        let inputs = ["logits", "target"].map(|name| case.get(name).constant(Store::Inputs));
        let bench = Bench::new(gpu, Box::new(BceDice { dice_weight: 0.5 }), &inputs, None);
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
        let check = |name: &str| case.check(name, &bench.input(0)[..param.values.len()], 1e-6);
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
        // 1 - beta2 is taken from the rounded beta2, here as in the bias correction: 1.3e-5 more than in f64, which
        // the correction takes out of the parameters again.
        check_each(&case, "exp_avg", &bench.input(2), 2e-6);
        check_each(&case, "exp_avg_sq", &bench.input(3), 1.5e-5);
    }
}

/// Compares each element relative to its own magnitude: the gradients are 1e-8 to 100.
fn check_each(case: &Case, name: &str, found: &[f32], tolerance: f64) {
    for (place, expected) in case.get(name).values.iter().enumerate() {
        let error = distance(&found[place..=place], &[*expected]);
        assert!(error <= tolerance, "{}: {name}[{place}] is {error:.1e} off", case.label);
    }
}
