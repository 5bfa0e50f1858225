//! The loss, half binary cross-entropy and half Dice, from logits; and the counts that the metrics are made of.
//!
//! `loss = (1 - a) * BCE + a * (1 - mean over images of (2 sum(p t) + 1e-6) / (sum(p) + sum(t) + 1e-6))`, p = sigmoid(z)
//! (Milletari et al. 2016 for the Dice term). Pixels whose target is below 0 are ignored everywhere.
//!
//! Inputs: logits and target `[N, H, W, 1]`. Outputs: the loss `[1]` and, for each image, sums `[N, 8]`: BCE, p t, p, t, true
//! positives, false positives, false negatives (at p > 0.5), pixels.

use super::common::busy_invocations;
use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::params;
use crate::tape::{Array, Case, CaseInput, Fill, Node, Op, Shape, Store, Tape, TensorId};

const SHADER: ShaderSource =
    ShaderSource { name: "bce_dice", text: include_str!("../../shaders/bce_dice.wgsl") };
/// Numbers an image in the sums.
pub const SUMS: usize = 8;
const SMOOTH: f64 = 1e-6;

params! {
    struct LossParams {
        images: u32, pixels: u32, pixels_per_split: u32, splits: u32, image_first: u32, dice_weight: f32,
    }
}

/// The loss.
#[derive(Debug, Clone)]
pub struct BceDice {
    /// Share of the Dice term, 0 to 1.
    pub dice_weight: f32,
}

impl BceDice {
    fn params(&self, tape: &Tape, z: TensorId, images: usize, first: usize) -> LossParams {
        let shape = tape.shape(z);
        let count = shape.dims()[0];
        let pixels = shape.len() / count;
        let splits = busy_invocations(tape).div_ceil(count).clamp(1, pixels.div_ceil(64));
        LossParams {
            images: images as u32,
            pixels: pixels as u32,
            pixels_per_split: pixels.div_ceil(splits) as u32,
            splits: splits as u32,
            image_first: first as u32,
            dice_weight: self.dice_weight,
        }
    }
}

fn kernel(entry: &'static str) -> Kernel {
    Kernel::new(SHADER, entry, Variant::new())
}

impl Op for BceDice {
    fn name(&self) -> &'static str {
        "bce_dice"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        let [z, t] = inputs else { return Err("takes logits and target".into()) };
        if z != t || z.as_nhwc()[3] != 1 {
            return Err(format!("logits {z} and target {t} must be alike, with one channel"));
        }
        Ok(vec![Shape::new([1]), Shape::new([z.dims()[0], SUMS])])
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        let ([z, t], [loss, sums]) = (inputs, outputs) else { unreachable!("two inputs, two outputs") };
        let count = tape.shape(*z).dims()[0];
        let whole = self.params(tape, *z, count, 0);
        let part = tape.transient("part", Shape::new([count, whole.splits as usize, SUMS]));
        for images in tape.image_slices(&[*z, *t]) {
            let params = self.params(tape, *z, images.len(), images.start);
            tape.dispatch(kernel("image_sums"))
                .images(*z, &images)
                .images(*t, &images)
                .tensor(part)
                .params(&params)
                .invocations(images.len() * params.splits as usize);
        }
        let finish = tape.dispatch(kernel("finish_images")).tensor(part).tensor(*sums);
        finish.params(&whole).invocations(count);
        tape.dispatch(kernel("total_loss")).tensor(*sums).tensor(*loss).params(&whole).groups(1);
        Vec::new()
    }

    fn backward(
        &self,
        tape: &mut Tape,
        node: &Node,
        dy: &[Option<TensorId>],
        needs: &[bool],
    ) -> Vec<Option<TensorId>> {
        assert!(!needs[1], "no gradient flows to the target");
        let (z, t, sums) = (node.inputs[0], node.inputs[1], node.outputs[1]);
        let dloss = dy[0].expect("the loss has a gradient");
        let dz = tape.activation("dz", tape.shape(z).clone());
        let slices = tape.image_slices(&[z, t, dz]);
        assert_eq!(slices.len(), 1, "the sums of all images are read together: logits must fit one binding");
        let params = self.params(tape, z, slices[0].len(), 0);
        tape.dispatch(kernel("backward"))
            .tensor(z)
            .tensor(t)
            .tensor(sums)
            .tensor(dloss)
            .tensor(dz)
            .params(&params)
            .invocations(params.images as usize * params.pixels as usize);
        vec![Some(dz), None]
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (z, t) = (&inputs[0], &inputs[1]);
        let count = z.shape.dims()[0];
        let pixels = z.shape.len() / count;
        let mut sums = Array::zeros(Shape::new([count, SUMS]));
        for (at, (z, t)) in z.data.iter().zip(&t.data).enumerate().filter(|(_, (_, t))| **t >= 0.0) {
            let p = 1.0 / (1.0 + (-z).exp());
            let bce = (z.max(0.0) - z * t + (-z.abs()).exp().ln_1p()).min(100.0);
            let hit = f64::from(u8::from(*z > 0.0));
            let counts = [bce, p * t, p, *t, hit * t, hit * (1.0 - t), (1.0 - hit) * t, 1.0];
            let row = &mut sums.data[at / pixels * SUMS..][..SUMS];
            row.iter_mut().zip(counts).for_each(|(sum, value)| *sum += value);
        }
        let rows = || sums.data.chunks_exact(SUMS);
        let total: f64 = rows().map(|row| row[7]).sum::<f64>().max(1.0);
        let bce = rows().map(|row| row[0]).sum::<f64>() / total;
        let dice = |row: &[f64]| (2.0 * row[1] + SMOOTH) / (row[2] + row[3] + SMOOTH);
        let dice = rows().map(dice).sum::<f64>() / count as f64;
        let a = f64::from(self.dice_weight);
        vec![Array::new(Shape::new([1]), vec![(1.0 - a) * bce + a * (1.0 - dice)]), sums]
    }
}

/// Shapes worth testing and timing: with ignored pixels, an image without a positive, logits far out.
pub fn cases() -> Vec<Case> {
    let case = |label: &str, shape: [usize; 4], logits: Fill, target: Fill, dice_weight: f32| {
        let inputs = vec![
            CaseInput::activation(Shape::new(shape)).filled(logits),
            CaseInput::constant(Shape::new(shape), Store::Inputs, target),
        ];
        Case::new(format!("{label} {shape:?}"), BceDice { dice_weight }, inputs)
    };
    let usual = Fill::Normal(0.0, 2.0);
    vec![
        case("one pixel", [1, 1, 1, 1], usual, Fill::Constant(1.0), 0.5),
        case("some ignored", [3, 9, 7, 1], usual, Fill::Target(true), 0.5),
        case("no positive", [2, 4, 4, 1], usual, Fill::Constant(0.0), 0.5),
        case("cross-entropy alone", [2, 5, 5, 1], usual, Fill::Target(false), 0.0),
        case("Dice alone", [2, 5, 5, 1], usual, Fill::Target(false), 1.0),
        case("far out", [2, 8, 8, 1], Fill::Normal(0.0, 30.0), Fill::Target(false), 0.5),
        case("many splits", [2, 40, 40, 1], usual, Fill::Target(true), 0.5),
    ]
}
