//! A batch that exceeds a storage binding is cut into slices: the result is that of the whole batch.
//!
//! The largest image of every case has [`IMAGE_BYTES`]; three of them are bound at once, or in slices of one, or in two
//! slices of different lengths.

mod common;

#[path = "common/bench.rs"]
mod bench;

use bench::{Bench, Input, distance};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use rosette::gpu::{Gpu, Limits};
use rosette::ops::activation::Relu;
use rosette::ops::attention::Attention;
use rosette::ops::attention_product::AttentionProduct;
use rosette::ops::batch_norm::BatchNorm;
use rosette::ops::batch_norm_pool::BatchNormPool;
use rosette::ops::conv_transpose2d::{self, ConvTranspose2d};
use rosette::ops::conv2d::{Conv2d, Form, Packing};
use rosette::ops::gate::Gate;
use rosette::ops::max_pool2d::MaxPool2d;
use rosette::ops::project::Project;
use rosette::ops::resize::Resize;
use rosette::ops::segmentation_loss::SegmentationLoss;
use rosette::tape::{Op, Shape, Store};

const BATCH: usize = 3;
const IMAGE_BYTES: u64 = 16_384;

/// An operation on random inputs.
struct Case {
    label: &'static str,
    op: fn() -> Box<dyn Op>,
    inputs: Vec<Input>,
    /// Shape of the first output; `None` where the backward pass is left out.
    dy: Option<Vec<f32>>,
    /// Each image is computed on its own: the forward pass gives the same bits.
    by_image: bool,
}

fn random(shape: &Shape, seed: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed as u64);
    (0..shape.len()).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn image(h: usize, w: usize, c: usize) -> Input {
    let shape = Shape::nhwc(BATCH, h, w, c);
    let values = random(&shape, h * w + c);
    Input::activation(shape, values)
}

fn weight(shape: Shape) -> Input {
    let values = random(&shape, shape.len());
    Input::weight(shape, values)
}

impl Case {
    fn new(label: &'static str, op: fn() -> Box<dyn Op>, inputs: Vec<Input>) -> Self {
        let shapes: Vec<&Shape> = inputs.iter().map(|input| &input.shape).collect();
        let outputs = op().infer(&shapes).expect("inputs that fit");
        Self { label, op, inputs, dy: Some(random(&outputs[0], 7)), by_image: true }
    }

    fn convolution(label: &'static str, op: fn() -> Box<dyn Op>) -> Self {
        let packing = Packing { out_channels: 8, in_channels: 32, kernel: 3 };
        let bias = weight(Shape::new([8]));
        Self::new(label, op, vec![image(16, 16, 16), image(16, 16, 16), weight(packing.shape()), bias])
    }

    /// A 1x1 convolution of many channels: lanes share the loads of its weights' gradient.
    fn pixels(label: &'static str, op: fn() -> Box<dyn Op>) -> Self {
        let packing = Packing { out_channels: 32, in_channels: 32, kernel: 1 };
        Self::new(label, op, vec![image(8, 16, 32), weight(packing.shape()), weight(Shape::new([32]))])
    }

    fn transposed(label: &'static str, op: fn() -> Box<dyn Op>) -> Self {
        let shape = conv_transpose2d::packing(8, 4).shape();
        Self::new(label, op, vec![image(16, 16, 8), weight(shape), weight(Shape::new([4]))])
    }

    /// An operation with batch norms of so many channels after its activations, and weights after them.
    fn with_norms(
        label: &'static str,
        op: fn() -> Box<dyn Op>,
        activations: Vec<Input>,
        norms: &[usize],
        weights: &[usize],
    ) -> Self {
        let state = |c: usize, value| Input::constant(Shape::new([c]), Store::State, vec![value; c]);
        let vector = |c: usize| weight(Shape::new([c]));
        let norms = norms.iter().flat_map(|c| [vector(*c), vector(*c), state(*c, 0.0), state(*c, 1.0)]);
        let weights = weights.iter().map(|c| vector(*c));
        let case = Self::new(label, op, activations.into_iter().chain(norms).chain(weights).collect());
        Self { by_image: false, ..case }
    }

    /// The sums of each image and the loss; its gradient takes the logits of all images at once.
    fn loss() -> Self {
        let target = Input { gradient: false, ..image(64, 64, 1) };
        let case = Self::new(
            "segmentation_loss",
            || Box::new(SegmentationLoss::bce_dice(0.5)),
            vec![image(64, 64, 1), target],
        );
        Self { dy: None, ..case }
    }
}

fn cases() -> Vec<Case> {
    let (c16, psi) = (|| image(16, 16, 16), image(16, 16, 1));
    vec![
        Case::convolution("conv2d direct", || conv2d(Form::Direct)),
        Case::convolution("conv2d tiled", || conv2d(Form::Tiled)),
        Case::pixels("conv2d 1x1 direct, many channels", || conv2d_1x1(Form::Direct)),
        Case::transposed("conv_transpose2d direct", || conv_transpose2d(Form::Direct)),
        Case::transposed("conv_transpose2d tiled", || conv_transpose2d(Form::Tiled)),
        Case::with_norms("batch_norm", norm, vec![c16()], &[16], &[]),
        Case::with_norms("batch_norm of one channel", norm, vec![image(64, 64, 1)], &[1], &[]),
        Case::with_norms("batch_norm_pool", || pool(true), vec![image(32, 32, 4)], &[4], &[]),
        Case::with_norms("batch_norm_pool, pooled", || pool(false), vec![image(32, 32, 4)], &[4], &[]),
        Case::with_norms(
            "attention",
            || Box::new(Attention::new(true)),
            vec![c16(), image(16, 16, 16)],
            &[16, 16],
            &[16, 1],
        ),
        Case::with_norms(
            "attention_product",
            || Box::new(AttentionProduct::new(true)),
            vec![c16(), psi.clone()],
            &[1],
            &[],
        ),
        Case::new("max_pool2d", || Box::new(MaxPool2d), vec![image(32, 32, 4)]),
        Case::new("gate", || Box::new(Gate), vec![c16(), psi]),
        Case::new(
            "project",
            || Box::new(Project),
            vec![c16(), weight(Shape::new([16])), weight(Shape::new([1]))],
        ),
        Case::new("resize up", || Box::new(Resize { height: 32, width: 32 }), vec![image(16, 16, 4)]),
        Case::new("resize down", || Box::new(Resize { height: 16, width: 16 }), vec![image(32, 32, 4)]),
        Case::new("relu", || Box::new(Relu), vec![c16()]),
        Case::loss(),
    ]
}

fn norm() -> Box<dyn Op> {
    Box::new(BatchNorm::new(true, true))
}

fn pool(whole: bool) -> Box<dyn Op> {
    Box::new(BatchNormPool { training: true, whole })
}

fn conv2d(form: Form) -> Box<dyn Op> {
    Box::new(Conv2d { form: Some(form), ..Conv2d::new(3, 8) })
}

/// Three blocks of 8 outputs, the last one half empty.
fn conv2d_of_three_blocks(form: Form) -> Box<dyn Op> {
    Box::new(Conv2d { form: Some(form), ..Conv2d::new(3, 20) })
}

fn conv2d_1x1(form: Form) -> Box<dyn Op> {
    Box::new(Conv2d { form: Some(form), ..Conv2d::new(1, 32) })
}

fn conv_transpose2d(form: Form) -> Box<dyn Op> {
    Box::new(ConvTranspose2d { out_channels: 4, form: Some(form) })
}

/// What a case gives.
struct Results {
    dispatches: usize,
    /// Dispatches that transform weights for Winograd's forward pass.
    weight_transforms: usize,
    forward: Vec<f32>,
    /// Second outputs, what changed in place, gradients: each with a name.
    others: Vec<(String, Vec<f32>)>,
}

fn results(gpu: &Gpu, case: &Case) -> Results {
    let op = (case.op)();
    let mutates = op.mutates();
    let bench = Bench::new(gpu, op, &case.inputs, case.dy.as_deref());
    bench.run();
    let mut others: Vec<(String, Vec<f32>)> =
        mutates.iter().map(|place| (format!("input {place}"), bench.input(*place))).collect();
    if case.dy.is_some() {
        let wanted = (0..case.inputs.len()).filter(|place| case.inputs[*place].gradient);
        others.extend(wanted.map(|place| (format!("gradient {place}"), bench.gradient(place))));
    }
    let dispatches = &bench.loaded.program.dispatches;
    let weight_transforms =
        dispatches.iter().filter(|d| d.kernel.name() == "conv2d_winograd_weight/transform_weight").count();
    Results { dispatches: dispatches.len(), weight_transforms, forward: bench.output(0), others }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn slices_give_the_result_of_the_whole_batch() {
    let Some(whole) = common::device() else { return };
    let cases = cases();
    let expected: Vec<Results> = cases.iter().map(|case| results(&whole, case)).collect();
    let limits = whole.limits();
    drop(whole);
    let mut failures = Vec::new();
    for images in [1, 2] {
        let storage_binding_bytes = images * IMAGE_BYTES;
        let Some(gpu) = common::device() else { return };
        let gpu = gpu.with_limits(Limits { storage_binding_bytes, ..limits });
        for (case, expected) in cases.iter().zip(&expected) {
            let found = results(&gpu, case);
            let label = format!("{} in slices of {images}", case.label);
            assert!(found.dispatches > expected.dispatches, "{label}: nothing was cut");
            if case.by_image && bits(&found.forward) != bits(&expected.forward) {
                failures.push(format!("{label}: other bits"));
            }
            let forward = ("forward".to_owned(), found.forward);
            let all_expected = [&expected.forward].into_iter().chain(expected.others.iter().map(|(_, v)| v));
            for ((name, found), expected) in [forward].iter().chain(&found.others).zip(all_expected) {
                let error = distance(found, expected);
                println!("{label:<44} {name:<12} {error:.1e}");
                if error > 1e-6 {
                    failures.push(format!("{label}: {name} is {error:.1e} off"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn transformed_weights_beyond_a_binding_are_cut_by_outputs() {
    for software in [true, false] {
        // A weight is 36 products, or 16.
        cut_by_outputs(software, || conv2d_of_three_blocks(Form::Winograd), 36);
        cut_by_outputs(software, || conv2d_of_three_blocks(Form::WinogradTwo), 16);
    }
}

/// As processors compute it, and as GPUs do.
fn cut_by_outputs(software: bool, op: fn() -> Box<dyn Op>, products: u64) {
    let Some(device) = common::device() else { return };
    let limits = Limits { software, ..device.limits() };
    let whole = device.with_limits(limits);
    if limits.subgroup_lanes < 8 {
        return println!("SKIPPED: {} has no subgroups", whole.summary());
    }
    let packing = Packing { out_channels: 20, in_channels: 32, kernel: 3 };
    let (weight, bias) = (weight(packing.shape()), weight(Shape::new([20])));
    let inputs = vec![image(16, 16, 16), image(16, 16, 16), weight, bias];
    let case = Case::new("conv2d winograd", op, inputs);
    let expected = results(&whole, &case);
    // Products of 32 inputs by 8 outputs take 1024 bytes each: two blocks of three at a time.
    let found =
        results(&whole.with_limits(Limits { storage_binding_bytes: 2 * 1024 * products, ..limits }), &case);
    assert_eq!((expected.weight_transforms, found.weight_transforms), (1, 2));
    assert_eq!(bits(&found.forward), bits(&expected.forward));
    for ((name, found), (_, expected)) in found.others.iter().zip(&expected.others) {
        let error = distance(found, expected);
        println!("software {software}: {name:<12} {error:.1e}");
        // Sums of the weight's gradient are split differently, and Winograd's transforms round more.
        assert!(error <= 1e-5, "{name} is {error:.1e} off");
    }
}

/// Mesa's software adapter ends loops after 65,535 rounds of an invocation in all: the direct weight gradient, whose rows of one
/// split had more pixels than that, left the rest out.
#[test]
fn a_sum_over_more_pixels_than_a_driver_loops_for_is_whole() {
    let Some(gpu) = common::device() else { return };
    let (channels, height, width) = (128, 272, 256);
    let shape = Shape::nhwc(1, height, width, channels);
    let ones = vec![1.0; shape.len()];
    let packing = Packing { out_channels: channels, in_channels: channels, kernel: 3 };
    let inputs = [
        Input::activation(shape, ones.clone()),
        Input::weight(packing.shape(), vec![0.0; packing.shape().len()]),
        Input::weight(Shape::new([channels]), vec![0.0; channels]),
    ];
    let op = Conv2d { form: Some(Form::Direct), ..Conv2d::new(3, channels) };
    let bench = Bench::new(&gpu, Box::new(op), &inputs, Some(&ones));
    bench.run();
    let gradient = bench.gradient(1);
    // [block][group][tap][4][8]: the taps of the middle see every pixel.
    let found = gradient.chunks_exact(9 * 32).flat_map(|taps| &taps[4 * 32..5 * 32]);
    for value in found {
        assert_eq!(*value, (height * width) as f32);
    }
}
