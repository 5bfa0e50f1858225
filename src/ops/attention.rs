//! The attention gate's signal (Oktay et al. 2018, equation 1) with the batch norms in it:
//! `p[n,h,w] = bias + sum over c of weight[c] * relu(norm_a(a) + norm_b(b))[n,h,w,c]`. What is normalised, added and passed
//! through the ReLU is never stored: forward reads `a` and `b` for their statistics and once more, backward twice.
//!
//! Inputs: `a`, `b` `[N, H, W, C]`, C a multiple of 4; gamma, beta, running mean, running variance `[C]` of the norm of `a`;
//! the same of that of `b`; weight `[C]`, bias `[1]`. The running statistics change in training. Output `[N, H, W, 1]`.
//! Saved [8, C]: what of statistics and parameters a pixel needs (`Channel` in `shaders/shared/attention.wgsl`).

use std::ops::Range;

use super::activation::{Add, Relu};
use super::batch_norm::BatchNorm;
use super::common::{bias_gradient, pixel_lanes, pixel_splits, pixels_each, split_sums, stored_alike, u};
use super::project::Project;
use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::params;
use crate::tape::{Array, Case, CaseInput, Fill, Node, Op, Shape, Store, Tape, TensorId};

const SHADER: ShaderSource =
    ShaderSource { name: "attention", text: include_str!("../../shaders/attention.wgsl") };
const GRADIENT: ShaderSource =
    ShaderSource { name: "attention_gradient", text: include_str!("../../shaders/attention_gradient.wgsl") };
/// Rows of the sums that the backward pass takes over pixels.
const SUMS: usize = 4;

params! {
    struct AttentionParams {
        pixels: u32, groups: u32, pixels_per_split: u32, splits: u32, split_first: u32, total_pixels: u32,
        training: u32, accumulate: u32,
    }
}

/// The signal.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Statistics of the batch, or the running ones.
    pub training: bool,
    /// A batch norm of the output follows: the bias's gradient is zero, and nothing is summed for it.
    pub centred: bool,
    /// Invocations that share a pixel, a power of two up to 64; by the device where `None`.
    pub lanes: Option<usize>,
}

impl Attention {
    /// A signal that no batch norm follows.
    pub fn new(training: bool) -> Self {
        Self { training, centred: false, lanes: None }
    }

    /// The same, followed by a batch norm.
    pub fn centred(self) -> Self {
        Self { centred: true, ..self }
    }

    fn params(&self, tape: &Tape, a: TensorId, images: &Range<usize>) -> AttentionParams {
        let [n, h, w, c] = tape.shape(a).as_nhwc();
        AttentionParams {
            pixels: (images.len() * h * w) as u32,
            groups: (c / 4) as u32,
            total_pixels: (n * h * w) as u32,
            training: u32::from(self.training),
            accumulate: tape.accumulate(),
            ..bytemuck::Zeroable::zeroed()
        }
    }

    /// `[8, C]`, from the statistics of both inputs.
    fn table(&self, tape: &mut Tape, inputs: &[TensorId]) -> TensorId {
        let norm = BatchNorm::new(self.training, false);
        let [stats_a, stats_b] = norms(inputs).map(|inputs| norm.stats(tape, &inputs));
        let channels = tape.shape(inputs[10]).len();
        let table = tape.transient("table", Shape::new([8, channels]));
        let params = self.params(tape, inputs[0], &(0..0));
        tape.dispatch(Kernel::new(SHADER, "tabulate", Variant::new()))
            .tensor(stats_a)
            .tensor(stats_b)
            .tensor(inputs[10])
            .tensor(table)
            .params(&params)
            .invocations(channels / 4);
        table
    }

    /// `[4, C]`: sums over the pixels (see the shader).
    fn sums(&self, tape: &mut Tape, [a, b, dp, table]: [TensorId; 4]) -> TensorId {
        let [_, h, w, c] = tape.shape(a).as_nhwc();
        let slices = tape.image_slices(&[a, b, dp]);
        let splits = pixel_splits(tape, slices[0].len() * h * w, c / 4, 32, slices.len() * SUMS * c);
        let part = tape.transient("part", Shape::new([slices.len() * splits, SUMS, c]));
        for (place, images) in slices.iter().enumerate() {
            let plain = self.params(tape, a, images);
            let params = AttentionParams {
                pixels_per_split: plain.pixels.div_ceil(splits as u32),
                splits: splits as u32,
                split_first: (place * splits) as u32,
                ..plain
            };
            tape.dispatch(Kernel::new(GRADIENT, "gradient_sums", stored_alike(tape, &[a, b])))
                .images(a, images)
                .images(b, images)
                .images(dp, images)
                .tensor(table)
                .tensor(part)
                .params(&params)
                .flops(params.pixels as usize * c * 13)
                .invocations(splits * c / 4);
        }
        split_sums(tape, part)
    }

    /// Gradients of both norms' gamma and beta, and of the weight.
    fn weight_gradients(&self, tape: &mut Tape, node: &Node, sums: TensorId) {
        let params = self.params(tape, node.inputs[0], &(0..0));
        let targets = [2, 3, 6, 7, 10].map(|place| tape.weight_gradient(node.inputs[place]));
        let kernel = Kernel::new(GRADIENT, "weight_gradients", Variant::new());
        let mut dispatch = tape.dispatch(kernel).tensor(node.saved[0]).tensor(sums);
        for target in targets {
            dispatch = dispatch.tensor(target);
        }
        dispatch.params(&params).invocations(params.groups as usize);
    }

    fn input_gradients(
        &self,
        tape: &mut Tape,
        [a, b, dp, table]: [TensorId; 4],
        sums: TensorId,
    ) -> [TensorId; 2] {
        let [da, db] = ["da", "db"].map(|name| tape.activation(name, tape.shape(a).clone()));
        let [n, h, w, c] = tape.shape(a).as_nhwc();
        let pixels_each = pixels_each(tape, n * h * w, c / 4);
        let variant = stored_alike(tape, &[a, b, da, db]).with("PIXELS", u(pixels_each));
        let kernel = Kernel::new(GRADIENT, "input_gradient", variant);
        for images in tape.image_slices(&[a, b, dp, da, db]) {
            let params = self.params(tape, a, &images);
            tape.dispatch(kernel.clone())
                .images(a, &images)
                .images(b, &images)
                .images(dp, &images)
                .tensor(table)
                .tensor(sums)
                .images(da, &images)
                .images(db, &images)
                .params(&params)
                .invocations((params.pixels as usize).div_ceil(pixels_each) * params.groups as usize);
        }
        [da, db]
    }
}

/// The inputs of the norms of `a` and `b`.
fn norms<T: Clone>(inputs: &[T]) -> [Vec<T>; 2] {
    [0, 1].map(|side| [&inputs[side..=side], &inputs[2 + 4 * side..6 + 4 * side]].concat())
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        let [a, b, vectors @ .., bias] = inputs else { return Err("takes 12 inputs".into()) };
        let [n, h, w, c] = a.as_nhwc();
        if a != b
            || vectors.len() != 9
            || vectors.iter().any(|v| v.len() != c)
            || bias.len() != 1
            || c % 4 != 0
        {
            return Err(format!("a {a} and b {b} need two norms and a weight [{c}], channels in fours"));
        }
        Ok(vec![Shape::nhwc(n, h, w, 1)])
    }

    fn mutates(&self) -> &'static [usize] {
        if self.training { &[4, 5, 8, 9] } else { &[] }
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        let (a, b, p) = (inputs[0], inputs[1], outputs[0]);
        let table = self.table(tape, inputs);
        let groups = tape.shape(inputs[10]).len() / 4;
        let lanes = self.lanes.unwrap_or_else(|| pixel_lanes(tape, groups));
        let [n, h, w, _] = tape.shape(a).as_nhwc();
        let pixels_each = pixels_each(tape, n * h * w, lanes);
        let variant = stored_alike(tape, &[a, b]).with("LANES", u(lanes)).with("PIXELS", u(pixels_each));
        for images in tape.image_slices(&[a, b, p]) {
            let params = self.params(tape, a, &images);
            tape.dispatch(Kernel::new(SHADER, "forward", variant.clone()))
                .images(a, &images)
                .images(b, &images)
                .tensor(table)
                .tensor(inputs[11])
                .images(p, &images)
                .params(&params)
                .flops(params.pixels as usize * groups * 4 * 8)
                .groups((params.pixels as usize).div_ceil(64 / lanes * pixels_each));
        }
        vec![table]
    }

    fn backward(
        &self,
        tape: &mut Tape,
        node: &Node,
        dy: &[Option<TensorId>],
        needs: &[bool],
    ) -> Vec<Option<TensorId>> {
        let [a, b] = [0, 1].map(|place| tape.value(node.inputs[place]));
        let dp = dy[0].expect("one output");
        let read = [a, b, dp, node.saved[0]];
        let sums = self.sums(tape, read);
        if needs[2..11].iter().any(|needed| *needed) {
            self.weight_gradients(tape, node, sums);
        }
        if needs[11] && !self.centred {
            bias_gradient(tape, dp, node.inputs[11]);
        }
        let mut gradients = vec![None; node.inputs.len()];
        if needs[0] || needs[1] {
            let inputs = self.input_gradients(tape, read, sums);
            (0..2).for_each(|place| gradients[place] = needs[place].then_some(inputs[place]));
        }
        gradients
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let norm = BatchNorm::new(self.training, false);
        let [mut a, mut b] = norms(inputs).map(|inputs| norm.reference(&inputs));
        let sum = Add.reference(&[a.remove(0), b.remove(0)]).remove(0);
        let passed = Relu.reference(&[sum]).remove(0);
        let p = Project.reference(&[passed, inputs[10].clone(), inputs[11].clone()]);
        [p, a, b].concat()
    }
}

/// Shapes worth testing and timing; one with means a thousand deviations away, where naive sums cancel.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let usual = Fill::Normal(0.5, 2.0);
    for training in [true, false] {
        // A pixel to an invocation, shared in parts that come out even, and in such that do not.
        for (shape, lanes) in [
            ([1, 2, 2, 4], 1),
            ([2, 3, 5, 8], 1),
            ([3, 4, 7, 12], 2),
            ([2, 9, 16, 32], 8),
            ([1, 3, 5, 20], 4),
        ] {
            cases.push(case(training, Some(lanes), Shape::new(shape), usual));
        }
        cases.push(case(training, None, Shape::new([2, 16, 16, 16]), usual));
    }
    let mut offset = case(true, None, Shape::new([2, 8, 8, 4]), Fill::Normal(1000.0, 1.0));
    // a and b themselves are only good to 6e-5 there, and in f16 to 0.5.
    offset.tolerance = 5e-4;
    offset.label += " far from zero";
    cases.push(offset);
    cases
}

fn case(training: bool, lanes: Option<usize>, shape: Shape, fill: Fill) -> Case {
    let channels = Shape::new([shape.as_nhwc()[3]]);
    let mut inputs = vec![CaseInput::activation(shape.clone()).filled(fill); 2];
    for _ in 0..2 {
        inputs.extend([
            CaseInput::weight(channels.clone(), 1.0),
            CaseInput::weight(channels.clone(), 1.0),
            CaseInput::constant(channels.clone(), Store::State, Fill::Normal(0.0, 1.0)),
            CaseInput::constant(channels.clone(), Store::State, Fill::Uniform(0.5, 2.0)),
        ]);
    }
    inputs.push(CaseInput::weight(channels, 0.5));
    inputs.push(CaseInput::weight(Shape::new([1]), 1.0));
    let mode = if training { "training" } else { "evaluation" };
    let lanes_word = lanes.map_or("by the device".to_owned(), |lanes| lanes.to_string());
    Case::new(
        format!("{mode} {shape}, lanes {lanes_word}"),
        Attention { lanes, ..Attention::new(training) },
        inputs,
    )
}
