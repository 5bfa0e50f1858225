//! A training step without a device: network, loss, gradients and optimiser recorded on a tape.

use rosette::config::Skip;
use rosette::gpu::Limits;
use rosette::model::{AttentionUNet, Spec};
use rosette::ops::activation;
use rosette::ops::adamw::AdamW;
use rosette::ops::segmentation_loss::{SUMS, SegmentationLoss};
use rosette::tape::{Mode, Phase, Program, Shape, Store, Tape};

/// What shapes a step.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub base_channels: usize,
    pub patch_px: usize,
    pub batch: usize,
    pub skip: Skip,
}

impl Settings {
    pub fn new(base_channels: usize, patch_px: usize, batch: usize, skip: Skip) -> Self {
        Self { base_channels, patch_px, batch, skip }
    }

    /// The defaults of the pipeline.
    pub fn pipeline() -> Self {
        Self::new(64, 512, 4, Skip::Full)
    }

    pub fn net(&self) -> AttentionUNet {
        AttentionUNet::new(Spec { in_channels: 2, base_channels: self.base_channels, skip: self.skip })
    }

    /// Records the step for a device with those limits.
    pub fn record(&self, limits: Limits) -> Program {
        self.record_on(Tape::new(limits, Mode::Train { accumulate: false }))
    }

    /// The same on a tape with settings of its own.
    pub fn record_on(&self, mut tape: Tape) -> Program {
        let net = self.net();
        let side = self.patch_px;
        let plane = Shape::nhwc(self.batch, side, side, 1);
        let x = tape.input("x", Shape::nhwc(self.batch, side, side, 4));
        let target = tape.input("target", plane.clone());
        let dloss = tape.input("dloss", Shape::new([1]));
        let sizes = tape.input("step sizes", Shape::new([4]));
        let loss = tape.output("loss", Shape::new([1]));
        let sums = tape.output("sums", Shape::new([self.batch, SUMS]));
        let logits = tape.output("logits", plane);
        net.logits(&mut tape, x, true, Some(logits));
        tape.apply_into("loss", SegmentationLoss::bce_dice(0.5), &[logits, target], &[loss, sums]);
        tape.backward(loss, dloss, activation::add);
        tape.set_phase(Phase::Optimiser);
        let flat = Shape::new([(net.weights().total_bytes() / 4) as usize]);
        let [w, g, m, v] = [Store::Weights, Store::Gradients, Store::Moment1, Store::Moment2]
            .map(|store| tape.stored("flat", flat.clone(), store, 0, false));
        tape.apply("adamw", AdamW { weight_decay: 0.01 }, &[w, g, m, v, sizes]);
        tape.finish()
    }
}
