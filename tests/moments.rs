//! Moments that a convolution gathers of what it writes, for the batch norm that follows: those of what is stored, whatever
//! the shape, the sources and the slices, and however far the mean is from zero.

mod common;

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use rosette::gpu::{Gpu, Limits, MatrixUnits};
use rosette::ops::batch_norm::{BatchNorm, EPS, MOMENTUM};
use rosette::ops::choice::Form;
use rosette::ops::conv2d::{Conv2d, Packing};
use rosette::tape::{Element, Layout, Loaded, Mode, Program, Shape, SlotPool, Store, Stores, Tape, TensorId};

/// A convolution and a batch norm in training.
#[derive(Debug, Clone, Copy)]
struct Case {
    form: Form,
    image: [usize; 3],
    sources: &'static [usize],
    out_channels: usize,
    kernel: usize,
    /// Of every channel, beside weights that give y a deviation of about 1.
    bias: f32,
}

impl Case {
    const fn new(form: Form, image: [usize; 3], sources: &'static [usize], out_channels: usize) -> Self {
        Self { form, image, sources, out_channels, kernel: 3, bias: 0.5 }
    }
}

/// The recording: the sources, then weight, bias, gamma, beta, mean, variance; what the convolution and the norm give.
struct Recorded {
    program: Program,
    inputs: Vec<TensorId>,
    y: TensorId,
    z: TensorId,
    store_bytes: [u64; 2],
}

fn record(case: &Case, limits: Limits, element: Element, mode: Mode) -> Recorded {
    let mut tape = Tape::new(limits, mode);
    tape.set_stored_element(element);
    let [n, h, w] = case.image;
    let mut inputs: Vec<TensorId> =
        case.sources.iter().map(|c| tape.input_as("x", Shape::nhwc(n, h, w, *c), element)).collect();
    let (mut weights, mut state) = (Layout::default(), Layout::default());
    let in_channels = case.sources.iter().sum();
    let packing = Packing { out_channels: case.out_channels, in_channels, kernel: case.kernel };
    let row = || Shape::new([case.out_channels]);
    for shape in [packing.shape(), row(), row(), row()] {
        let at = weights.push("weight", shape.clone());
        inputs.push(tape.stored("weight", shape, Store::Weights, at, true));
    }
    for _ in 0..2 {
        let at = state.push("statistic", row());
        inputs.push(tape.stored("statistic", row(), Store::State, at, false));
    }
    let sources = case.sources.len();
    let conv = Conv2d { form: Some(case.form), ..Conv2d::new(case.kernel, case.out_channels).centred() };
    let y = tape.apply1("convolution", conv, &inputs[..sources + 2]);
    let training = mode != Mode::Evaluate;
    let z = tape.apply1("norm", BatchNorm::new(training, false), &[&[y], &inputs[sources + 2..]].concat());
    tape.keep(y);
    tape.keep(z);
    let store_bytes = [weights.total_bytes(), state.total_bytes()];
    Recorded { program: tape.finish(), inputs, y, z, store_bytes }
}

fn has(program: &Program, kernel: &str) -> bool {
    program.dispatches.iter().any(|dispatch| dispatch.kernel.name() == kernel)
}

/// Runs a case: y, what the norm made of it, the running mean and the running variance.
fn run(gpu: &Gpu, case: &Case, element: Element) -> [Vec<f32>; 4] {
    let recorded = record(case, gpu.limits(), element, Mode::Train { accumulate: false });
    assert!(!has(&recorded.program, "batch_norm/moments"), "{case:?}: the convolution gathers them");
    let mut stores = Stores::new();
    for (store, bytes) in [Store::Weights, Store::State].into_iter().zip(recorded.store_bytes) {
        stores.insert(store, gpu.buffer("flat", bytes).expect("memory enough"));
    }
    let mut pool = SlotPool::default();
    let loaded = Loaded::new(gpu, recorded.program, &stores, &mut pool).expect("memory enough");
    pool.poison(gpu);
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let (in_channels, sources) = (case.sources.iter().sum::<usize>(), case.sources.len());
    let deviation = 1.7 / ((in_channels * case.kernel * case.kernel) as f32).sqrt();
    for (place, id) in recorded.inputs.iter().enumerate() {
        let len = loaded.program.tensor(*id).shape.len();
        let mut values = |scale: f32| (0..len).map(|_| scale * random.random_range(-1.7..1.7)).collect();
        let values: Vec<f32> = match place.checked_sub(sources) {
            None => values(1.0),
            Some(0) => values(deviation),
            Some(1) => vec![case.bias; len],
            Some(2) => vec![1.5; len],
            Some(3) => vec![-0.25; len],
            Some(4) => vec![0.0; len],
            _ => vec![1.0; len],
        };
        loaded.write(gpu, *id, &values);
    }
    gpu.run(&loaded.executable);
    let [mean, variance] =
        [recorded.inputs.len() - 2, recorded.inputs.len() - 1].map(|at| recorded.inputs[at]);
    [recorded.y, recorded.z, mean, variance].map(|id| loaded.read(gpu, id).expect("it runs"))
}

fn check(gpu: &Gpu, case: &Case, element: Element) {
    let [y, z, running_mean, running_var] = run(gpu, case, element);
    let channels = case.out_channels;
    let count = (y.len() / channels) as f64;
    let momentum = f64::from(MOMENTUM);
    for c in 0..channels {
        let values = || y.iter().skip(c).step_by(channels).map(|v| f64::from(*v));
        let mean = values().sum::<f64>() / count;
        let squares: f64 = values().map(|v| (v - mean).powi(2)).sum();
        let found = [running_mean[c], running_var[c]].map(f64::from);
        let expected = [momentum * mean, 1.0 - momentum + momentum * squares / (count - 1.0).max(1.0)];
        for (found, expected) in found.into_iter().zip(expected) {
            assert!(
                (found - expected).abs() <= 2e-6 * expected.abs().max(0.1),
                "{case:?} {c}: {found} {expected}"
            );
        }
        let scale = 1.5 / (squares / count + f64::from(EPS)).sqrt();
        let rounding =
            if element == Element::F16 { 4e-3 } else { 1e-4 * f64::from(case.bias.abs().max(1.0)) };
        for (z, y) in z.iter().skip(c).step_by(channels).zip(values()) {
            let expected = (y - mean) * scale - 0.25;
            assert!((f64::from(*z) - expected).abs() <= rounding, "{case:?} {c}: {z} {expected}");
        }
    }
}

const CASES: [Case; 6] = [
    Case::new(Form::Tiled, [2, 9, 13], &[8], 24),
    Case::new(Form::Tiled, [1, 1, 2], &[4], 4),
    Case { kernel: 1, ..Case::new(Form::Tiled, [3, 8, 16], &[12], 72) },
    Case::new(Form::Tiled, [1, 20, 7], &[8, 16], 12),
    // More tiles than the lanes that merge them.
    Case::new(Form::Tiled, [2, 72, 64], &[4], 8),
    Case { bias: 1000.0, ..Case::new(Form::Tiled, [1, 40, 40], &[8], 8) },
];

/// Channels in eights, for matrix units.
const MATRIX: [Case; 4] = [
    Case::new(Form::Matrix, [2, 9, 13], &[8], 24),
    Case::new(Form::Matrix, [1, 1, 2], &[8], 8),
    Case { kernel: 1, ..Case::new(Form::Matrix, [3, 8, 16], &[24], 72) },
    Case::new(Form::Matrix, [1, 20, 7], &[8, 16], 16),
];

/// Of whole patches of the image, tall ones and wide ones.
const PATCHES: [Case; 3] = [
    Case::new(Form::MatrixRows, [2, 8, 32], &[8], 24),
    Case { bias: 1000.0, ..Case::new(Form::MatrixRows, [1, 24, 16], &[8, 16], 8) },
    Case::new(Form::MatrixRows, [2, 12, 48], &[24], 72),
];

/// Of whole tiles, in runs of one tile and of several.
const WINOGRAD: [Case; 5] = [
    Case::new(Form::Winograd, [2, 16, 24], &[8], 24),
    Case::new(Form::Winograd, [1, 20, 12], &[8, 16], 12),
    Case::new(Form::Winograd, [4, 60, 64], &[8], 16),
    Case::new(Form::WinogradTwo, [2, 6, 10], &[16], 24),
    // Runs of four tiles, the last one of three.
    Case { bias: 1000.0, ..Case::new(Form::Winograd, [3, 60, 60], &[8], 16) },
];

#[test]
fn moments_are_those_of_what_is_stored() {
    let Some(gpu) = common::device() else { return };
    let in_lanes = WINOGRAD.iter().filter(|_| gpu.limits().subgroup_lanes >= 8);
    let cases: Vec<&Case> = CASES.iter().chain(in_lanes).collect();
    cases.iter().for_each(|case| check(&gpu, case, Element::F32));
    if gpu.limits().f16 {
        // f16 has not the digits for a mean that far away.
        cases.iter().filter(|case| case.bias < 100.0).for_each(|case| check(&gpu, case, Element::F16));
    }
}

/// Where the parameters of Winograd's last pass have the tiles of a run.
const TILE_RUN: std::ops::Range<usize> = 40..44;

/// Ranges of tiles, of which the first ends within what would be a run of two, or with one.
#[test]
fn moments_of_tiles_in_ranges() {
    let Some(gpu) = common::device() else { return };
    if gpu.limits().subgroup_lanes < 8 {
        return println!("SKIPPED: {} has no subgroups", gpu.summary());
    }
    let (case, limits) = (Case::new(Form::Winograd, [3, 64, 88], &[8], 8), gpu.limits());
    let mut gpu = gpu;
    for (tiles, run) in [(575, 1), (576, 2)] {
        // Products of 8 outputs take 1152 bytes a tile.
        let limits = Limits { storage_binding_bytes: tiles * 1152, ..limits };
        gpu = gpu.with_limits(limits);
        let program = record(&case, limits, Element::F32, Mode::Train { accumulate: false }).program;
        let runs: Vec<u32> = program
            .dispatches
            .iter()
            .filter(|d| d.kernel.name() == "conv2d_winograd_output/transform_output_moments")
            .map(|d| bytemuck::pod_read_unaligned::<u32>(&d.params[TILE_RUN]))
            .collect();
        assert_eq!(runs, [run; 2]);
        check(&gpu, &case, Element::F32);
    }
}

#[test]
fn moments_of_a_batch_in_slices() {
    let Some(gpu) = common::device() else { return };
    // Two images of three fit: 16 KiB each.
    let limits = Limits { storage_binding_bytes: 40_000, ..gpu.limits() };
    let gpu = gpu.with_limits(limits);
    let case = Case::new(Form::Tiled, [3, 16, 16], &[16], 16);
    let program = record(&case, limits, Element::F32, Mode::Train { accumulate: false }).program;
    let written = program.dispatches.iter().filter(|d| d.kernel.name() == "conv2d_tiled/forward_moments");
    assert_eq!(written.count(), 2);
    check(&gpu, &case, Element::F32);
}

/// The same where tiles are patches of the image, and two sources of different widths come together.
#[test]
fn moments_of_patches_of_a_batch_in_slices() {
    let Some(gpu) = common::device() else { return };
    if !gpu.limits().f16 {
        return println!("SKIPPED: {} has no 16-bit floats", gpu.summary());
    }
    // Two images of three fit: 16 KiB each of the wider source, 36,864 bytes of weights as f16.
    let limits = Limits { matrix: MatrixUnits::Emulated, storage_binding_bytes: 40_000, ..gpu.limits() };
    let gpu = gpu.with_limits(limits);
    let case = Case::new(Form::MatrixRows, [3, 16, 16], &[8, 32], 16);
    let program = record(&case, limits, Element::F16, Mode::Train { accumulate: false }).program;
    let name = "conv2d_rows_matrix_emulated/forward_moments";
    let written = program.dispatches.iter().filter(|d| d.kernel.name() == name);
    assert_eq!(written.count(), 2);
    check(&gpu, &case, Element::F16);
}

/// Transformed weights beyond a binding: each range of outputs gathers its own channels, of one set of moments.
#[test]
fn moments_of_outputs_in_ranges() {
    let Some(gpu) = common::device() else { return };
    if gpu.limits().subgroup_lanes < 8 {
        return println!("SKIPPED: {} has no subgroups", gpu.summary());
    }
    // 36 products of 32 inputs by 8 outputs take 36,864 bytes: two blocks of three.
    let limits = Limits { storage_binding_bytes: 2 * 36_864, ..gpu.limits() };
    let gpu = gpu.with_limits(limits);
    let case = Case::new(Form::Winograd, [1, 16, 16], &[32], 20);
    let program = record(&case, limits, Element::F32, Mode::Train { accumulate: false }).program;
    let of = |name: &str| program.dispatches.iter().filter(|d| d.kernel.name() == name).count();
    assert_eq!(of("conv2d_winograd_weight/transform_weight"), 2);
    check(&gpu, &case, Element::F32);
}

/// Matrix units, replaced by what they stand for.
#[test]
fn moments_that_matrix_units_gather() {
    let Some(gpu) = common::device() else { return };
    if !gpu.limits().f16 {
        return println!("SKIPPED: {} has no 16-bit floats", gpu.summary());
    }
    let limits = Limits { matrix: MatrixUnits::Emulated, ..gpu.limits() };
    let gpu = gpu.with_limits(limits);
    let forms = Form::MATRIX.into_iter().filter(|form| !form.is_for_3x3_alone());
    let tiles = forms.flat_map(|form| MATRIX.map(|case| Case { form, ..case }));
    for case in tiles.chain(PATCHES) {
        let program = record(&case, limits, Element::F16, Mode::Train { accumulate: false }).program;
        let rows = if case.form.is_for_3x3_alone() { "rows_" } else { "" };
        assert!(has(&program, &format!("conv2d_{rows}matrix_emulated/forward_moments")), "{case:?}");
        check(&gpu, &case, Element::F16);
    }
}

#[test]
fn nothing_is_gathered_for_an_evaluation() {
    let case = Case::new(Form::Tiled, [1, 8, 8], &[8], 8);
    let train = Mode::Train { accumulate: true };
    for (mode, gathers) in [(Mode::Evaluate, false), (train, true)] {
        let program = record(&case, Limits::WEBGPU, Element::F32, mode).program;
        assert_eq!(has(&program, "conv2d_tiled/forward_moments"), gathers);
    }
}
