//! Measures on a device which form of a convolution is fastest there: every candidate once against the usual one for
//! its result, then in turn for its time.

use std::time::Instant;

use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use super::choice::{Form, Pass, Question};
use super::conv_transpose2d;
use super::convolution::{Call, Convolution, Packing, SOURCES, Start};
use super::{direct, gradient_product, matrix, winograd, winograd_product};
use crate::error::{Error, Result};
use crate::files;
use crate::gpu::wide::CONVERSIONS;
use crate::gpu::{Gpu, Kernel, SharedBuffer, with_imports};
use crate::tape::{
    Element, Loaded, Mode, Normalisation, Phase, Program, Read, Shape, SlotPool, Store, Stores, Tape,
    TensorId,
};

/// Rounds in which the candidates are timed in turn; the fastest of each counts.
const ROUNDS: usize = 5;
/// A candidate that takes so many times as long as the best in its first round is not timed again.
const HOPELESS: f64 = 2.0;
/// Largest difference from the usual form's result, relative to its largest magnitude, that rounding explains.
const TOLERANCE: f64 = 1e-4;
/// The same where results are stored as f16.
const TOLERANCE_F16: f64 = 5e-3;

/// What was found for one form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// The form's name.
    pub form: String,
    /// Device time, or time by the clock where the device has no timestamps; infinite where it does not run.
    #[serde(deserialize_with = "null_is_infinite")]
    pub ms: f64,
    /// Largest difference from the usual form, relative to its largest magnitude; infinite for no number.
    #[serde(deserialize_with = "null_is_infinite")]
    pub difference: f64,
    /// The difference is rounding.
    pub sound: bool,
    /// Why it does not run on this device, where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// There was no memory for it, as there may be another time.
    #[serde(skip)]
    pub is_transient: bool,
}

/// JSON has no infinity: it is written as null.
fn null_is_infinite<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
}

/// A hash over the text of every shader that competes, imports included, before its loops are unrolled, and the shapes of their
/// tiles: answers measured with others are not used.
pub fn shader_digest() -> String {
    let mut hash = Sha256::new();
    let of_winograd = winograd::sources().chain(winograd_product::SOURCES.iter().copied());
    let others = SOURCES
        .iter()
        .chain(matrix::SOURCES)
        .chain(&direct::SOURCES)
        .chain(gradient_product::SOURCES)
        .copied();
    for source in others.chain(of_winograd) {
        hash.update(source.name);
        hash.update(with_imports(source));
    }
    hash.update(matrix::shapes());
    hash.update(winograd::ranges());
    hash.update(CONVERSIONS);
    // What a process of its own tries, whose verdicts are kept with the answers: whole steps too.
    hash.update("whole steps");
    files::hex(&hash.finalize())
}

/// The kernels of every form that [`measure`] will run.
pub fn kernels(gpu: &Gpu, question: &Question, banned: &[String]) -> Vec<Kernel> {
    let forms = question.candidates(gpu.limits(), banned);
    let programs = forms.into_iter().map(|form| recorded(gpu, question, form).0);
    programs.flat_map(Program::into_kernels).collect()
}

/// Measures every form that can answer a question and is not `banned`, fastest first; those with wrong results come last, and
/// so do those that the device refuses or has no memory for. The first that runs stands for what is right.
///
/// # Errors
/// Where the device was lost.
pub fn measure(gpu: &Gpu, question: &Question, banned: &[String]) -> Result<Vec<Timing>> {
    let forms = question.candidates(gpu.limits(), banned);
    let mut trials = Vec::new();
    let mut timings = Vec::new();
    let mut memory = Memory::default();
    let mut usual: Option<Vec<f32>> = None;
    for form in forms {
        match Trial::run(gpu, question, form, &mut memory) {
            Ok((trial, found)) => {
                let difference = usual.as_ref().map_or(0.0, |usual| difference(&found, usual));
                usual.get_or_insert(found);
                trials.push((trial, f64::INFINITY, difference));
            }
            Err(error @ (Error::Refused(_) | Error::OutOfMemory(_) | Error::User(_))) => {
                timings.push(Timing::failed(form, &error));
            }
            Err(error) => return Err(error),
        }
    }
    let tolerance = if question.half { TOLERANCE_F16 } else { TOLERANCE };
    let mut best_ms = f64::INFINITY;
    for round in 0..ROUNDS {
        for (trial, ms, _) in &mut trials {
            if round == 0 || *ms < HOPELESS * best_ms {
                *ms = ms.min(trial.time_ms(gpu)?);
            }
            best_ms = best_ms.min(*ms);
        }
    }
    timings.extend(trials.into_iter().map(|(trial, ms, difference)| {
        let form = trial.form.name().to_owned();
        Timing { form, ms, difference, sound: difference <= tolerance, failure: None, is_transient: false }
    }));
    timings.sort_by(|a, b| b.sound.cmp(&a.sound).then(a.ms.total_cmp(&b.ms)));
    Ok(timings)
}

impl Timing {
    /// The form and why it does not run, where it does not.
    pub fn told_failure(&self) -> Option<String> {
        Some(format!("{}: {}", self.form, self.failure.as_ref()?))
    }

    fn failed(form: Form, why: &Error) -> Self {
        let said = why.to_string();
        let failure = said.lines().next().unwrap_or_default().to_owned();
        let never = f64::INFINITY;
        let is_transient = matches!(why, Error::OutOfMemory(_));
        let form = form.name().into();
        Self { form, ms: never, difference: never, sound: false, failure: Some(failure), is_transient }
    }
}

/// What the trials of one question share: all read the same data, and none needs what another has left.
#[derive(Default)]
struct Memory {
    pool: SlotPool,
    /// Empty before the first trial.
    stores: Stores,
    /// The data is there.
    filled: bool,
}

/// One form of a convolution on the device, with data of no meaning.
struct Trial {
    form: Form,
    loaded: Loaded,
    gradients: SharedBuffer,
    result: TensorId,
    is_weight_gradient: bool,
}

impl Trial {
    /// Loads a form and runs it once: with the values of its result.
    fn run(gpu: &Gpu, question: &Question, form: Form, memory: &mut Memory) -> Result<(Self, Vec<f32>)> {
        let trial = Self::new(gpu, question, form, memory)?;
        trial.forget(gpu);
        gpu.run(&trial.loaded.executable);
        let found = trial.result(gpu)?;
        Ok((trial, found))
    }

    fn new(gpu: &Gpu, question: &Question, form: Form, memory: &mut Memory) -> Result<Self> {
        let (program, inputs, weight, result) = recorded(gpu, question, form);
        let weight_bytes = program.tensor(weight).bytes();
        let Memory { pool, stores, filled } = memory;
        if stores.is_empty() {
            let buffer = |(store, bytes)| Ok((store, gpu.buffer("tuned tensors", bytes)?));
            let sizes = [weight_bytes, weight_bytes, program.input_bytes];
            let wanted = [Store::Weights, Store::Gradients, Store::Inputs].into_iter().zip(sizes);
            *stores = wanted.map(buffer).collect::<Result<Stores>>()?;
        }
        let loaded = Loaded::new(gpu, program, stores, pool)?;
        if !*filled {
            *filled = true;
            for (place, id) in inputs.into_iter().chain([weight]).enumerate() {
                loaded.write_again_and_again(gpu, id, &noise(loaded.program.tensor(id).shape.len(), place));
            }
        }
        let is_weight_gradient = question.pass == Pass::WeightGradient;
        Ok(Self { form, loaded, gradients: stores[&Store::Gradients].clone(), result, is_weight_gradient })
    }

    /// Clears the result: it is where the form before has left its own, which a form that writes nothing would be given for.
    fn forget(&self, gpu: &Gpu) {
        match self.is_weight_gradient {
            true => gpu.clear(&self.gradients),
            false => self.loaded.clear(gpu, self.result),
        }
    }

    /// The result's values; of a large one those at both ends, where tiles are cut off, and in the middle.
    fn result(&self, gpu: &Gpu) -> Result<Vec<f32>> {
        /// Of activations: 16 MiB of f32, while the whole may be hundreds.
        const MOST: usize = 1 << 22;
        match self.is_weight_gradient {
            true => {
                let bytes = gpu.read(&self.gradients, 0..self.gradients.size_bytes())?;
                Ok(bytemuck::pod_collect_to_vec(&bytes))
            }
            false => {
                let len = self.loaded.program.tensor(self.result).shape.len();
                if len <= MOST {
                    return self.loaded.read(gpu, self.result);
                }
                let middle = len / 4 * 2;
                let parts = [0..MOST / 2, middle..middle + MOST / 4, len - MOST / 4..len];
                let parts = parts.map(|part| self.loaded.read_part(gpu, self.result, part));
                Ok(parts.into_iter().collect::<Result<Vec<_>>>()?.concat())
            }
        }
    }

    fn time_ms(&self, gpu: &Gpu) -> Result<f64> {
        if gpu.summary().timestamps {
            return Ok(gpu.run_profiled(&self.loaded.executable)?.iter().sum());
        }
        let started = Instant::now();
        gpu.run(&self.loaded.executable);
        gpu.read(self.loaded.inputs(), 0..4)?;
        Ok(started.elapsed().as_secs_f64() * 1e3)
    }
}

/// A form's program, and in it the inputs, the weight, the result.
fn recorded(gpu: &Gpu, question: &Question, form: Form) -> (Program, Vec<TensorId>, TensorId, TensorId) {
    let mut tape = Tape::new(gpu.limits(), Mode::Train { accumulate: false });
    tape.set_exact(question.exact);
    tape.set_stored_element(if question.half { Element::F16 } else { Element::F32 });
    let (inputs, weight, result) = record(&mut tape, question, form);
    (tape.finish(), inputs, weight, result)
}

/// Records what the question is about: the inputs, the weight, the result.
fn record(tape: &mut Tape, question: &Question, form: Form) -> (Vec<TensorId>, TensorId, TensorId) {
    let Question { pass, kernel, squares, image: [n, h, w], .. } = *question;
    let side = |channels: usize, large: bool| match large {
        true => Shape::nhwc(n, 2 * h, 2 * w, channels),
        false => Shape::nhwc(n, h, w, channels),
    };
    // The large side of a transposed convolution is its y, and dx's source.
    let (reads_large, writes_large) =
        (squares && pass == Pass::InputGradient, squares && pass != Pass::InputGradient);
    let read: Vec<Read> =
        question.sources.iter().map(|c| source(tape, side(*c, reads_large), question.normalised)).collect();
    let mut inputs: Vec<TensorId> = read.iter().map(|read| read.tensor).collect();
    inputs.extend(read.iter().filter_map(|read| Some(read.normalisation?.coefficients)));
    let written = side(question.out_channels, writes_large);
    let total: usize = question.sources.iter().sum();
    let (co, cx) = match pass {
        Pass::InputGradient => (total, question.out_channels),
        _ => (question.out_channels, total),
    };
    let packing = match squares {
        true => conv_transpose2d::packing(cx, co),
        false => Packing { out_channels: co, in_channels: cx, kernel },
    };
    let weight = tape.stored("weight", packing.shape(), Store::Weights, 0, true);
    let kernels = Convolution { kernel, out_channels: packing.out_channels, form: Some(form), squares };
    let mut first = 0;
    let sources: Vec<(Read, usize)> = read
        .iter()
        .zip(&question.sources)
        .map(|(read, channels)| {
            let source = (*read, first);
            first += channels / 4;
            source
        })
        .collect();
    tape.set_phase(if pass == Pass::Forward { Phase::Forward } else { Phase::Backward });
    let result = match pass {
        Pass::Forward => {
            let y = tape.activation("y", written);
            let call = Call {
                sources,
                weight,
                flip_from: None,
                flipped: None,
                bias: None,
                start: Start::Zero,
                y,
                transformed: None,
                x_squares: false,
                y_squares: squares,
                moments: false,
            };
            kernels.convolve(tape, &call);
            y
        }
        Pass::InputGradient => {
            let x = tape.activation("x", written);
            kernels.input_gradient(tape, (inputs[0], &mut None), weight, (x, 0))
        }
        Pass::WeightGradient => {
            let dy = input(tape, "dy", written);
            kernels.weight_gradient(tape, (&sources, None), dy, weight);
            inputs.push(dy);
            return (inputs, weight, weight);
        }
    };
    tape.keep(result);
    (inputs, weight, result)
}

/// What a convolution reads, normalised by it or not.
fn source(tape: &mut Tape, shape: Shape, normalised: bool) -> Read {
    let coefficients = Shape::new([3, shape.as_nhwc()[3]]);
    let tensor = input(tape, "x", shape);
    let normalisation = normalised
        .then(|| Normalisation { coefficients: tape.input("coefficients", coefficients), relu: true });
    Read { tensor, normalisation }
}

fn input(tape: &mut Tape, name: &str, shape: Shape) -> TensorId {
    let element = tape.stored_element().of_activation(&shape);
    tape.input_as(name, shape, element)
}

/// Numbers between -1 and 1, the same every time: a prime number of them at most, to be taken again and again.
fn noise(len: usize, stream: usize) -> Vec<f32> {
    const DISTINCT: usize = 65_521;
    let mut state = 0x9E37_79B9_u32.wrapping_mul(stream as u32 + 1);
    let number = |_| {
        // Marsaglia 2003, "Xorshift RNGs".
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..DISTINCT.min(len)).map(number).collect()
}

fn difference(found: &[f32], usual: &[f32]) -> f64 {
    let scale = usual.iter().fold(1e-6_f32, |most, v| most.max(v.abs()));
    let worst = |worst: f64, (a, b): (&f32, &f32)| {
        let difference = f64::from((a - b).abs() / scale);
        if difference.is_nan() { f64::INFINITY } else { worst.max(difference) }
    };
    found.iter().zip(usual).fold(0.0, worst)
}
