//! What one step is, as programs: forward, loss, backward and optimiser for training; forward and counts for
//! evaluation.

use crate::config::Recompute;
use crate::error::{Error, Result};
use crate::gpu::Limits;
use crate::model::AttentionUNet;
use crate::ops::activation;
use crate::ops::adamw::AdamW;
use crate::ops::bce_dice::{BceDice, SUMS};
use crate::ops::loss_scale::LossScale;
use crate::ops::warp::{self, PatchSource};
use crate::tape::{Element, MemoryPlan, Mode, Phase, Program, Shape, Store, Tape, TensorId, Tuning};

/// What shapes a program, besides the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepSettings {
    /// Side of a patch, a multiple of 16.
    pub patch_px: usize,
    /// Share of the Dice term in the loss.
    pub dice_weight: f32,
    /// AdamW's weight decay.
    pub weight_decay: f32,
    /// Winograd's convolutions may be used.
    pub winograd: bool,
    /// Whether the backward pass computes cheap tensors again instead of keeping them.
    pub recompute: Recompute,
    /// How activations and their gradients are stored; with f16 the loss is scaled.
    pub element: Element,
    /// Training patches are made on the device from samples that lie there; none where they are uploaded.
    pub patches: Option<PatchSource>,
    /// Which kernels were measured to be fastest; nothing where the device's limits decide.
    pub tuning: Tuning,
}

impl StepSettings {
    /// The configuration's defaults, for uploaded patches.
    pub fn new(patch_px: usize) -> Self {
        Self {
            patch_px,
            dice_weight: 0.5,
            weight_decay: 0.01,
            winograd: true,
            recompute: Recompute::Auto,
            element: Element::F32,
            patches: None,
            tuning: Tuning::default(),
        }
    }

    /// The same with `recompute: auto` decided for a batch size: once for all programs of a training, so that a short
    /// last batch does not keep what a full one computes again.
    pub fn decided(self, net: &AttentionUNet, limits: Limits, batch: usize) -> Self {
        let recompute = match self.recompute {
            Recompute::Auto if needs_room(net, limits, &self, batch) => Recompute::Always,
            Recompute::Auto => Recompute::Never,
            decided => decided,
        };
        Self { recompute, ..self }
    }

    /// One image of the widest activation must fit a binding, and so must the logits of the whole batch: there is
    /// nothing smaller to cut these into. The device must store what the settings ask for.
    ///
    /// # Errors
    /// A user error with the sizes where one does not fit, or where f16 is asked of a device without it.
    pub fn check_fits(&self, net: &AttentionUNet, batch: usize, limits: Limits) -> Result<()> {
        if self.element == Element::F16 && !limits.f16 {
            let remedy = "set precision to f32 or auto, or take another adapter (`rosette devices`)";
            return Err(Error::user(
                "precision",
                "what this adapter can store",
                "f16, which it cannot",
                remedy,
            ));
        }
        let (side, channels, batch) = (self.patch_px as u64, net.spec().base_channels as u64, batch as u64);
        let check = |place: &str, what: &str, factor: u64, size: u64| {
            let bytes = side * side * factor * size;
            if bytes <= limits.storage_binding_bytes {
                return Ok(());
            }
            let most = limits.storage_binding_bytes >> 20;
            let expected = format!("{what} of at most {most} MiB on this adapter");
            let found = format!("{} MiB ({side} x {side} x {factor} x {size} bytes)", bytes >> 20);
            let remedy = "reduce one of them, or take another adapter (`rosette devices`)";
            Err(Error::user(place, expected, found, remedy))
        };
        check("patch_size and base_channels", "an activation of one patch", channels, self.element.bytes())?;
        check("patch_size and batch_size", "logits of one batch", batch, 4)
    }
}

/// A recorded step with its inputs and outputs.
pub struct Recorded {
    /// The recording.
    pub program: Program,
    /// Where the channels and the target come from.
    pub source: Source,
    /// What else is uploaded and read back; training only.
    pub scalars: Option<Scalars>,
    /// The loss `[1]`, read back.
    pub loss: TensorId,
    /// Sums of each image [N, 8], read back (see [`crate::ops::bce_dice`]).
    pub sums: TensorId,
    /// Logits [N, P, P, 1], read back.
    pub logits: TensorId,
}

/// Where a step's channels [N, P, P, 4] and target [N, P, P, 1] (0, 1, or below 0 to ignore) come from.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// They are uploaded.
    Uploaded {
        /// The channels.
        x: TensorId,
        /// The target.
        target: TensorId,
    },
    /// They are made on the device (see [`crate::ops::warp`]) from what is uploaded.
    Made {
        /// What each patch is made of [N, 39] words.
        patches: TensorId,
        /// Smoothing weights of the displacement [radius + 1].
        weights: Option<TensorId>,
    },
}

/// The numbers of a training step.
#[derive(Debug, Clone, Copy)]
pub enum Scalars {
    /// In f32: gradient of the loss `[1]` and the optimiser's step sizes `[4]`, uploaded.
    Plain {
        /// The gradient of the loss.
        dloss: TensorId,
        /// See [`crate::ops::adamw::step_sizes`].
        sizes: TensorId,
    },
    /// In f16, where the device scales the loss and makes the step sizes itself (see [`crate::ops::loss_scale`]).
    Scaled {
        /// Learning rate and number of the step `[4]`, uploaded.
        step: TensorId,
        /// The state of the scaling after the step `[4]`, read back.
        report: TensorId,
    },
}

/// Bytes of [`Store::Scaling`]: the state at 0, the step sizes at [`SCALED_SIZES_BYTE`].
pub const SCALING_BYTES: u64 = 512;
const SCALED_SIZES_BYTE: u64 = 256;

/// With `recompute: auto` a step whose slots would take more than this computes cheap tensors again in its backward
/// pass: a few percent of time for a third of the memory.
const ROOMY_BYTES: u64 = 2 << 30;

/// Records a training step of `batch` patches: forward, loss, backward, AdamW over the flat buffers.
pub fn record_training(
    net: &AttentionUNet,
    limits: Limits,
    settings: &StepSettings,
    batch: usize,
) -> Recorded {
    let decided = settings.decided(net, limits, batch);
    record_training_with(net, limits, settings, batch, decided.recompute == Recompute::Always)
}

fn needs_room(net: &AttentionUNet, limits: Limits, settings: &StepSettings, batch: usize) -> bool {
    let recorded = record_training_with(net, limits, settings, batch, false);
    MemoryPlan::new(&recorded.program).slot_bytes() > ROOMY_BYTES
}

fn record_training_with(
    net: &AttentionUNet,
    limits: Limits,
    settings: &StepSettings,
    batch: usize,
    recompute: bool,
) -> Recorded {
    let mut tape = Tape::new(limits, Mode::Train { accumulate: false });
    tape.set_recompute(recompute);
    let mut recorded = record_forward(&mut tape, net, settings, batch, true);
    let scalars = recorded.scalars.expect("a training step has them");
    let seed = match scalars {
        Scalars::Plain { dloss, .. } => dloss,
        Scalars::Scaled { .. } => tape.stored("loss scale", Shape::new([1]), Store::Scaling, 0, false),
    };
    tape.backward(recorded.loss, seed, activation::add);
    tape.set_phase(Phase::Optimiser);
    record_optimiser(&mut tape, net, settings, scalars);
    recorded.program = tape.finish();
    recorded
}

/// AdamW over the flat buffers, with unscaled gradients.
fn record_optimiser(tape: &mut Tape, net: &AttentionUNet, settings: &StepSettings, scalars: Scalars) {
    let shape = Shape::new([(net.weights().total_bytes() / 4) as usize]);
    let flat = [
        ("weights", Store::Weights),
        ("gradients", Store::Gradients),
        ("first moments", Store::Moment1),
        ("second moments", Store::Moment2),
    ];
    let mut inputs = flat.map(|(name, store)| tape.stored(name, shape.clone(), store, 0, false)).to_vec();
    let sizes = match scalars {
        Scalars::Plain { sizes, .. } => sizes,
        Scalars::Scaled { step, report } => {
            let four = |tape: &mut Tape, name: &str, at: u64| {
                tape.stored(name, Shape::new([4]), Store::Scaling, at, false)
            };
            let state = four(tape, "scaling", 0);
            let sizes = four(tape, "step sizes", SCALED_SIZES_BYTE);
            tape.apply_into("loss scale", LossScale, &[inputs[1], step, state, sizes], &[report]);
            sizes
        }
    };
    inputs.push(sizes);
    tape.apply("adamw", AdamW { weight_decay: settings.weight_decay }, &inputs);
}

/// Records an evaluation of `batch` tiles with the running statistics: logits, loss and sums.
pub fn record_evaluation(
    net: &AttentionUNet,
    limits: Limits,
    settings: &StepSettings,
    batch: usize,
) -> Recorded {
    let mut tape = Tape::new(limits, Mode::Evaluate);
    let recorded = record_forward(&mut tape, net, settings, batch, false);
    Recorded { program: tape.finish(), ..recorded }
}

fn record_forward(
    tape: &mut Tape,
    net: &AttentionUNet,
    settings: &StepSettings,
    batch: usize,
    training: bool,
) -> Recorded {
    tape.set_exact(!settings.winograd);
    tape.set_tuning(settings.tuning);
    tape.set_stored_element(settings.element);
    let side = settings.patch_px;
    let plane = Shape::nhwc(batch, side, side, 1);
    let (x, target, source) = match settings.patches.filter(|_| training) {
        Some(source) => {
            tape.set_phase(Phase::Data);
            let made = warp::record(tape, &source, batch, side);
            tape.set_phase(Phase::Forward);
            (made.x, made.y, Source::Made { patches: made.patches, weights: made.weights })
        }
        None => {
            let x = tape.input("x", Shape::nhwc(batch, side, side, 4));
            let target = tape.input("target", plane.clone());
            (x, target, Source::Uploaded { x, target })
        }
    };
    let loss = tape.output("loss", Shape::new([1]));
    let scalars = training.then(|| record_scalars(tape, settings));
    let sums = tape.output("sums", Shape::new([batch, SUMS]));
    let logits = tape.output("logits", plane);
    net.logits(tape, x, training, Some(logits));
    let op = BceDice { dice_weight: settings.dice_weight };
    tape.apply_into("loss", op, &[logits, target], &[loss, sums]);
    let program = Tape::new(tape.limits(), tape.mode()).finish();
    Recorded { program, source, scalars, loss, sums, logits }
}

fn record_scalars(tape: &mut Tape, settings: &StepSettings) -> Scalars {
    match settings.element {
        Element::F32 => Scalars::Plain {
            dloss: tape.input("dloss", Shape::new([1])),
            sizes: tape.input("step sizes", Shape::new([4])),
        },
        Element::F16 => Scalars::Scaled {
            step: tape.input("step", Shape::new([4])),
            report: tape.output("scaling report", Shape::new([4])),
        },
    }
}
