//! Batch normalisation by channel, with the ReLU that follows it (`torch.nn.BatchNorm2d`, momentum 0.1, eps 1e-5;
//! Ioffe and Szegedy 2015).
//!
//! `y = relu?(gamma * (x - mean) / sqrt(var + eps) + beta)`. Training: mean and biased variance of the batch; the
//! running mean and (unbiased) variance move towards them. Evaluation: the running ones.
//!
//! Inputs: `x` `[N, H, W, C]`, gamma, beta, running mean, running variance `[C]` each; the last two change in training.
//! Saved [4, C]: mean, scale = gamma / sqrt(var + eps), beta, 1/sqrt(var + eps). What is normalised is computed again from
//! `x` in the backward pass; where the norm is `deferred` it is not even written, and readers that can make it of `x`.

use std::ops::Range;

use super::common::{
    SumLanes, by_eights, four_or_eight, group_kernel, indices, pixel_splits, split_sums, stored_alike, u,
    vector,
};
use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::params;
use crate::tape::{
    Array, Case, CaseInput, Fill, Moments, Node, Normalisation, Op, Read, Shape, Store, Tape, TensorId,
};

const SHADER: [ShaderSource; 2] = four_or_eight!("batch_norm");
const GRADIENT: [ShaderSource; 2] = four_or_eight!("batch_norm_gradient");
/// Pixels that an invocation takes where it writes an activation: they share the loads of their channel's numbers.
const PIXELS: usize = 8;
/// Added to the variance.
pub const EPS: f32 = 1e-5;
/// Share of the new batch in the running statistics.
pub const MOMENTUM: f32 = 0.1;

params! {
    pub(super) struct NormParams {
        pixels: u32, groups: u32, pixels_per_split: u32, splits: u32, split_first: u32, slices: u32,
        total_pixels: u32, training: u32, accumulate: u32, eps: f32, momentum: f32, width: u32,
    }
}

/// The normalisation.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    /// Statistics of the batch, or the running ones.
    pub training: bool,
    /// A ReLU follows.
    pub relu: bool,
    /// The readers are few and can normalise what they read: leave it to them, where the tape does.
    pub deferred: bool,
}

/// How an activation's pixels are cut: into slices that fit a binding, each into splits that are summed side by side.
pub(super) struct Cut {
    pub(super) slices: Vec<Range<usize>>,
    pub(super) splits: usize,
    pub(super) image_pixels: usize,
    /// An invocation has eight channels at once, else a [`vector`] of them.
    pub(super) by_eights: bool,
    /// Of what an invocation has at once.
    pub(super) groups: usize,
    pub(super) channels: usize,
}

impl Cut {
    pub(super) fn new(tape: &Tape, tensors: &[TensorId]) -> Self {
        /// Pixels that are worth a split.
        const LEAST: usize = 32;
        Self::with_least(tape, tensors, LEAST)
    }

    /// The same with splits of at least so many pixels, where there is more to read for each.
    pub(super) fn with_least(tape: &Tape, tensors: &[TensorId], least: usize) -> Self {
        let [_, h, w, channels] = tape.shape(tensors[0]).as_nhwc();
        let by_eights = by_eights(tape, tensors);
        let groups = channels / if by_eights { 8 } else { vector(channels).0 };
        let slices = tape.image_slices(tensors);
        let splits = pixel_splits(tape, slices[0].len() * h * w, groups, least, slices.len() * 2 * channels);
        Self { slices, splits, image_pixels: h * w, by_eights, groups, channels }
    }

    /// The kernel for invocations that have as many channels at once.
    pub(super) fn kernel(&self, source: [ShaderSource; 2], entry: &'static str, variant: Variant) -> Kernel {
        group_kernel(source, entry, self.by_eights, variant)
    }
}

impl BatchNorm {
    /// A normalisation that writes what it gives.
    pub fn new(training: bool, relu: bool) -> Self {
        Self { training, relu, deferred: false }
    }

    /// The same, leaving that to its readers.
    pub fn deferred(self) -> Self {
        Self { deferred: true, ..self }
    }

    fn variant(&self, channels: usize, stored: Variant) -> Variant {
        stored.with("V", vector(channels).1).with("RELU", self.relu).with("PIXELS", u(PIXELS))
    }

    /// For invocations that have a [`vector`] of channels at once.
    fn vector_kernel(
        &self,
        source: [ShaderSource; 2],
        entry: &'static str,
        channels: usize,
        stored: Variant,
    ) -> Kernel {
        Kernel::new(source[0], entry, self.variant(channels, stored))
    }

    /// For activations that are cut so.
    fn kernel(&self, cut: &Cut, source: [ShaderSource; 2], entry: &'static str, stored: Variant) -> Kernel {
        cut.kernel(source, entry, self.variant(cut.channels, stored))
    }

    pub(super) fn params(&self, tape: &Tape, cut: &Cut, place: usize) -> NormParams {
        let pixels = cut.slices[place].len() * cut.image_pixels;
        let images: usize = cut.slices.iter().map(Range::len).sum();
        NormParams {
            pixels: pixels as u32,
            groups: cut.groups as u32,
            // Every slice is cut alike, so that the merge knows each split's size.
            pixels_per_split: (cut.slices[0].len() * cut.image_pixels).div_ceil(cut.splits) as u32,
            splits: cut.splits as u32,
            split_first: (place * cut.splits) as u32,
            slices: cut.slices.len() as u32,
            total_pixels: (images * cut.image_pixels) as u32,
            training: u32::from(self.training),
            accumulate: tape.accumulate(),
            eps: EPS,
            momentum: MOMENTUM,
            width: 0,
        }
    }

    /// `[4, C]`: mean, scale, beta and 1/sqrt(var + eps); of the batch, which moves the running statistics, or of these.
    pub(super) fn stats(&self, tape: &mut Tape, inputs: &[TensorId]) -> TensorId {
        let cut = Cut::new(tape, &[inputs[0]]);
        let stats = tape.transient("stats", Shape::new([4, cut.channels]));
        if self.training {
            self.batch_stats(tape, inputs, stats);
            return stats;
        }
        let groups = cut.channels / vector(cut.channels).0;
        let params = NormParams { groups: groups as u32, ..self.params(tape, &cut, 0) };
        tape.dispatch(self.vector_kernel(SHADER, "running_stats", cut.channels, Variant::new()))
            .tensor(inputs[3])
            .tensor(inputs[4])
            .tensor(stats)
            .tensor(inputs[1])
            .tensor(inputs[2])
            .params(&params)
            .invocations(groups);
        stats
    }

    fn batch_stats(&self, tape: &mut Tape, inputs: &[TensorId], stats: TensorId) {
        let moments = tape.moments(inputs[0]).unwrap_or_else(|| self.gather(tape, inputs[0]));
        let [n, h, w, channels] = tape.shape(inputs[0]).as_nhwc();
        let groups = channels / vector(channels).0;
        let parts = tape.shape(moments.part).dims()[0];
        let params = NormParams {
            pixels: moments.slice_pixels as u32,
            groups: groups as u32,
            pixels_per_split: moments.split_pixels as u32,
            splits: moments.splits as u32,
            slices: (parts / moments.splits) as u32,
            total_pixels: (n * h * w) as u32,
            eps: EPS,
            momentum: MOMENTUM,
            ..bytemuck::Zeroable::zeroed()
        };
        // On a processor a barrier costs more than what few splits leave to do side by side.
        let lanes = match (tape.limits().software, parts) {
            (true, _) => 8,
            (false, ..2048) => 64,
            (false, _) => 256,
        };
        let variant = Variant::new().with("LANES", u(lanes));
        tape.dispatch(self.vector_kernel(SHADER, "finish_moments", channels, variant))
            .tensor(moments.part)
            .tensor(inputs[3])
            .tensor(inputs[4])
            .tensor(stats)
            .tensor(inputs[1])
            .tensor(inputs[2])
            .params(&params)
            .groups(groups);
    }

    /// The moments of `x` by splits, where who wrote it did not gather them.
    fn gather(&self, tape: &mut Tape, x: TensorId) -> Moments {
        let cut = Cut::new(tape, &[x]);
        let part = tape.transient("part", Shape::new([cut.slices.len() * cut.splits, 2, cut.channels]));
        for (place, images) in cut.slices.iter().enumerate() {
            let params = self.params(tape, &cut, place);
            let kernel = self.kernel(&cut, SHADER, "moments", stored_alike(tape, &[x]));
            let dispatch = tape.dispatch(kernel).images(x, images).tensor(part).params(&params);
            dispatch.invocations(cut.splits * cut.groups);
        }
        let slice_pixels = cut.slices[0].len() * cut.image_pixels;
        Moments { part, splits: cut.splits, slice_pixels, split_pixels: slice_pixels.div_ceil(cut.splits) }
    }

    fn normalise(&self, tape: &mut Tape, x: TensorId, stats: TensorId, y: TensorId) {
        let cut = Cut::new(tape, &[x, y]);
        for (place, images) in cut.slices.iter().enumerate() {
            let params = self.params(tape, &cut, place);
            let kernel = self.kernel(&cut, SHADER, "normalise", stored_alike(tape, &[x, y]));
            tape.dispatch(kernel)
                .images(x, images)
                .tensor(stats)
                .images(y, images)
                .params(&params)
                .invocations((images.len() * cut.image_pixels).div_ceil(PIXELS) * cut.groups);
        }
    }

    fn input_gradient(&self, tape: &mut Tape, node: &Node, dy: TensorId, sums: TensorId) -> TensorId {
        let x = tape.value(node.inputs[0]);
        let dx = tape.activation("dx", tape.shape(x).clone());
        let cut = Cut::new(tape, &[x, dy, dx]);
        for (place, images) in cut.slices.iter().enumerate() {
            let params = self.params(tape, &cut, place);
            let stored = stored_alike(tape, &[x, dy, dx]);
            tape.dispatch(self.kernel(&cut, GRADIENT, "input_gradient", stored))
                .images(x, images)
                .images(dy, images)
                .tensor(node.saved[0])
                .tensor(sums)
                .images(dx, images)
                .params(&params)
                .invocations((images.len() * cut.image_pixels).div_ceil(PIXELS) * cut.groups);
        }
        dx
    }

    /// `[splits, 2, C]`: sum of dz, sum of dz * xhat, of each split.
    fn gradient_sums(&self, tape: &mut Tape, node: &Node, dy: TensorId) -> TensorId {
        let x = tape.value(node.inputs[0]);
        let cut = Cut::new(tape, &[x, dy]);
        let part = tape.transient("part", Shape::new([cut.slices.len() * cut.splits, 2, cut.channels]));
        for (place, images) in cut.slices.iter().enumerate() {
            let params = self.params(tape, &cut, place);
            let stored = stored_alike(tape, &[x, dy]);
            tape.dispatch(self.kernel(&cut, GRADIENT, "gradient_sums", stored))
                .images(x, images)
                .images(dy, images)
                .tensor(part)
                .tensor(node.saved[0])
                .params(&params)
                .invocations(cut.splits * cut.groups);
        }
        part
    }

    /// `[2, C]`, the sums of all splits; where they are wanted they are the gradients of beta and gamma too.
    pub(super) fn affine_gradient(
        &self,
        tape: &mut Tape,
        node: &Node,
        part: TensorId,
        needs: &[bool],
    ) -> TensorId {
        if !needs[1] && !needs[2] {
            return split_sums(tape, part);
        }
        let (splits, channels) = (tape.shape(part).dims()[0], tape.shape(part).dims()[2]);
        let sums = tape.transient("sums", Shape::new([2, channels]));
        let (dgamma, dbeta) = (tape.weight_gradient(node.inputs[1]), tape.weight_gradient(node.inputs[2]));
        let groups = channels / vector(channels).0;
        let params = NormParams {
            groups: groups as u32,
            splits: splits as u32,
            accumulate: tape.accumulate(),
            ..bytemuck::Zeroable::zeroed()
        };
        let lanes = SumLanes::new(tape, 2 * groups, splits);
        tape.dispatch(self.vector_kernel(
            GRADIENT,
            "affine_gradient",
            channels,
            lanes.variant(Variant::new()),
        ))
        .tensor(part)
        .tensor(dgamma)
        .tensor(dbeta)
        .tensor(sums)
        .params(&params)
        .groups(lanes.groups(2 * groups));
        sums
    }
}

impl Op for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        let [x, rest @ ..] = inputs else { return Err("takes x, gamma, beta, mean, variance".into()) };
        let c = x.as_nhwc()[3];
        if rest.len() != 4 || rest.iter().any(|shape| shape.len() != c) || (c % 4 != 0 && c != 1) {
            return Err(format!(
                "x {x} needs gamma, beta, mean and variance [{c}], channels in fours or one"
            ));
        }
        Ok(vec![(*x).clone()])
    }

    fn mutates(&self) -> &'static [usize] {
        if self.training { &[3, 4] } else { &[] }
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        let (x, y) = (inputs[0], outputs[0]);
        let stats = self.stats(tape, inputs);
        let normalisation = Normalisation { coefficients: stats, relu: self.relu };
        match self.deferred && tape.defers() {
            true => tape.defer(y, Read { tensor: x, normalisation: Some(normalisation) }),
            false => self.normalise(tape, x, stats, y),
        }
        vec![stats]
    }

    fn backward(
        &self,
        tape: &mut Tape,
        node: &Node,
        dy: &[Option<TensorId>],
        needs: &[bool],
    ) -> Vec<Option<TensorId>> {
        let dy = dy[0].expect("one output");
        let part = self.gradient_sums(tape, node, dy);
        let sums = self.affine_gradient(tape, node, part, needs);
        let dx = needs[0].then(|| self.input_gradient(tape, node, dy, sums));
        vec![dx, None, None, None, None]
    }

    fn recomputes(&self, _: usize) -> bool {
        true
    }

    fn recompute(&self, tape: &mut Tape, node: &Node, inputs: &[Read]) -> Vec<TensorId> {
        let x = inputs[0].tensor;
        let y = tape.activation("batch_norm again", tape.shape(x).clone());
        self.normalise(tape, x, node.saved[0], y);
        vec![y]
    }

    fn write_deferred(&self, tape: &mut Tape, node: &Node) {
        self.normalise(tape, node.inputs[0], node.saved[0], node.outputs[0]);
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let [x, gamma, beta, running_mean, running_var] = inputs else { unreachable!("five inputs") };
        let [n, h, w, channels] = x.shape.as_nhwc();
        let count = (n * h * w) as f64;
        let (mut mean, mut var) = (running_mean.clone(), running_var.clone());
        let (mut new_mean, mut new_var) = (running_mean.clone(), running_var.clone());
        let momentum = f64::from(MOMENTUM);
        if self.training {
            for c in 0..channels {
                let values = || x.data.iter().skip(c).step_by(channels);
                mean.data[c] = values().sum::<f64>() / count;
                let squares: f64 = values().map(|v| (v - mean.data[c]).powi(2)).sum();
                var.data[c] = squares / count;
                new_mean.data[c] += momentum * (mean.data[c] - new_mean.data[c]);
                new_var.data[c] += momentum * (squares / (count - 1.0).max(1.0) - new_var.data[c]);
            }
        }
        let mut y = x.clone();
        for (place, (_, _, _, c)) in indices(n, h, w, channels).enumerate() {
            let xhat = (x.data[place] - mean.data[c]) / (var.data[c] + f64::from(EPS)).sqrt();
            let value = gamma.data[c] * xhat + beta.data[c];
            y.data[place] = if self.relu { value.max(0.0) } else { value };
        }
        if self.training { vec![y, new_mean, new_var] } else { vec![y] }
    }
}

/// Shapes worth testing and timing; one with a mean a thousand deviations away, where naive sums cancel.
pub fn cases() -> Vec<Case> {
    let shapes = [[1, 2, 2, 4], [2, 3, 5, 1], [3, 4, 7, 12], [2, 16, 16, 8], [2, 5, 6, 24]];
    let mut cases: Vec<Case> = Vec::new();
    for training in [true, false] {
        for relu in [false, true] {
            cases.extend(shapes.map(|shape| case(training, relu, Shape::new(shape), Fill::Normal(0.5, 2.0))));
        }
    }
    // Sums that a GPU shares among invocations, by splits that do not come out even.
    cases.push(case(true, true, Shape::new([2, 47, 48, 1]), Fill::Normal(0.5, 2.0)));
    cases.push(case(true, false, Shape::new([1, 41, 40, 8]), Fill::Normal(0.5, 2.0)));
    let mut offset = case(true, false, Shape::new([2, 8, 8, 4]), Fill::Normal(1000.0, 1.0)).forward_only();
    // x itself is only good to 6e-5 there.
    offset.tolerance = 2e-4;
    offset.label += " far from zero";
    cases.push(offset);
    cases
}

fn case(training: bool, relu: bool, shape: Shape, fill: Fill) -> Case {
    let channels = Shape::new([shape.as_nhwc()[3]]);
    let inputs = vec![
        CaseInput::activation(shape.clone()).filled(fill),
        CaseInput::weight(channels.clone(), 1.0),
        CaseInput::weight(channels.clone(), 1.0),
        CaseInput::constant(channels.clone(), Store::State, Fill::Normal(0.0, 1.0)),
        CaseInput::constant(channels, Store::State, Fill::Uniform(0.5, 2.0)),
    ];
    let mode = if training { "training" } else { "evaluation" };
    Case::new(
        format!("{mode}{} {shape}", if relu { " relu" } else { "" }),
        BatchNorm::new(training, relu),
        inputs,
    )
}
