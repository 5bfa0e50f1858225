//! What one step is, as programs: forward, loss, backward and optimiser for training, in one or, where gradients of
//! several micro-batches are added up, in two; forward and counts for evaluation.

use crate::config::Recompute;
use crate::error::{Error, Result};
use crate::gpu::Limits;
use crate::model::AttentionUNet;
use crate::ops::activation;
use crate::ops::adamw::AdamW;
use crate::ops::clip_norm::ClipNorm;
use crate::ops::loss_scale::{LossScale, LossSeed};
use crate::ops::moving_average::MovingAverage;
use crate::ops::segmentation_loss::{SUMS, SegmentationLoss};
use crate::ops::warp::{self, PatchSource};
use crate::tape::{Element, MemoryPlan, Mode, Phase, Program, Shape, Store, Tape, TensorId, Tuning};

/// What shapes a program, besides the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepSettings {
    /// Side of a patch, a multiple of 16.
    pub patch_px: usize,
    /// The loss.
    pub loss: SegmentationLoss,
    /// AdamW's weight decay.
    pub weight_decay: f32,
    /// The largest norm of all gradients together; 0 for any.
    pub clip_norm: f32,
    /// Decay of the moving average of weights and statistics, which evaluation then uses; 0 for none.
    pub ema_decay: f64,
    /// A step takes the gradients of several micro-batches: a program adds one's, another is the optimiser.
    pub accumulates: bool,
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
            loss: SegmentationLoss::bce_dice(0.5),
            weight_decay: 0.01,
            clip_norm: 0.0,
            ema_decay: 0.0,
            accumulates: false,
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
    /// What else is uploaded and read back; none in evaluation.
    pub scalars: Scalars,
    /// The loss `[1]`, read back.
    pub loss: TensorId,
    /// Sums of each image [N, 8], read back (see [`crate::ops::segmentation_loss`]).
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

/// The numbers of a training step that are uploaded and read back: those that its settings, and its part where there are
/// two, ask for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scalars {
    /// Gradient of the loss `[1]`, uploaded: 1, or a micro-batch's weight.
    pub dloss: Option<TensorId>,
    /// In f32: the optimiser's step sizes `[4]`, uploaded (see [`crate::ops::adamw::step_sizes`]).
    pub sizes: Option<TensorId>,
    /// In f16, where the device scales the loss and makes the sizes itself: learning rate and number of the step `[4]`,
    /// uploaded (see [`crate::ops::loss_scale`]).
    pub step: Option<TensorId>,
    /// Rates of the moving averages `[4]`, uploaded (see [`crate::ops::moving_average::rates`]).
    pub rates: Option<TensorId>,
    /// In f16: the state of the scaling after the step `[4]`, read back.
    pub report: Option<TensorId>,
    /// In f32, and where gradients are clipped: their norm before `[1]`, read back.
    pub norm: Option<TensorId>,
}

/// The optimiser alone, where a step has several micro-batches.
pub struct RecordedUpdate {
    /// The recording.
    pub program: Program,
    /// What is uploaded and read back.
    pub scalars: Scalars,
}

/// Bytes of [`Store::Scaling`]: the state at 0, the step sizes at [`SCALED_SIZES_BYTE`].
pub const SCALING_BYTES: u64 = 512;
const SCALED_SIZES_BYTE: u64 = 256;

/// With `recompute: auto` a step whose slots would take more than this computes cheap tensors again in its backward
/// pass: a few percent of time for a third of the memory.
const ROOMY_BYTES: u64 = 2 << 30;

/// Records a training step of `batch` patches: forward, loss, backward, AdamW over the flat buffers. Where the settings
/// accumulate, it adds a micro-batch's gradients to those that are there, and ends there: `record_update` is the rest.
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
    let mut tape = Tape::new(limits, Mode::Train { accumulate: settings.accumulates });
    tape.set_recompute(recompute);
    let mut recorded = record_forward(&mut tape, net, settings, batch, true);
    let seed = record_seed(&mut tape, recorded.scalars.dloss);
    tape.backward(recorded.loss, seed, activation::add);
    if !settings.accumulates {
        tape.set_phase(Phase::Optimiser);
        record_optimiser(&mut tape, net, settings, recorded.scalars);
    }
    recorded.program = tape.finish();
    recorded
}

/// The gradient of the loss: as uploaded, or the scale of the loss, or in a micro-batch their product.
fn record_seed(tape: &mut Tape, dloss: Option<TensorId>) -> TensorId {
    match (dloss, tape.stored_element()) {
        (Some(dloss), Element::F32) => dloss,
        (None, _) => tape.stored("loss scale", Shape::new([1]), Store::Scaling, 0, false),
        (Some(weight), Element::F16) => {
            let state = tape.stored("scaling", Shape::new([4]), Store::Scaling, 0, false);
            tape.apply1("loss seed", LossSeed, &[state, weight])
        }
    }
}

/// Records the optimiser's part of a step whose gradients were added up.
pub fn record_update(net: &AttentionUNet, limits: Limits, settings: &StepSettings) -> RecordedUpdate {
    let mut tape = Tape::new(limits, Mode::Train { accumulate: true });
    tape.set_phase(Phase::Optimiser);
    let scalars = optimiser_scalars(&mut tape, settings);
    record_optimiser(&mut tape, net, settings, scalars);
    RecordedUpdate { program: tape.finish(), scalars }
}

/// AdamW over the flat buffers, with gradients unscaled and clipped; then the moving averages.
fn record_optimiser(tape: &mut Tape, net: &AttentionUNet, settings: &StepSettings, scalars: Scalars) {
    let shape = Shape::new([(net.weights().total_bytes() / 4) as usize]);
    let flat = [
        ("weights", Store::Weights),
        ("gradients", Store::Gradients),
        ("first moments", Store::Moment1),
        ("second moments", Store::Moment2),
    ];
    let mut inputs = flat.map(|(name, store)| tape.stored(name, shape.clone(), store, 0, false)).to_vec();
    let (weights, gradients) = (inputs[0], inputs[1]);
    let mut sizes = record_sizes(tape, gradients, scalars);
    if let Some(norm) = scalars.norm {
        let clipped = tape.transient("clipped sizes", Shape::new([4]));
        let op = ClipNorm { most: settings.clip_norm };
        tape.apply_into("clip norm", op, &[gradients, sizes], &[clipped, norm]);
        if settings.clip_norm > 0.0 {
            sizes = clipped;
        }
    }
    inputs.push(sizes);
    tape.apply("adamw", AdamW { weight_decay: settings.weight_decay }, &inputs);
    if let Some(rates) = scalars.rates {
        let average = tape.stored("averaged weights", shape, Store::Average, 0, false);
        tape.apply("average weights", MovingAverage, &[average, weights, rates]);
        let shape = Shape::new([(net.state().total_bytes() / 4) as usize]);
        let average = tape.stored("averaged statistics", shape.clone(), Store::AverageState, 0, false);
        let statistics = tape.stored("statistics", shape, Store::State, 0, false);
        tape.apply("average statistics", MovingAverage, &[average, statistics, rates]);
    }
}

/// The optimiser's step sizes: uploaded, or made by loss scaling.
fn record_sizes(tape: &mut Tape, gradients: TensorId, scalars: Scalars) -> TensorId {
    let (Some(step), Some(report)) = (scalars.step, scalars.report) else {
        return scalars.sizes.expect("uploaded where no loss is scaled");
    };
    let four =
        |tape: &mut Tape, name: &str, at: u64| tape.stored(name, Shape::new([4]), Store::Scaling, at, false);
    let state = four(tape, "scaling", 0);
    let sizes = four(tape, "step sizes", SCALED_SIZES_BYTE);
    tape.apply_into("loss scale", LossScale, &[gradients, step, state, sizes], &[report]);
    sizes
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
    let scalars = if training { record_scalars(tape, settings) } else { Scalars::default() };
    let sums = tape.output("sums", Shape::new([batch, SUMS]));
    let logits = tape.output("logits", plane);
    net.logits(tape, x, training, Some(logits));
    tape.apply_into("loss", settings.loss, &[logits, target], &[loss, sums]);
    let program = Tape::new(tape.limits(), tape.mode()).finish();
    Recorded { program, source, scalars, loss, sums, logits }
}

/// The numbers of a whole step, or of a micro-batch.
fn record_scalars(tape: &mut Tape, settings: &StepSettings) -> Scalars {
    let seeded = settings.accumulates || settings.element == Element::F32;
    let dloss = seeded.then(|| tape.input("dloss", Shape::new([1])));
    match settings.accumulates {
        true => Scalars { dloss, ..Scalars::default() },
        false => Scalars { dloss, ..optimiser_scalars(tape, settings) },
    }
}

fn optimiser_scalars(tape: &mut Tape, settings: &StepSettings) -> Scalars {
    let four = || Shape::new([4]);
    let mut scalars = Scalars::default();
    match settings.element {
        Element::F32 => scalars.sizes = Some(tape.input("step sizes", four())),
        Element::F16 => {
            scalars.step = Some(tape.input("step", four()));
            scalars.report = Some(tape.output("scaling report", four()));
        }
    }
    scalars.rates = (settings.ema_decay > 0.0).then(|| tape.input("rates", four()));
    // Without clipping it tells whether all gradients are numbers; loss scaling looks at them itself.
    let is_measured = settings.clip_norm > 0.0 || settings.element == Element::F32;
    scalars.norm = is_measured.then(|| tape.output("gradient norm", Shape::new([1])));
    scalars
}
