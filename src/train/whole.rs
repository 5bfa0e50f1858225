//! Whether a device takes a step of the whole network as PyTorch does.
//!
//! Operations alone do not show what they do for one another: a convolution gathers the moments of the norm that follows it, and normalises
//! what it reads. So the smallest network goes through an evaluation and two steps of training, from weights and patches that a hash
//! gives, and what comes of them is compared with what PyTorch found in f64 (`tests/goldens/whole_cases.py` writes `whole.json`): logits,
//! losses, statistics and the gradient of every weight, each by its norm and a few sums with signs of the same hash.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::doctor::Examined;
use super::numbers::{stage, stage_scalars, step_values, values_of};
use super::step::{
    Recorded, SCALING_BYTES, Scalars, Source, StepSettings, record_evaluation, record_training,
};
use super::tuning::questions;
use crate::config::Skip;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Limits};
use crate::model::{AttentionUNet, NamedTensor, Spec};
use crate::ops::choice::Form;
use crate::ops::loss_scale::FIRST;
use crate::ops::warp::pcg4d;
use crate::tape::{Element, Loaded, SlotPool, Store, Stores, TensorId, Tuning};

const BASE_CHANNELS: usize = 8;
const CHANNELS: usize = 2;
const SIDE: usize = 64;
const BATCH: usize = 4;
/// Gradients are compared by their norm, but those below this share of the largest one's by that: some vanish but for rounding.
const LEAST_NORM: f64 = 1e-4;
const GRADIENT: &str = "gradient of ";

/// What PyTorch found.
#[derive(Deserialize)]
struct Golden {
    /// Of the hash.
    salt: u32,
    learning_rate: f64,
    weight_decay: f32,
    full: BTreeMap<String, Vec<f64>>,
    pooled: BTreeMap<String, Vec<f64>>,
}

impl Golden {
    /// The norm and the sums of everything, and a word for the skips.
    fn of(&self, skip: Skip) -> (&BTreeMap<String, Vec<f64>>, &'static str) {
        match skip {
            Skip::Full => (&self.full, "full"),
            Skip::Pooled => (&self.pooled, "pooled"),
        }
    }
}

/// As the generator wrote it.
pub(super) const GOLDEN_TEXT: &str = include_str!("whole.json");
static GOLDEN: LazyLock<Golden> =
    LazyLock::new(|| serde_json::from_str(GOLDEN_TEXT).expect("the generator wrote it"));

/// How far a device may be from PyTorch, relative to a quantity's norm.
///
/// Where a ReLU near its kink takes the other side, which rounding decides, gradients change: in f32 by percents, in f16 in every direction by
/// half of their norm at times, and by a fifth all together. Their norm changes less, and shows a kernel that does not do its work.
struct Room {
    /// Of logits, losses and statistics.
    forward: f64,
    /// Of a gradient's norm.
    norm: f64,
    /// Of its sums with signs.
    sums: f64,
    /// Of the root of the mean square of those of all gradients.
    together: f64,
}

impl Room {
    fn of(element: Element) -> Self {
        match element {
            Element::F32 => Self { forward: 5e-4, norm: 0.1, sums: 0.2, together: 0.05 },
            Element::F16 => Self { forward: 1e-2, norm: 0.95, sums: 1.5, together: 0.4 },
        }
    }
}

/// Examines the network with these skips, whose activations are stored as `element`. Convolutions have this form where it can compute
/// them, else the usual one.
///
/// # Errors
/// Where the device lacks memory, or was lost. A kernel that its driver refuses is a failure of what is examined.
pub(super) fn examine_whole(gpu: &Gpu, element: Element, form: Form, skip: Skip) -> Result<Examined> {
    let (golden, skips) = GOLDEN.of(skip);
    let what = format!("network, {skips} skips, {}", form.name());
    let mut entry = Examined::new(what, Some(form), element);
    match take_step(gpu, element, form, skip) {
        Ok(found) => compare(&mut entry, &found, golden, &Room::of(element)),
        Err(Error::Refused(why)) => {
            entry.failures.push(why.lines().next().unwrap_or_default().to_owned());
        }
        Err(error) => return Err(error),
    }
    Ok(entry)
}

/// Counts every quantity as a case, and all gradients together as another.
fn compare(
    entry: &mut Examined,
    found: &BTreeMap<String, Vec<f32>>,
    golden: &BTreeMap<String, Vec<f64>>,
    room: &Room,
) {
    let gradients = golden.iter().filter(|(name, _)| name.starts_with(GRADIENT));
    let largest = gradients.map(|(_, expected)| expected[0]).fold(0.0, f64::max);
    let mut squares: Vec<f64> = Vec::new();
    for (name, expected) in golden {
        let is_gradient = name.starts_with(GRADIENT);
        let scale = if is_gradient { expected[0].max(LEAST_NORM * largest) } else { expected[0] };
        let errors = found.get(name).map_or([f64::INFINITY; 2], |values| errors(name, values, expected));
        let [norm, sums] = errors.map(|error| error / scale);
        let error = norm.max(sums);
        if !is_gradient {
            entry.forward = entry.forward.max(error);
            take(entry, name, error, room.forward);
            continue;
        }
        entry.backward = entry.backward.max(error);
        // One that vanishes but for rounding says nothing of the others.
        if expected[0] > LEAST_NORM * largest {
            squares.push(error * error);
        }
        match norm > room.norm {
            true => take(entry, name, norm, room.norm),
            false => take(entry, name, sums, room.sums),
        }
    }
    let mean = squares.iter().sum::<f64>() / squares.len() as f64;
    take(entry, "all gradients", mean.sqrt(), room.together);
}

fn take(entry: &mut Examined, name: &str, error: f64, most: f64) {
    match error <= most {
        true => entry.passed += 1,
        false => entry
            .failures
            .push(format!("{name} differs from PyTorch's by {error:.1e} of its norm, allowed {most:.0e}")),
    }
}

/// How far the norm is from what is expected, and how far the sums are at most.
fn errors(name: &str, values: &[f32], expected: &[f64]) -> [f64; 2] {
    let norm = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    let sum = |number: usize| -> f64 {
        let signed = |(place, value): (usize, &f32)| {
            let sign = if hash(name, place, number as u32) >> 31 == 1 { -1.0 } else { 1.0 };
            sign * f64::from(*value)
        };
        values.iter().enumerate().map(signed).sum()
    };
    // No number is an error without an end.
    let error =
        |found: f64, wanted: f64| if found.is_finite() { (found - wanted).abs() } else { f64::INFINITY };
    let sums = (1..expected.len()).map(|number| error(sum(number), expected[number]));
    [error(norm, expected[0]), sums.fold(0.0, f64::max)]
}

/// Evaluates, then trains two steps, and gives what the goldens have, by their names.
fn take_step(gpu: &Gpu, element: Element, form: Form, skip: Skip) -> Result<BTreeMap<String, Vec<f32>>> {
    let net = AttentionUNet::new(Spec { in_channels: CHANNELS, base_channels: BASE_CHANNELS, skip });
    let settings = settings(&net, gpu.limits(), element, form);
    let (stores, mut pool) = (stores(gpu, &net)?, SlotPool::default());
    let evaluation =
        Step::load(gpu, record_evaluation(&net, gpu.limits(), &settings, BATCH), &stores, &mut pool)?;
    let training =
        Step::load(gpu, record_training(&net, gpu.limits(), &settings, BATCH), &stores, &mut pool)?;
    pool.poison(gpu);
    let mut found = BTreeMap::new();
    let outputs = evaluation.run(gpu, &settings, 1)?;
    found.insert("logits".to_owned(), values_of(&evaluation.loaded.program, &outputs, evaluation.logits));
    let loss = |outputs: &[u8]| values_of(&training.loaded.program, outputs, training.loss);
    found.insert("first loss".to_owned(), loss(&training.run(gpu, &settings, 1)?));
    let read = |store| -> Result<Vec<f32>> {
        let buffer = &stores[&store];
        gpu.finish_read_as(gpu.start_read(buffer, 0..buffer.size_bytes()))
    };
    let scale = if element == Element::F16 { FIRST } else { 1.0 };
    let (gradients, statistics) = (read(Store::Gradients)?, read(Store::State)?);
    for (parameter, tensor) in net.parameters().iter().zip(net.unpack(&gradients, &statistics)) {
        match parameter.trained {
            true => {
                let values = tensor.values.into_iter().map(|value| value / scale).collect();
                found.insert(format!("{GRADIENT}{}", tensor.name), values)
            }
            // Of the batch: in the running ones nine tenths are what they were.
            false => {
                let first = first_values(&tensor.name, &tensor.shape);
                let of_batch =
                    |(now, was): (f32, f32)| ((f64::from(now) - 0.9 * f64::from(was)) / 0.1) as f32;
                let values = tensor.values.into_iter().zip(first).map(of_batch).collect();
                found.insert(tensor.name, values)
            }
        };
    }
    found.insert("second loss".to_owned(), loss(&training.run(gpu, &settings, 2)?));
    Ok(found)
}

/// The form is the answer to every question that it can answer.
fn settings(net: &AttentionUNet, limits: Limits, element: Element, form: Form) -> StepSettings {
    let settings = StepSettings {
        weight_decay: GOLDEN.weight_decay,
        winograd: form.is_inexact(),
        element,
        ..StepSettings::new(SIDE)
    };
    let asked = questions(net, limits, &settings, &[BATCH]);
    let answers = asked.iter().filter(|question| question.allows(form, limits));
    let answers = answers.map(|question| (question.key(), form.name().to_owned())).collect();
    StepSettings { tuning: Tuning::new(answers, Vec::new()), ..settings }
}

/// The flat buffers at the start of a training.
fn stores(gpu: &Gpu, net: &AttentionUNet) -> Result<Stores> {
    let first = net.parameters().iter().map(|parameter| {
        let shape = parameter.kind.torch_shape();
        NamedTensor { name: parameter.name.clone(), values: first_values(&parameter.name, &shape), shape }
    });
    let (weights, statistics) = net.pack(&first.collect::<Vec<_>>());
    let zeros = vec![0.0; weights.len()];
    let mut scaling = vec![0.0; SCALING_BYTES as usize / 4];
    scaling[0] = FIRST;
    let all = [
        (Store::Weights, &weights),
        (Store::Gradients, &zeros),
        (Store::Moment1, &zeros),
        (Store::Moment2, &zeros),
        (Store::State, &statistics),
        (Store::Scaling, &scaling),
    ];
    let mut stores = Stores::new();
    for (store, values) in all {
        let buffer = gpu.buffer(&format!("{store:?}").to_lowercase(), 4 * values.len() as u64)?;
        gpu.write(&buffer, 0, bytemuck::cast_slice(values));
        stores.insert(store, buffer);
    }
    Ok(stores)
}

/// A loaded program, and where its inputs and outputs lie.
struct Step {
    loaded: Loaded,
    source: Source,
    scalars: Scalars,
    loss: TensorId,
    logits: TensorId,
}

impl Step {
    fn load(gpu: &Gpu, recorded: Recorded, stores: &Stores, pool: &mut SlotPool) -> Result<Self> {
        let Recorded { program, source, scalars, loss, logits, .. } = recorded;
        Ok(Self { loaded: Loaded::new(gpu, program, stores, pool)?, source, scalars, loss, logits })
    }

    /// Runs it on the batch as a training's step of that number, and gives its outputs.
    fn run(&self, gpu: &Gpu, settings: &StepSettings, number: u64) -> Result<Vec<u8>> {
        let program = &self.loaded.program;
        let Source::Uploaded { x, target } = self.source else { unreachable!("no patches are made") };
        let mut staging = vec![0; program.input_bytes as usize];
        stage(&mut staging, program, x, &channels());
        stage(&mut staging, program, target, &target_of_discs());
        let values = step_values(settings, 1.0, GOLDEN.learning_rate, number);
        stage_scalars(&mut staging, program, &self.scalars, &values);
        gpu.write(self.loaded.inputs(), 0, &staging);
        let outputs = self.loaded.outputs();
        let read = gpu.run_and_read(&self.loaded.executable, outputs, 0..outputs.size_bytes());
        gpu.finish_read_as(read)
    }
}

/// What the hash says of a place in what has that name: its value with `purpose` 0, the signs of its sums with others.
fn hash(name: &str, place: usize, purpose: u32) -> u32 {
    // FNV-1a.
    let name = name.bytes().fold(0x811c_9dc5_u32, |h, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    pcg4d([place as u32, name, purpose, GOLDEN.salt])[0]
}

/// In [-1, 1), by multiples of 2^-23.
fn noise(name: &str, place: usize) -> f32 {
    (hash(name, place, 0) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// Spread as PyTorch's defaults are; norms are off their trivial values, and statistics near what convolutions of such weights have.
fn first_values(name: &str, shape: &[usize]) -> Vec<f32> {
    let (middle, spread) = match name.rsplit('.').next() {
        Some("running_var") => (0.25, 0.125),
        Some("running_mean" | "bias") => (0.0, 0.125),
        _ if shape.len() == 1 => (1.0, 0.25),
        _ => (0.0, (1.0 / (shape[1..].iter().product::<usize>() as f64).sqrt()) as f32),
    };
    (0..shape.iter().product()).map(|place| middle + spread * noise(name, place)).collect()
}

/// Noise in both channels [N, P, P, 4].
fn channels() -> Vec<f32> {
    let pixels = 0..BATCH * SIDE * SIDE;
    pixels.flat_map(|at| [noise("x", CHANNELS * at), noise("x", CHANNELS * at + 1), 0.0, 0.0]).collect()
}

/// A disc in each image [N, P, P].
fn target_of_discs() -> Vec<f32> {
    let inside = |at: usize| {
        let [n, row, column] = [at / (SIDE * SIDE), at / SIDE % SIDE, at % SIDE].map(|v| v as i32);
        (row - 20 - 6 * n).pow(2) + (column - 40 + 5 * n).pow(2) < 196
    };
    (0..BATCH * SIDE * SIDE).map(|at| f32::from(u8::from(inside(at)))).collect()
}

/// What these steps run.
#[cfg(test)]
pub(super) fn kernels(limits: Limits, element: Element, form: Form) -> Vec<crate::gpu::Kernel> {
    let of_skips = |skip| {
        let net = AttentionUNet::new(Spec { in_channels: CHANNELS, base_channels: BASE_CHANNELS, skip });
        let settings = settings(&net, limits, element, form);
        let programs = [
            record_evaluation(&net, limits, &settings, BATCH),
            record_training(&net, limits, &settings, BATCH),
        ];
        programs.into_iter().flat_map(|recorded| recorded.program.into_kernels()).collect::<Vec<_>>()
    };
    [Skip::Full, Skip::Pooled].into_iter().flat_map(of_skips).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a device that agrees would find of the full network, as far as the goldens tell: numbers with that norm and those sums.
    fn agreeing() -> BTreeMap<String, Vec<f32>> {
        let net = AttentionUNet::new(Spec {
            in_channels: CHANNELS,
            base_channels: BASE_CHANNELS,
            skip: Skip::Full,
        });
        let len_of = |name: &str| {
            let name = name.strip_prefix(GRADIENT).unwrap_or(name);
            let parameter = net.parameters().iter().find(|parameter| parameter.name == name);
            parameter.map_or(if name == "logits" { BATCH * SIDE * SIDE } else { 1 }, |p| p.len())
        };
        GOLDEN
            .full
            .iter()
            .map(|(name, expected)| (name.clone(), with(name, len_of(name), expected)))
            .collect()
    }

    /// Numbers of that norm with those sums: the least that has the sums, and some of what no sum sees.
    fn with(name: &str, len: usize, expected: &[f64]) -> Vec<f32> {
        let sign = |number: u32, place: usize| if hash(name, place, number) >> 31 == 1 { -1.0 } else { 1.0 };
        let numbers = 1..expected.len() as u32;
        let signs: Vec<Vec<f64>> =
            numbers.map(|number| (0..len).map(|place| sign(number, place)).collect()).collect();
        // Sums of single numbers leave no choice, and converge at once; those of many nearly do.
        let towards = |values: &mut [f64], wanted: &dyn Fn(usize) -> f64| {
            for (number, signs) in (0..60).flat_map(|_| signs.iter().enumerate()) {
                let sum: f64 = values.iter().zip(signs).map(|(value, sign)| sign * value).sum();
                let step = (wanted(number) - sum) / len as f64;
                values.iter_mut().zip(signs).for_each(|(value, sign)| *value += sign * step);
            }
        };
        let (mut values, mut rest) =
            (vec![0.0; len], (0..len).map(|place| f64::from(noise(name, place))).collect::<Vec<_>>());
        towards(&mut values, &|number| expected[number + 1]);
        towards(&mut rest, &|_| 0.0);
        let square = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
        let missing = (expected[0].powi(2) - square(&values)).max(0.0);
        let factor = if square(&rest) > 1e-12 { (missing / square(&rest)).sqrt() } else { 0.0 };
        values.iter().zip(&rest).map(|(value, rest)| (value + factor * rest) as f32).collect()
    }

    type Named<T> = BTreeMap<String, Vec<T>>;

    fn failures(found: &Named<f32>, golden: &Named<f64>, element: Element) -> Vec<String> {
        let mut entry = Examined::new("network".into(), None, element);
        compare(&mut entry, found, golden, &Room::of(element));
        assert_eq!(entry.passed + entry.failures.len(), golden.len() + 1);
        entry.failures
    }

    /// Zeros passed for most gradients in f16, when their norm was not looked at by itself.
    #[test]
    fn a_quantity_that_is_not_pytorchs_is_a_failure() {
        type Change = fn(&mut Vec<f32>);
        let changes: [(&str, Change); 4] = [
            ("nothing", Vec::clear),
            ("no number", |values| values[0] = f32::NAN),
            ("zeros", |values| values.fill(0.0)),
            ("twice", |values| values.iter_mut().for_each(|value| *value *= 2.0)),
        ];
        let agreeing = agreeing();
        let of_gradients = GOLDEN.full.iter().filter(|(name, _)| name.starts_with(GRADIENT));
        let (largest, expected) =
            of_gradients.max_by(|(_, a), (_, b)| a[0].total_cmp(&b[0])).expect("there are gradients");
        let told = |expected: &[f64]| expected[0] > LEAST_NORM * GOLDEN.full[largest][0];
        for element in [Element::F32, Element::F16] {
            assert_eq!(failures(&agreeing, &GOLDEN.full, element), [""; 0]);
            for (name, wanted) in GOLDEN.full.iter().filter(|(_, expected)| told(expected)) {
                // Beside the largest, by which it is decided what vanishes.
                let golden =
                    Named::from([(name.clone(), wanted.clone()), (largest.clone(), expected.clone())]);
                for (what, change) in changes {
                    let mut found: Named<f32> =
                        golden.keys().map(|known| (known.clone(), agreeing[known].clone())).collect();
                    change(found.get_mut(name).expect("it is there"));
                    let failures = failures(&found, &golden, element);
                    let is_told = failures.iter().any(|failure| failure.starts_with(name.as_str()));
                    assert!(is_told, "{name}, {what}: {failures:?}");
                }
            }
            // A little of everything is told together.
            let mut found = agreeing.clone();
            let gradients = found.iter_mut().filter(|(name, _)| name.starts_with(GRADIENT));
            gradients.for_each(|(_, values)| values.iter_mut().for_each(|value| *value *= 1.55));
            let failures = failures(&found, &GOLDEN.full, element);
            assert!(failures.iter().any(|failure| failure.starts_with("all gradients")), "{failures:?}");
        }
    }

    #[test]
    fn goldens_have_every_tensor_of_the_network() {
        for skip in [Skip::Full, Skip::Pooled] {
            let (golden, _) = GOLDEN.of(skip);
            let net = AttentionUNet::new(Spec { in_channels: CHANNELS, base_channels: BASE_CHANNELS, skip });
            assert_eq!(golden.len(), net.parameters().len() + 3);
            assert!(golden.values().all(|kept| kept.len() == 4));
        }
    }
}
