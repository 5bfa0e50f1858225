//! Compares an operation on a device with its f64 reference: the outputs directly, the gradients with central
//! differences of the reference through the loss `<r, y>` with a fixed random r. For tests, and for whoever doubts a device.

use half::f16;
use rand::{Rng, RngExt, SeedableRng, rngs::ChaCha8Rng};

use crate::error::Result;
use crate::gpu::{Gpu, Limits};
use crate::tape::{
    Array, Case, CaseInput, Element, Fill, Layout, Loaded, Mode, Normalisation, Program, Read, Shape,
    SlotPool, Store, Stores, Tape, TensorId,
};

/// Step of the central differences, in f64.
const STEP: f64 = 1e-6;
/// Elements of each input whose gradient is checked.
const PROBES: usize = 24;

/// How far a device is from the reference, relative to the largest magnitude of each array.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Worst of the outputs and of the inputs changed in place.
    pub forward: f64,
    /// Worst of the gradients; `None` where none was checked.
    pub backward: Option<f64>,
}

/// Relative rounding of a stored f16, and room for a sum that was stored in between: added to a case's tolerance.
pub const F16_ROUNDING: f64 = 1e-3;

/// A case recorded for a device with those limits.
pub struct Recorded {
    /// The recording.
    pub program: Program,
    inputs: Vec<TensorId>,
    /// What is uploaded for an input.
    uploads: Vec<Upload>,
    outputs: Vec<TensorId>,
    gradients: Vec<Option<TensorId>>,
    /// Random gradients of the outputs.
    seeds: Vec<TensorId>,
    store_bytes: Vec<(Store, u64)>,
}

/// What the device holds of an input.
#[derive(Debug, Clone, Copy)]
enum Upload {
    Whole(TensorId),
    /// What a batch norm reads, and its coefficients.
    Deferred(Read, Normalisation),
}

/// Records a case with its activations stored as `stored`: forward, and backward unless it is forward only.
pub fn record(case: Case, limits: Limits, stored: Element) -> (Recorded, CaseData) {
    let mut tape = Tape::new(limits, Mode::Train { accumulate: false });
    tape.set_stored_element(stored);
    let mut layouts: Vec<(Store, Layout)> = Vec::new();
    let Case { label, op, inputs: specs, tolerance, forward_only, outputs_with_gradient } = case;
    let (inputs, uploads): (Vec<TensorId>, Vec<Upload>) =
        specs.iter().enumerate().map(|(i, spec)| add_input(&mut tape, &mut layouts, i, spec)).unzip();
    let mutates = op.mutates();
    let outputs = tape.apply_boxed(&label, op, &inputs);
    outputs.iter().for_each(|id| tape.keep(*id));
    let wants_gradient = !forward_only && specs.iter().any(|spec| spec.differentiable);
    let mut seeds = Vec::new();
    if wants_gradient {
        for output in &outputs[..outputs_with_gradient] {
            let shape = tape.shape(*output).clone();
            let element = stored.of_activation(&shape);
            seeds.push(tape.input_as("r", shape, element));
        }
        let pairs: Vec<_> = outputs.iter().copied().zip(seeds.iter().copied()).collect();
        tape.backward_from(&pairs, |_, _, _| unreachable!("one node has no sums of gradients"));
    }
    let gradients: Vec<Option<TensorId>> = inputs
        .iter()
        .zip(&specs)
        .map(|(id, spec)| tape.gradient(*id).filter(|_| wants_gradient && spec.differentiable))
        .collect();
    gradients.iter().flatten().for_each(|id| tape.keep(*id));
    let data = CaseData { label, inputs: specs, mutates, tolerance, forward_only };
    // Gradients lie at the weights' offsets.
    let bytes = |store| layouts.iter().find(|(s, _)| *s == store).map_or(0, |(_, l)| l.total_bytes());
    let gradient_bytes = bytes(Store::Weights).max(bytes(Store::Gradients));
    let mut store_bytes: Vec<(Store, u64)> = layouts.iter().map(|(s, l)| (*s, l.total_bytes())).collect();
    store_bytes.retain(|(store, _)| *store != Store::Gradients);
    store_bytes.push((Store::Gradients, gradient_bytes));
    (Recorded { program: tape.finish(), inputs, uploads, outputs, gradients, seeds, store_bytes }, data)
}

/// A case without its operation, which the recording took.
pub struct CaseData {
    /// What is particular about it.
    pub label: String,
    /// Its inputs.
    pub inputs: Vec<CaseInput>,
    /// Inputs changed in place.
    pub mutates: &'static [usize],
    /// Allowed relative error.
    pub tolerance: f64,
    /// No gradient.
    pub forward_only: bool,
}

fn add_input(
    tape: &mut Tape,
    layouts: &mut Vec<(Store, Layout)>,
    index: usize,
    spec: &CaseInput,
) -> (TensorId, Upload) {
    let name = format!("input {index}");
    if let Some(relu) = spec.deferred {
        let element = tape.stored_element().of_activation(&spec.shape);
        let tensor = tape.input_as("raw", spec.shape.clone(), element);
        let coefficients = tape.input("coefficients", Shape::new([3, spec.shape.as_nhwc()[3]]));
        let id = tape.activation(&name, spec.shape.clone());
        tape.set_differentiable(id, spec.differentiable);
        let normalisation = Normalisation { coefficients, relu };
        let read = Read { tensor, normalisation: Some(normalisation) };
        tape.defer(id, read);
        return (id, Upload::Deferred(read, normalisation));
    }
    if spec.store == Store::Inputs {
        let element = tape.stored_element().of_activation(&spec.shape);
        let id = tape.input_as(&name, spec.shape.clone(), element);
        tape.set_differentiable(id, spec.differentiable);
        return (id, Upload::Whole(id));
    }
    if !layouts.iter().any(|(store, _)| *store == spec.store) {
        layouts.push((spec.store, Layout::default()));
    }
    let (_, layout) = layouts.iter_mut().find(|(store, _)| *store == spec.store).expect("just added");
    let offset = layout.push(&name, spec.shape.clone());
    let id = tape.stored(&name, spec.shape.clone(), spec.store, offset, spec.differentiable);
    (id, Upload::Whole(id))
}

/// Runs a case, its activations stored as `stored`, on the device and compares it with its reference. `make` gives the case anew: once to record, once for
/// the reference.
///
/// # Errors
/// Where the device fails.
pub fn compare(gpu: &Gpu, stored: Element, make: impl Fn() -> Case) -> Result<Report> {
    compare_changed(gpu, stored, make, |_| ())
}

/// The same after a change to what was recorded.
///
/// # Errors
/// Where the device fails.
pub fn compare_changed(
    gpu: &Gpu,
    stored: Element,
    make: impl Fn() -> Case,
    change: impl Fn(&mut Program),
) -> Result<Report> {
    let op = make().op;
    let (mut recorded, data) = record(make(), gpu.limits(), stored);
    change(&mut recorded.program);
    let mut random = ChaCha8Rng::seed_from_u64(0x726f_7365);
    let element = |id: TensorId| recorded.program.tensor(id).element;
    let specs = data.inputs.iter().zip(&recorded.inputs);
    let filled: Vec<Array> = specs.map(|(spec, id)| fill(spec, element(*id), &mut random)).collect();
    let mut stores = Stores::new();
    for (store, bytes) in &recorded.store_bytes {
        stores.insert(*store, gpu.buffer("store", *bytes)?);
    }
    let mut pool = SlotPool::default();
    let loaded = Loaded::new(gpu, recorded.program, &stores, &mut pool)?;
    pool.poison(gpu);
    let mut values = Vec::new();
    for (upload, value) in recorded.uploads.iter().zip(filled) {
        values.push(match upload {
            Upload::Whole(id) => {
                loaded.write(gpu, *id, &value.to_f32());
                value
            }
            Upload::Deferred(read, normalisation) => {
                let coefficients = coefficients(value.shape.as_nhwc()[3], &mut random);
                loaded.write(gpu, read.tensor, &value.to_f32());
                loaded.write(gpu, normalisation.coefficients, &coefficients.to_f32());
                normalised(value, &coefficients, normalisation.relu)
            }
        });
    }
    let mut gradient_of = |id: &TensorId| {
        let info = loaded.program.tensor(*id);
        let r = fill(&CaseInput::activation(info.shape.clone()), info.element, &mut random);
        loaded.write(gpu, *id, &r.to_f32());
        r
    };
    let r: Vec<Array> = recorded.seeds.iter().map(&mut gradient_of).collect();
    gpu.run(&loaded.executable);

    let expected = op.reference(&values);
    let actual = recorded.outputs.iter().chain(data.mutates.iter().map(|i| &recorded.inputs[*i]));
    let mut forward = 0.0_f64;
    for (id, wanted) in actual.zip(&expected) {
        forward = forward.max(distance(&loaded.read(gpu, *id)?, &wanted.data));
    }
    let mut backward = None;
    let loss = |values: &[Array]| {
        let terms = op.reference(values).into_iter().zip(&r);
        terms.flat_map(|(y, r)| y.data.into_iter().zip(&r.data)).map(|(y, r)| y * r).sum()
    };
    for (place, gradient) in recorded.gradients.iter().enumerate() {
        let Some(id) = gradient else { continue };
        let found = loaded.read(gpu, *id)?;
        let worst = gradient_distance(&found, &values, place, &loss, &mut random);
        backward = Some(worst.max(backward.unwrap_or(0.0)));
    }
    Ok(Report { forward, backward })
}

/// Mean, scale and beta of each channel, none of them nothing.
fn coefficients(channels: usize, random: &mut impl Rng) -> Array {
    let spec = CaseInput::activation(Shape::new([3, channels])).filled(Fill::Uniform(0.25, 1.5));
    fill(&spec, Element::F32, random)
}

/// What the reader is to make of an input.
fn normalised(mut x: Array, coefficients: &Array, relu: bool) -> Array {
    let channels = x.shape.as_nhwc()[3];
    for (place, value) in x.data.iter_mut().enumerate() {
        let [mean, scale, beta] = [0, 1, 2].map(|row| coefficients.data[row * channels + place % channels]);
        let z = (*value - mean) * scale + beta;
        *value = if relu { z.max(0.0) } else { z };
    }
    x
}

/// Largest difference between a gradient and central differences at some elements, relative to its largest magnitude.
fn gradient_distance(
    found: &[f32],
    values: &[Array],
    place: usize,
    loss: &impl Fn(&[Array]) -> f64,
    random: &mut impl Rng,
) -> f64 {
    let scale = found.iter().fold(1e-6_f64, |most, v| most.max(f64::from(v.abs())));
    let len = found.len();
    let probes: Vec<usize> = if len <= PROBES {
        (0..len).collect()
    } else {
        (0..PROBES).map(|_| random.random_range(0..len)).collect()
    };
    let mut values = values.to_vec();
    let mut worst = 0.0_f64;
    for at in probes {
        let middle = values[place].data[at];
        let mut loss_at = |value: f64| -> f64 {
            values[place].data[at] = value;
            loss(&values)
        };
        let slope = (loss_at(middle + STEP) - loss_at(middle - STEP)) / (2.0 * STEP);
        values[place].data[at] = middle;
        worst = worst.max(nan_is_worst((f64::from(found[at]) - slope).abs() / scale));
    }
    worst.max(if found.iter().all(|v| v.is_finite()) { 0.0 } else { f64::INFINITY })
}

/// Largest difference relative to the largest magnitude that was expected.
fn distance(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-6_f64, |most, v| most.max(v.abs()));
    found
        .iter()
        .zip(expected)
        .fold(0.0, |worst: f64, (a, b)| worst.max(nan_is_worst((f64::from(*a) - b).abs() / scale)))
}

fn nan_is_worst(error: f64) -> f64 {
    if error.is_nan() { f64::INFINITY } else { error }
}

/// Values as the device will hold them: rounded to the element type, so that the reference starts from the same.
fn fill(spec: &CaseInput, element: Element, random: &mut impl Rng) -> Array {
    let len = spec.shape.len();
    let mut data: Vec<f64> = match spec.fill {
        Fill::Normal(mean, deviation) => (0..len).map(|_| mean + deviation * normal(random)).collect(),
        Fill::AwayFromZero(gap) => (0..len)
            .map(|_| {
                let v = normal(random);
                v + gap.copysign(v)
            })
            .collect(),
        Fill::Distinct(gap) => distinct(len, gap, random),
        Fill::Uniform(low, high) => (0..len).map(|_| random.random_range(low..high)).collect(),
        Fill::Target(ignore) => {
            let low = if ignore { -1 } else { 0 };
            (0..len).map(|_| f64::from(random.random_range(low..=1))).collect()
        }
        Fill::Constant(value) => vec![value; len],
        Fill::NormalButLast(last) => (1..len).map(|_| normal(random)).chain([last]).collect(),
        Fill::Listed(values) => values.to_vec(),
    };
    let round = |v: f64| match element {
        Element::F32 => f64::from(v as f32),
        Element::F16 => f16::from_f64(v).to_f64(),
    };
    data.iter_mut().for_each(|v| *v = round(*v));
    Array::new(spec.shape.clone(), data)
}

/// A shuffled arithmetic sequence around zero.
fn distinct(len: usize, gap: f64, random: &mut impl Rng) -> Vec<f64> {
    let mut data: Vec<f64> = (0..len).map(|i| (i as f64 - len as f64 / 2.0) * gap).collect();
    for i in (1..len).rev() {
        data.swap(i, random.random_range(0..=i));
    }
    data
}

/// Box and Muller's transform of two uniform numbers.
fn normal(random: &mut impl Rng) -> f64 {
    let u: f64 = random.random_range(f64::EPSILON..1.0);
    let v: f64 = random.random_range(0.0..std::f64::consts::TAU);
    (-2.0 * u.ln()).sqrt() * v.cos()
}
