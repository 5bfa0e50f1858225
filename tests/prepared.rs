//! What kernels make of weights, by one dispatch for many layers: how many dispatches that takes, and that every layer gets its own.

mod common;
#[path = "common/step.rs"]
mod step;
#[path = "common/units.rs"]
mod units;

use rosette::config::Skip;
use rosette::gpu::Limits;
use rosette::ops::activation::add;
use rosette::ops::choice::Form;
use rosette::ops::conv2d::{Conv2d, Packing};
use rosette::tape::{
    Dispatch, Element, Layout, Loaded, Mode, Program, Shape, SlotPool, Store, Stores, Tape, TensorId, Tuning,
};
use rosette::train::{StepSettings, record_training};
use step::Settings;
use units::UNITS;

/// More than a dispatch takes.
const LAYERS: usize = 70;
const CHANNELS: usize = 8;

/// A chain of 1x1 convolutions from channels to the next ones, each with a factor of its own.
struct Chain {
    x: TensorId,
    y: TensorId,
    seed: TensorId,
    x_gradient: TensorId,
    weights: Layout,
    program: Program,
}

fn chain(limits: Limits, form: Form) -> Chain {
    let mut tape = Tape::new(limits, Mode::Train { accumulate: false });
    let mut weights = Layout::default();
    let shape = Shape::nhwc(1, 4, 4, CHANNELS);
    let (x, seed) = (tape.input("x", shape.clone()), tape.input("seed", shape));
    tape.set_differentiable(x, true);
    let packing = Packing { out_channels: CHANNELS, in_channels: CHANNELS, kernel: 1 };
    let mut y = x;
    for layer in 0..LAYERS {
        let [weight, bias] = [packing.shape(), Shape::new([CHANNELS])].map(|shape| {
            let offset = weights.push(format!("{layer} {shape}"), shape.clone());
            tape.stored("weight", shape, Store::Weights, offset, true)
        });
        y = tape.apply1("conv", Conv2d { form: Some(form), ..Conv2d::new(1, CHANNELS) }, &[y, weight, bias]);
    }
    tape.keep(y);
    tape.backward(y, seed, add);
    let x_gradient = tape.gradient(x).expect("a gradient");
    tape.keep(x_gradient);
    Chain { x, y, seed, x_gradient, weights, program: tape.finish() }
}

/// A layer's factor: neighbours have others.
fn factor(layer: usize) -> f32 {
    let steps = [1.25, 0.5, 2.0, 0.8, 1.5, 1.0 / 1.5, 0.75];
    let scale = if layer < LAYERS / 2 { 1.0 } else { -1.0 };
    steps[layer % steps.len()] * scale
}

fn dispatches(program: &Program, name: &str) -> usize {
    program.dispatches.iter().filter(|dispatch| dispatch.kernel.name() == name).count()
}

#[test]
fn every_layer_gets_its_own_weights_flipped_in_more_than_one_dispatch() {
    let Some(gpu) = common::device() else { return };
    let Chain { x, y, seed, x_gradient, weights, program } = chain(gpu.limits(), Form::Tiled);
    assert_eq!(dispatches(&program, "conv2d_flip/flip"), 2, "of {LAYERS} layers");
    let mut stores = Stores::new();
    for store in [Store::Weights, Store::Gradients] {
        stores.insert(store, gpu.buffer("store", weights.total_bytes()).expect("memory"));
    }
    let mut pool = SlotPool::default();
    let loaded = Loaded::new(&gpu, program, &stores, &mut pool).expect("a device that works");
    pool.poison(&gpu);
    let packing = Packing { out_channels: CHANNELS, in_channels: CHANNELS, kernel: 1 };
    let places: Vec<usize> = packing.places().collect();
    for layer in 0..LAYERS {
        let entry = &weights.entries()[2 * layer];
        let mut values = vec![0.0_f32; entry.shape.len()];
        for c in 0..CHANNELS {
            let to = (c + 1) % CHANNELS;
            values[places[to * CHANNELS + c]] = factor(layer);
        }
        gpu.write(&stores[&Store::Weights], entry.offset_bytes, bytemuck::cast_slice(&values));
    }
    let numbers: Vec<f32> = (0..16 * CHANNELS).map(|i| i as f32 - 50.0).collect();
    loaded.write(&gpu, x, &numbers);
    loaded.write(&gpu, seed, &numbers);
    gpu.run(&loaded.executable);
    let product: f32 = (0..LAYERS).map(factor).product();
    // Every layer moves channels on by one, and its gradient moves them back.
    let moved = |by: usize| -> Vec<f32> {
        let source = |i: usize| i / CHANNELS * CHANNELS + (i + by) % CHANNELS;
        (0..numbers.len()).map(|i| numbers[source(i)] * product).collect()
    };
    let backward = moved(LAYERS % CHANNELS);
    let forward = moved(CHANNELS - LAYERS % CHANNELS);
    for (id, wanted) in [(y, forward), (x_gradient, backward)] {
        let found = loaded.read(&gpu, id).expect("a device that works");
        let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0_f32, f32::max);
        assert!(worst <= 1e-3 * product.abs(), "{worst}: {found:?} {wanted:?}");
    }
}

#[test]
fn a_step_prepares_its_weights_in_few_dispatches() {
    let small = Settings::new(8, 64, 2, Skip::Full);
    let software = Limits { software: true, subgroup_lanes: 8, ..Limits::WEBGPU };
    let program = small.record(software);
    let of = |name: &str| dispatches(&program, name);
    // Of 18 convolutions of 3x3, some with two sources; results of 4 MiB a dispatch.
    assert!((1..=3).contains(&of("conv2d_winograd_weight/transform_weight")));
    assert!((1..=3).contains(&of("conv2d_winograd_flipped/transform_flipped")));
    assert!((1..=2).contains(&of("conv2d_flip/flip")));
    // On matrix units, at the pipeline's size: 62 jobs on weights of 126 MB in f32, as they are and turned round.
    let banned = Tuning::new(
        Default::default(),
        ["tiled", "winograd", "winograd 2x2", "direct"].map(String::from).to_vec(),
    );
    let settings = StepSettings { tuning: banned, element: Element::F16, ..StepSettings::new(512) };
    let program = record_training(&Settings::pipeline().net(), UNITS, &settings, 1).program;
    let is_pack = |dispatch: &&Dispatch| dispatch.kernel.name() == "conv2d_matrix_pack/pack";
    let packs: Vec<&Dispatch> = program.dispatches.iter().filter(is_pack).collect();
    assert!((4..=16).contains(&packs.len()), "{}", packs.len());
    let jobs = |dispatch: &Dispatch| u32::from_le_bytes(dispatch.params[..4].try_into().expect("four bytes"));
    assert_eq!(packs.iter().map(|dispatch| jobs(dispatch)).sum::<u32>(), 62);
    for dispatch in packs {
        let bytes = program.tensor(dispatch.args[1].tensor).bytes();
        assert!(bytes <= 16 << 20 || jobs(dispatch) == 1, "{bytes} bytes from the first reader to the last");
    }
}

/// A binding that shows less than all weights: as many dispatches as it takes, none of which binds more.
#[test]
fn prepared_weights_keep_to_a_binding() {
    let settings = Settings::new(8, 64, 1, Skip::Full);
    for most in [128 << 20, 1 << 20] {
        for software in [false, true] {
            let limits =
                Limits { storage_binding_bytes: most, software, subgroup_lanes: 8, ..Limits::WEBGPU };
            let program = settings.record(limits);
            let prepares = |name: String| {
                ["flip/", "winograd_weight/", "winograd_flipped/", "pack/"]
                    .iter()
                    .any(|part| name.contains(part))
            };
            let all = program.dispatches.iter().filter(|dispatch| prepares(dispatch.kernel.name()));
            let bytes: Vec<u64> = all.flat_map(|d| d.args.iter().map(|arg| arg.size_bytes)).collect();
            assert!(bytes.len() >= 2 && bytes.iter().all(|bytes| *bytes <= most), "{most}: {bytes:?}");
        }
    }
}
