//! Gradients of weights can be added to those of a step before: two micro-batches' worth of one give twice the one.

mod common;

use rosette::gpu::Gpu;
use rosette::ops::activation;
use rosette::ops::batch_norm::BatchNorm;
use rosette::ops::conv_transpose2d::{ConvTranspose2d, packing};
use rosette::ops::conv2d::{Conv2d, Form, Packing};
use rosette::ops::project::Project;
use rosette::tape::{Layout, Loaded, Mode, Op, Shape, SlotPool, Store, Stores, Tape, TensorId};

/// The gradients of an operation's weights after `runs` runs that start from zero.
fn gradients(
    gpu: &Gpu,
    op: Box<dyn Op>,
    x: &Shape,
    weights: &[Shape],
    state: usize,
    runs: usize,
) -> Vec<f32> {
    let mut tape = Tape::new(gpu.limits(), Mode::Train { accumulate: true });
    let (mut layout, mut statistics) = (Layout::default(), Layout::default());
    let mut inputs = vec![tape.input("x", x.clone())];
    for shape in weights {
        let offset = layout.push("weight", shape.clone());
        inputs.push(tape.stored("weight", shape.clone(), Store::Weights, offset, true));
    }
    for _ in 0..state {
        let offset = statistics.push("state", weights[0].clone());
        inputs.push(tape.stored("state", weights[0].clone(), Store::State, offset, false));
    }
    let y = tape.apply_boxed("op", op, &inputs)[0];
    let seed = tape.input("dy", tape.shape(y).clone());
    tape.backward(y, seed, activation::add);
    let seed_len = tape.shape(seed).len();
    let mut stores = Stores::new();
    let bytes = layout.total_bytes();
    for (store, bytes) in
        [(Store::Weights, bytes), (Store::Gradients, bytes), (Store::State, statistics.total_bytes())]
    {
        stores.insert(store, gpu.buffer("store", bytes).expect("memory"));
    }
    let loaded = Loaded::new(gpu, tape.finish(), &stores, &mut SlotPool::default()).expect("memory");
    let wave = |len: usize, factor: f32| (0..len).map(|i| (i as f32 * factor).sin()).collect::<Vec<f32>>();
    let write = |id: TensorId, len: usize, factor| loaded.write(gpu, id, &wave(len, factor));
    write(inputs[0], x.len(), 0.7);
    write(seed, seed_len, 1.3);
    inputs[1..].iter().take(weights.len()).zip(weights).for_each(|(id, shape)| write(*id, shape.len(), 0.3));
    (0..runs).for_each(|_| gpu.run(&loaded.executable));
    let gradients = &stores[&Store::Gradients];
    bytemuck::pod_collect_to_vec(&gpu.read(gradients, 0..gradients.size_bytes()).expect("it runs"))
}

type Make = fn() -> Box<dyn Op>;

fn conv(form: Form) -> Box<dyn Op> {
    Box::new(Conv2d { form: Some(form), ..Conv2d::new(3, 8) })
}

fn norm() -> Box<dyn Op> {
    Box::new(BatchNorm::new(true, true))
}

#[test]
fn two_runs_that_accumulate_give_twice_the_gradient() {
    let Some(gpu) = common::device() else { return };
    let weight = Packing { out_channels: 8, in_channels: 8, kernel: 3 }.shape();
    let (image, vector) = (Shape::nhwc(2, 8, 8, 8), Shape::new([8]));
    let cases: Vec<(&str, Make, Vec<Shape>, usize)> = vec![
        ("direct", || conv(Form::Direct), vec![weight.clone(), vector.clone()], 0),
        ("winograd", || conv(Form::Winograd), vec![weight.clone(), vector.clone()], 0),
        ("winograd 2x2", || conv(Form::WinogradTwo), vec![weight.clone(), vector.clone()], 0),
        ("tiled", || conv(Form::Tiled), vec![weight, vector.clone()], 0),
        ("transposed", || Box::new(ConvTranspose2d::new(4)), vec![packing(8, 4).shape(), Shape::new([4])], 0),
        ("norm", norm, vec![vector.clone(), vector.clone()], 2),
        ("project", || Box::new(Project), vec![vector, Shape::new([1])], 0),
    ];
    for (label, make, weights, state) in cases {
        let once = gradients(&gpu, make(), &image, &weights, state, 1);
        let twice = gradients(&gpu, make(), &image, &weights, state, 2);
        assert!(once.iter().any(|v| v.abs() > 1e-3), "{label} has a gradient");
        let doubled: Vec<f32> = once.iter().map(|v| 2.0 * v).collect();
        assert_eq!(twice, doubled, "{label}");
    }
}
