//! What one step is, as programs: forward, loss, backward and optimiser for training; forward and counts for
//! evaluation.

use crate::config::Recompute;
use crate::error::{Error, Result};
use crate::gpu::Limits;
use crate::model::AttentionUNet;
use crate::ops::activation;
use crate::ops::adamw::AdamW;
use crate::ops::bce_dice::{BceDice, SUMS};
use crate::ops::warp::{self, PatchSource};
use crate::tape::{MemoryPlan, Mode, Phase, Program, Shape, Store, Tape, TensorId};

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
    /// Training patches are made on the device from samples that lie there; none where they are uploaded.
    pub patches: Option<PatchSource>,
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
            patches: None,
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
    /// nothing smaller to cut these into.
    ///
    /// # Errors
    /// A user error with the sizes where one does not.
    pub fn check_fits(&self, net: &AttentionUNet, batch: usize, limits: Limits) -> Result<()> {
        let (side, channels, batch) = (self.patch_px as u64, net.spec().base_channels as u64, batch as u64);
        let check = |place: &str, what: &str, factor: u64| {
            let bytes = side * side * factor * 4;
            if bytes <= limits.storage_binding_bytes {
                return Ok(());
            }
            let most = limits.storage_binding_bytes >> 20;
            let expected = format!("{what} of at most {most} MiB on this adapter");
            let found = format!("{} MiB ({side} x {side} x {factor} x 4 bytes)", bytes >> 20);
            let remedy = "reduce one of them, or take another adapter (`rosette devices`)";
            Err(Error::user(place, expected, found, remedy))
        };
        check("patch_size and base_channels", "an activation of one patch", channels)?;
        check("patch_size and batch_size", "logits of one batch", batch)
    }
}

/// A recorded step with its inputs and outputs.
pub struct Recorded {
    /// The recording.
    pub program: Program,
    /// Where the channels and the target come from.
    pub source: Source,
    /// Gradient of the loss `[1]` and the optimiser's step sizes `[4]`, uploaded; training only.
    pub scalars: Option<(TensorId, TensorId)>,
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
    let dloss = tape.input("dloss", Shape::new([1]));
    let sizes = tape.input("step sizes", Shape::new([4]));
    tape.backward(recorded.loss, dloss, activation::add);
    tape.set_phase(Phase::Optimiser);
    let shape = Shape::new([(net.weights().total_bytes() / 4) as usize]);
    let flat = [
        ("weights", Store::Weights),
        ("gradients", Store::Gradients),
        ("first moments", Store::Moment1),
        ("second moments", Store::Moment2),
    ];
    let mut inputs = flat.map(|(name, store)| tape.stored(name, shape.clone(), store, 0, false)).to_vec();
    inputs.push(sizes);
    tape.apply("adamw", AdamW { weight_decay: settings.weight_decay }, &inputs);
    recorded.scalars = Some((dloss, sizes));
    recorded.program = tape.finish();
    recorded
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
    let sums = tape.output("sums", Shape::new([batch, SUMS]));
    let logits = tape.output("logits", plane);
    net.logits(tape, x, training, Some(logits));
    let op = BceDice { dice_weight: settings.dice_weight };
    tape.apply_into("loss", op, &[logits, target], &[loss, sums]);
    let program = Tape::new(tape.limits(), tape.mode()).finish();
    Recorded { program, source, scalars: None, loss, sums, logits }
}
