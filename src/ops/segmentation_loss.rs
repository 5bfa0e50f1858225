//! The losses for masks of one class, from logits, and the counts that the metrics are made of.
//!
//! `loss = (1 - a) * mean over pixels of E + a * (1 - mean over images of I)`, p = sigmoid(z). E is cross-entropy, where
//! `pos_weight` multiplies it on rosettes (`torch.nn.BCEWithLogitsLoss`), or the focal loss
//! `-c (1 - p_t)^gamma log p_t`, c = alpha on rosettes and 1 - alpha elsewhere (Lin et al. 2017, equation 5). I is Dice,
//! `(2 sum(p t) + 1e-6) / (sum(p) + sum(t) + 1e-6)` (Milletari et al. 2016), or Tversky's index
//! `(sum(p t) + 1e-6) / (sum(p t) + alpha sum(p (1 - t)) + beta sum((1 - p) t) + 1e-6)` (Salehi et al. 2017).
//! Pixels whose target is below 0 are ignored everywhere.
//!
//! Inputs: logits and target `[N, H, W, 1]`. Outputs: the loss `[1]` and, for each image, sums `[N, 8]`: E, p t, p, t, true
//! positives, false positives, false negatives (at p > 0.5), pixels.

use super::common::{SumLanes, busy_invocations, least_splits};
use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::params;
use crate::tape::{Array, Case, CaseInput, Fill, Node, Op, Shape, Store, Tape, TensorId};

const SHADER: ShaderSource =
    ShaderSource { name: "segmentation_loss", text: include_str!("../../shaders/segmentation_loss.wgsl") };
/// Numbers an image in the sums.
pub const SUMS: usize = 8;
const SMOOTH: f64 = 1e-6;

params! {
    struct LossParams {
        images: u32, pixels: u32, pixels_per_split: u32, splits: u32, image_first: u32, region_weight: f32,
        hits: f32, below_hits: f32, below_found: f32, below_true: f32, pos_weight: f32, gamma: f32, alpha: f32,
    }
}

/// The part of the loss that is a mean over pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PixelLoss {
    /// Binary cross-entropy.
    CrossEntropy {
        /// Its factor on rosettes.
        pos_weight: f32,
    },
    /// The focal loss.
    Focal {
        /// The exponent: how much pixels that are right already count less.
        gamma: f32,
        /// Its factor on rosettes; 1 minus that elsewhere.
        alpha: f32,
    },
}

/// The part of the loss that is a mean over images: one minus an index of overlap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RegionLoss {
    /// Dice.
    Dice,
    /// Tversky's index.
    Tversky {
        /// The weight of false positives.
        alpha: f32,
        /// The weight of false negatives.
        beta: f32,
    },
}

/// The loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SegmentationLoss {
    /// E.
    pub pixel: PixelLoss,
    /// I.
    pub region: RegionLoss,
    /// a, the share of I, 0 to 1.
    pub region_weight: f32,
}

impl SegmentationLoss {
    /// Cross-entropy and Dice, of which Dice has the share `dice_weight`.
    pub fn bce_dice(dice_weight: f32) -> Self {
        let pixel = PixelLoss::CrossEntropy { pos_weight: 1.0 };
        Self { pixel, region: RegionLoss::Dice, region_weight: dice_weight }
    }

    /// n, u, v and w of the index `(n sum(p t) + s) / (u sum(p t) + v sum(p) + w sum(t) + s)`.
    fn index(&self) -> [f32; 4] {
        match self.region {
            RegionLoss::Dice => [2.0, 0.0, 1.0, 1.0],
            RegionLoss::Tversky { alpha, beta } => [1.0, 1.0 - alpha - beta, alpha, beta],
        }
    }

    /// The loss of images of which these are the sums.
    pub fn of_sums(&self, sums: &[[f64; SUMS]]) -> f64 {
        let pixels = sums.iter().map(|row| row[7]).sum::<f64>().max(1.0);
        let element = sums.iter().map(|row| row[0]).sum::<f64>() / pixels;
        let [n, u, v, w] = self.index().map(f64::from);
        let index =
            |row: &[f64; SUMS]| (n * row[1] + SMOOTH) / (u * row[1] + v * row[2] + w * row[3] + SMOOTH);
        let index = sums.iter().map(index).sum::<f64>() / sums.len().max(1) as f64;
        let a = f64::from(self.region_weight);
        (1.0 - a) * element + a * (1.0 - index)
    }

    fn params(&self, tape: &Tape, z: TensorId, images: usize, first: usize) -> LossParams {
        let shape = tape.shape(z);
        let count = shape.dims()[0];
        let pixels = shape.len() / count;
        let wanted = busy_invocations(tape).div_ceil(count).max(least_splits(tape, pixels));
        let splits = wanted.clamp(1, pixels.div_ceil(64));
        let [hits, below_hits, below_found, below_true] = self.index();
        let (pos_weight, gamma, alpha) = match self.pixel {
            PixelLoss::CrossEntropy { pos_weight } => (pos_weight, 0.0, 0.0),
            PixelLoss::Focal { gamma, alpha } => (1.0, gamma, alpha),
        };
        LossParams {
            images: images as u32,
            pixels: pixels as u32,
            pixels_per_split: pixels.div_ceil(splits) as u32,
            splits: splits as u32,
            image_first: first as u32,
            region_weight: self.region_weight,
            hits,
            below_hits,
            below_found,
            below_true,
            pos_weight,
            gamma,
            alpha,
        }
    }

    /// The kernels that know E: its sums, and the gradient.
    fn entries(&self) -> [&'static str; 2] {
        match self.pixel {
            PixelLoss::CrossEntropy { .. } => ["cross_entropy_sums", "cross_entropy_backward"],
            PixelLoss::Focal { .. } => ["focal_sums", "focal_backward"],
        }
    }

    /// E of a pixel.
    fn pixel_loss(&self, z: f64, t: f64) -> f64 {
        let surprise = |z: f64| (-z).max(0.0) + (-z.abs()).exp().ln_1p();
        match self.pixel {
            PixelLoss::CrossEntropy { pos_weight } => {
                let bce = (z.max(0.0) - z * t + (-z.abs()).exp().ln_1p()).min(100.0);
                bce * (1.0 + (f64::from(pos_weight) - 1.0) * t)
            }
            PixelLoss::Focal { gamma, alpha } => {
                let alpha = f64::from(alpha);
                let (z, c) = if t > 0.5 { (z, alpha) } else { (-z, 1.0 - alpha) };
                c * (1.0 / (1.0 + z.exp())).powf(f64::from(gamma)) * surprise(z)
            }
        }
    }
}

fn kernel(entry: &'static str) -> Kernel {
    Kernel::new(SHADER, entry, Variant::new())
}

impl Op for SegmentationLoss {
    fn name(&self) -> &'static str {
        "segmentation_loss"
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
            tape.dispatch(kernel(self.entries()[0]))
                .images(*z, &images)
                .images(*t, &images)
                .tensor(part)
                .params(&params)
                .invocations(images.len() * params.splits as usize);
        }
        let lanes = SumLanes::new(tape, count, whole.splits as usize);
        let finish = Kernel::new(SHADER, "finish_images", lanes.variant(Variant::new()));
        let finish = tape.dispatch(finish).tensor(part).tensor(*sums);
        finish.params(&whole).groups(lanes.groups(count));
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
        tape.dispatch(kernel(self.entries()[1]))
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
        let mut sums = vec![[0.0; SUMS]; count];
        for (at, (z, t)) in z.data.iter().zip(&t.data).enumerate().filter(|(_, (_, t))| **t >= 0.0) {
            let p = 1.0 / (1.0 + (-z).exp());
            let hit = f64::from(u8::from(*z > 0.0));
            let counts = [hit * t, hit * (1.0 - t), (1.0 - hit) * t, 1.0];
            let values = [self.pixel_loss(*z, *t), p * t, p, *t].into_iter().chain(counts);
            sums[at / pixels].iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        let loss = Array::new(Shape::new([1]), vec![self.of_sums(&sums)]);
        vec![loss, Array::new(Shape::new([count, SUMS]), sums.concat())]
    }
}

/// Shapes worth testing and timing: with ignored pixels, an image without a positive, logits far out.
pub fn cases() -> Vec<Case> {
    let case = |label: &str, shape: [usize; 4], logits: Fill, target: Fill, loss: SegmentationLoss| {
        let inputs = vec![
            CaseInput::activation(Shape::new(shape)).filled(logits),
            CaseInput::constant(Shape::new(shape), Store::Inputs, target),
        ];
        Case::new(format!("{label} {shape:?}"), loss, inputs)
    };
    let both = SegmentationLoss::bce_dice;
    let weighted = SegmentationLoss { pixel: PixelLoss::CrossEntropy { pos_weight: 3.5 }, ..both(0.25) };
    let focal =
        |gamma: f32, alpha: f32| SegmentationLoss { pixel: PixelLoss::Focal { gamma, alpha }, ..both(0.0) };
    let tversky =
        |alpha: f32, beta: f32| SegmentationLoss { region: RegionLoss::Tversky { alpha, beta }, ..both(1.0) };
    let (usual, target) = (Fill::Normal(0.0, 2.0), Fill::Target(true));
    let (far, all) = (Fill::Normal(0.0, 30.0), Fill::Target(false));
    vec![
        case("one pixel", [1, 1, 1, 1], usual, Fill::Constant(1.0), both(0.5)),
        case("some ignored", [3, 9, 7, 1], usual, target, both(0.5)),
        case("no positive", [2, 4, 4, 1], usual, Fill::Constant(0.0), both(0.5)),
        case("cross-entropy alone", [2, 5, 5, 1], usual, all, both(0.0)),
        case("Dice alone", [2, 5, 5, 1], usual, all, both(1.0)),
        case("far out", [2, 8, 8, 1], far, all, both(0.5)),
        case("many splits", [2, 40, 40, 1], usual, target, both(0.5)),
        case("rosettes weigh more", [3, 9, 7, 1], usual, target, weighted),
        case("rosettes weigh more, far out", [2, 8, 8, 1], far, all, weighted),
        case("focal", [3, 9, 7, 1], usual, target, focal(2.0, 0.25)),
        case("focal, a fraction", [2, 5, 5, 1], usual, target, focal(0.5, 0.7)),
        case("focal, far out", [2, 8, 8, 1], far, all, focal(2.0, 0.25)),
        case("focal, many splits", [2, 40, 40, 1], usual, target, focal(5.0, 0.9)),
        case("focal that is cross-entropy", [2, 5, 5, 1], usual, all, focal(0.0, 0.5)),
        case("Tversky", [3, 9, 7, 1], usual, target, tversky(0.3, 0.7)),
        case("Tversky, false negatives alone", [2, 8, 8, 1], far, all, tversky(0.0, 1.0)),
        case("Tversky, no positive", [2, 4, 4, 1], usual, Fill::Constant(0.0), tversky(0.7, 0.3)),
    ]
}
