//! Batch norms that leave what they give to their readers: nothing is written that no one reads as it is, and the results
//! are those of writing everything, to the bit.

mod common;
#[path = "common/step.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod step;

use std::collections::{BTreeMap, HashSet};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use rosette::config::Skip;
use rosette::gpu::{Gpu, Limits, MatrixUnits};
use rosette::ops::activation::{self, Relu};
use rosette::ops::batch_norm::BatchNorm;
use rosette::ops::choice::Form;
use rosette::ops::conv2d::{Conv2d, Packing};
use rosette::ops::max_pool2d::MaxPool2d;
use rosette::tape::{
    Dispatch, Element, Home, Loaded, Mode, Phase, Program, Shape, SlotPool, Store, Stores, Tape, TensorId,
    Tuning,
};
use step::Settings;

const CHANNELS: usize = 8;

fn tape() -> Tape {
    Tape::new(Limits::WEBGPU, Mode::Train { accumulate: false })
}

/// A batch norm that leaves what it gives to its readers.
fn norm(tape: &mut Tape) -> TensorId {
    let x = tape.input("x", Shape::nhwc(2, 8, 8, CHANNELS));
    tape.set_differentiable(x, true);
    let row = |tape: &mut Tape, store, at: u64| tape.stored("row", Shape::new([CHANNELS]), store, at, true);
    let [gamma, beta] = [0, 256].map(|at| row(tape, Store::Weights, at));
    let [mean, variance] = [0, 256].map(|at| row(tape, Store::State, at));
    tape.apply1("norm", BatchNorm::new(true, true).deferred(), &[x, gamma, beta, mean, variance])
}

fn convolution(tape: &mut Tape, x: TensorId) -> TensorId {
    let packing = Packing { out_channels: CHANNELS, in_channels: CHANNELS, kernel: 3 };
    let weight = tape.stored("weight", packing.shape(), Store::Weights, 512, true);
    let bias = tape.stored("bias", Shape::new([CHANNELS]), Store::Weights, 1 << 20, true);
    tape.apply1("convolution", Conv2d::new(3, CHANNELS), &[x, weight, bias])
}

/// Where a program's dispatches of a kernel are.
fn places(program: &Program, kernel: &str) -> Vec<usize> {
    let is = |dispatch: &Dispatch| dispatch.kernel.name() == kernel;
    (0..program.dispatches.len()).filter(|place| is(&program.dispatches[*place])).collect()
}

fn normalises(dispatch: &Dispatch) -> bool {
    dispatch.kernel.variant().to_string().contains("NORMALISED=true")
}

#[test]
fn what_only_convolutions_read_is_never_written() {
    let mut tape = tape();
    let y = norm(&mut tape);
    convolution(&mut tape, y);
    convolution(&mut tape, y);
    let program = tape.finish();
    assert!(places(&program, "batch_norm/normalise").is_empty());
    let convolutions = places(&program, "conv2d_tiled/forward");
    assert_eq!(convolutions.len(), 2);
    assert!(convolutions.iter().all(|place| normalises(&program.dispatches[*place])));
}

#[test]
fn the_first_reader_that_takes_it_as_it_is_has_it_written_for_all_that_follow() {
    let mut tape = tape();
    let y = norm(&mut tape);
    convolution(&mut tape, y);
    tape.apply1("pool", MaxPool2d, &[y]);
    tape.apply1("relu", Relu, &[y]);
    convolution(&mut tape, y);
    let program = tape.finish();
    let written = places(&program, "batch_norm/normalise");
    let pooled = places(&program, "max_pool2d/forward");
    let convolutions = places(&program, "conv2d_tiled/forward");
    assert_eq!(written.len(), 1);
    assert!(convolutions[0] < written[0] && written[0] < pooled[0]);
    assert_eq!(
        program.dispatches[written[0]].node, "norm",
        "it is the norm's dispatch, whoever asked for it"
    );
    assert_eq!([0, 1].map(|i| normalises(&program.dispatches[convolutions[i]])), [true, false]);
}

#[test]
fn what_is_kept_is_written() {
    let mut tape = tape();
    let y = norm(&mut tape);
    tape.keep(y);
    tape.keep(y);
    assert_eq!(places(&tape.finish(), "batch_norm/normalise").len(), 1);
}

#[test]
fn a_tape_that_does_not_defer_writes_everything() {
    let mut tape = tape();
    tape.set_deferring(false);
    let y = norm(&mut tape);
    convolution(&mut tape, y);
    let program = tape.finish();
    assert_eq!(places(&program, "batch_norm/normalise").len(), 1);
    assert!(!program.dispatches.iter().any(normalises));
}

/// Gates and their convolutions read what a pooling norm has written for the forward pass; it was computed again for each of them.
#[test]
fn a_steps_backward_pass_computes_no_norm_again() {
    let mut tape = tape();
    tape.set_recompute(true);
    let program = Settings::new(8, 64, 2, Skip::Full).record_on(tape);
    let of = |name: &str, phase: Phase| {
        let places = places(&program, name);
        places.into_iter().filter(|place| program.dispatches[*place].phase == phase).count()
    };
    assert_eq!(of("batch_norm/normalise", Phase::Backward), 0);
    // The products are computed again, from what the norms read.
    assert_eq!([Phase::Forward, Phase::Backward].map(|phase| of("attention_product/forward", phase)), [4, 4]);
}

/// Where tensors are computed again for the backward pass, a convolution normalises instead.
#[test]
fn a_convolutions_backward_pass_computes_no_norm_again() {
    for pooled in [false, true] {
        let mut tape = tape();
        tape.set_recompute(true);
        let x = norm(&mut tape);
        if pooled {
            tape.apply1("pool", MaxPool2d, &[x]);
        }
        let y = convolution(&mut tape, x);
        let seed = tape.input("seed", Shape::nhwc(2, 8, 8, CHANNELS));
        tape.backward(y, seed, activation::add);
        let program = tape.finish();
        let backward = |place: &&usize| program.dispatches[**place].phase == Phase::Backward;
        assert_eq!(places(&program, "batch_norm/normalise").iter().filter(backward).count(), 0);
        let gradients = places(&program, "conv2d_weight_gradient/weight_gradient");
        assert!(gradients.iter().all(|place| normalises(&program.dispatches[*place])), "{pooled}");
        assert_eq!(gradients.len(), 1);
    }
}

/// A step's inputs, the same every time, written where the program has them.
fn write_inputs(gpu: &Gpu, loaded: &Loaded) {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for info in &loaded.program.tensors {
        let Home::Stored { store: Store::Inputs, offset_bytes } = info.home else { continue };
        let mut value = || match info.name.as_str() {
            "x" => random.random_range(-1.0..1.0),
            "target" => random.random_range(0..2) as f32,
            "dloss" => 1.0,
            _ => 1e-3_f32,
        };
        let values: Vec<f32> = (0..info.shape.len()).map(|_| value()).collect();
        gpu.write(loaded.inputs(), offset_bytes, bytemuck::cast_slice(&values));
    }
}

/// What a step leaves behind: weights, gradients, running statistics, and what the host reads.
fn left_by(gpu: &Gpu, settings: Settings, program: Program) -> Vec<Vec<u8>> {
    let net = settings.net();
    let (weights, state) = net.pack(&net.initial(3));
    let mut stores = Stores::new();
    for store in [Store::Weights, Store::Gradients, Store::Moment1, Store::Moment2, Store::State] {
        let values = if store == Store::State { &state } else { &weights };
        let buffer = gpu.buffer("flat", 4 * values.len() as u64).expect("memory enough");
        match store {
            Store::Weights | Store::State => gpu.write(&buffer, 0, bytemuck::cast_slice(values)),
            _ => gpu.fill(&buffer, 0),
        }
        stores.insert(store, buffer);
    }
    let mut pool = SlotPool::default();
    let loaded = Loaded::new(gpu, program, &stores, &mut pool).expect("memory enough");
    pool.poison(gpu);
    write_inputs(gpu, &loaded);
    gpu.run(&loaded.executable);
    let buffers =
        [&stores[&Store::Weights], &stores[&Store::Gradients], &stores[&Store::State], loaded.outputs()];
    buffers.map(|buffer| gpu.read(buffer, 0..buffer.size_bytes()).expect("it runs")).into()
}

/// A training step with and without deferring, each with tensors kept and computed again, gives the same bits; the kernels
/// that normalised what they read.
fn deferring_changes_no_bit(
    gpu: &Gpu,
    settings: Settings,
    element: Element,
    form: Option<Form>,
) -> HashSet<String> {
    let others = Form::ALL.into_iter().filter(|other| form.is_some_and(|form| form != *other));
    let tuning = Tuning::new(BTreeMap::new(), others.map(|form| form.name().to_owned()).collect());
    let mut expected = None;
    let mut kernels = HashSet::new();
    for (defers, recompute) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut tape = Tape::new(gpu.limits(), Mode::Train { accumulate: false });
        tape.set_stored_element(element);
        tape.set_tuning(tuning);
        tape.set_deferring(defers);
        tape.set_recompute(recompute);
        let program = settings.record_on(tape);
        let normalising: Vec<&Dispatch> = program.dispatches.iter().filter(|d| normalises(d)).collect();
        assert_eq!(defers, !normalising.is_empty());
        kernels.extend(normalising.iter().map(|dispatch| dispatch.kernel.name()));
        let found = left_by(gpu, settings, program);
        for bytes in &found {
            let values: Vec<f32> = bytemuck::pod_collect_to_vec(bytes);
            assert!(values.iter().all(|v| v.is_finite()) && values.iter().any(|v| *v != 0.0), "computed");
        }
        let expected = expected.get_or_insert_with(|| found.clone());
        let what = ["weights", "gradients", "statistics", "loss and logits"];
        for ((what, found), expected) in what.iter().zip(&found).zip(expected) {
            assert!(found == expected, "{what}: {element:?} {form:?}, deferring {defers}, again {recompute}");
        }
    }
    kernels
}

#[test]
fn whole_steps_give_the_same_bits_with_every_form() {
    let Some(gpu) = common::device() else { return };
    let settings = Settings::new(8, 64, 2, Skip::Full);
    for form in [Form::Direct, Form::Winograd, Form::WinogradTwo, Form::Tiled] {
        if !form.runs_on(false, gpu.limits()) {
            println!("SKIPPED: {} cannot run {}", gpu.summary(), form.name());
            continue;
        }
        let kernels = deferring_changes_no_bit(&gpu, settings, Element::F32, Some(form));
        println!("{form:?}: {kernels:?}");
        let family = form.name().split(' ').next().expect("a name");
        assert!(kernels.iter().any(|name| name.starts_with(&format!("conv2d_{}", family))), "{kernels:?}");
    }
}

#[test]
fn whole_steps_give_the_same_bits_in_half_precision() {
    let Some(gpu) = common::device() else { return };
    if !gpu.limits().f16 {
        return println!("SKIPPED: {} has no 16-bit floats", gpu.summary());
    }
    deferring_changes_no_bit(&gpu, Settings::new(8, 64, 2, Skip::Pooled), Element::F16, None);
    let limits = Limits { matrix: MatrixUnits::Emulated, ..gpu.limits() };
    let gpu = gpu.with_limits(limits);
    for form in Form::MATRIX {
        let kernels =
            deferring_changes_no_bit(&gpu, Settings::new(8, 32, 2, Skip::Full), Element::F16, Some(form));
        let rows = if form.is_for_3x3_alone() { "rows_" } else { "" };
        for name in ["conv2d_ROWSmatrix_emulated/forward", "conv2d_gradient_ROWSmatrix_emulated/multiply"] {
            assert!(kernels.contains(&name.replace("ROWS", rows)), "{kernels:?}");
        }
    }
}

#[test]
fn a_batch_in_slices_gives_the_same_bits() {
    let Some(gpu) = common::device() else { return };
    let limits = Limits { storage_binding_bytes: 1 << 20, ..gpu.limits() };
    let gpu = gpu.with_limits(limits);
    deferring_changes_no_bit(&gpu, Settings::new(8, 128, 3, Skip::Full), Element::F32, None);
}
