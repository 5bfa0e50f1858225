//! Batch normalisation, ReLU and the 2x2 max pooling that follows them, in one pass over `x` (`torch.nn.BatchNorm2d`,
//! `ReLU`, `MaxPool2d(2)`): the end of an encoder's block.
//!
//! Inputs as [`BatchNorm`] has them: `x` `[N, H, W, C]`, H and W even, C a multiple of 4; gamma, beta, running mean, running
//! variance `[C]` each. Outputs: y `[N, H, W, C]`, where it is read at all, then pooled `[N, H/2, W/2, C]`. Saved: the norm's
//! statistics [4, C]. The gradients of both outputs are brought together where they are read: pooled's goes to the first
//! of equal values in reading order, found again from `x`.

use super::batch_norm::{BatchNorm, Cut, NormParams};
use super::common::{four_or_eight, stored_alike, u};
use super::max_pool2d::MaxPool2d;
use crate::gpu::ShaderSource;
use crate::tape::{
    Array, Case, CaseInput, Fill, Node, Normalisation, Op, Read, Shape, Store, Tape, TensorId,
};

const SHADER: [ShaderSource; 2] = four_or_eight!("batch_norm_pool");
/// Squares of four pixels that an invocation takes where it writes an activation.
const SQUARES: usize = 2;

/// The normalisation and the pooling.
#[derive(Debug, Clone)]
pub struct BatchNormPool {
    /// Statistics of the batch, or the running ones.
    pub training: bool,
    /// What is not pooled is read too, and is the first output; else there is but the pooled one.
    pub whole: bool,
}

/// Squares of four pixels that are worth a split of a sum.
fn least_squares(tape: &Tape) -> usize {
    if tape.limits().software { 32 } else { 8 }
}

impl BatchNormPool {
    fn norm(&self) -> BatchNorm {
        BatchNorm::new(self.training, true)
    }

    /// The parameters for a slice of the pooled images that `cut` cuts: all counts but the last are of squares.
    fn params(&self, tape: &Tape, cut: &Cut, place: usize, pooled: TensorId) -> NormParams {
        let plain = self.norm().params(tape, cut, place);
        let width = tape.shape(pooled).as_nhwc()[2] as u32;
        NormParams { width, total_pixels: 4 * plain.total_pixels, ..plain }
    }

    /// `[splits, 2, C]`: sum of dz, sum of dz * xhat, of each split.
    fn gradient_sums(&self, tape: &mut Tape, node: &Node, gradients: &Gradients) -> TensorId {
        let x = tape.value(node.inputs[0]);
        let [dy, dpooled] = gradients.bound();
        let cut = Cut::with_least(tape, &[dpooled, x, dy], least_squares(tape));
        let part = tape.transient("part", Shape::new([cut.slices.len() * cut.splits, 2, cut.channels]));
        for (place, images) in cut.slices.iter().enumerate() {
            let params = self.params(tape, &cut, place, dpooled);
            let variant = stored_alike(tape, &[x, dy, dpooled]).with("WHOLE", gradients.whole.is_some());
            tape.dispatch(cut.kernel(SHADER, "gradient_sums", variant))
                .images(x, images)
                .images(dy, images)
                .images(dpooled, images)
                .tensor(part)
                .tensor(node.saved[0])
                .params(&params)
                .invocations(cut.splits * cut.groups);
        }
        part
    }

    fn input_gradient(
        &self,
        tape: &mut Tape,
        node: &Node,
        gradients: &Gradients,
        sums: TensorId,
    ) -> TensorId {
        let x = tape.value(node.inputs[0]);
        let [dy, dpooled] = gradients.bound();
        let dx = tape.activation("dx", tape.shape(x).clone());
        let cut = Cut::new(tape, &[dpooled, x, dy, dx]);
        for (place, images) in cut.slices.iter().enumerate() {
            let params = self.params(tape, &cut, place, dpooled);
            let variant = stored_alike(tape, &[x, dy, dpooled, dx])
                .with("PIXELS", u(SQUARES))
                .with("WHOLE", gradients.whole.is_some());
            tape.dispatch(cut.kernel(SHADER, "input_gradient", variant))
                .images(x, images)
                .images(dy, images)
                .images(dpooled, images)
                .tensor(node.saved[0])
                .tensor(sums)
                .images(dx, images)
                .params(&params)
                .invocations((params.pixels as usize).div_ceil(SQUARES) * cut.groups);
        }
        dx
    }
}

/// The gradients that come back.
struct Gradients {
    /// Of y, where it has one.
    whole: Option<TensorId>,
    /// Of what was pooled.
    pooled: TensorId,
}

impl Gradients {
    /// What the kernels bind as dy and dpooled. Without a dy something must be bound in its place, which nothing reads.
    fn bound(&self) -> [TensorId; 2] {
        [self.whole.unwrap_or(self.pooled), self.pooled]
    }
}

impl Op for BatchNormPool {
    fn name(&self) -> &'static str {
        "batch_norm_pool"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        let mut outputs = self.norm().infer(inputs)?;
        outputs.extend(MaxPool2d.infer(&[inputs[0]])?);
        Ok(outputs.split_off(usize::from(!self.whole)))
    }

    fn mutates(&self) -> &'static [usize] {
        if self.training { &[3, 4] } else { &[] }
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        let (x, pooled) = (inputs[0], outputs[outputs.len() - 1]);
        let stats = self.norm().stats(tape, inputs);
        let cut = Cut::new(tape, &[&[pooled, x], outputs].concat());
        let entry = if self.whole { "forward" } else { "forward_pooled" };
        for (place, images) in cut.slices.iter().enumerate() {
            let params = self.params(tape, &cut, place, pooled);
            let variant = stored_alike(tape, &[&[x], outputs].concat()).with("PIXELS", u(SQUARES));
            let kernel = cut.kernel(SHADER, entry, variant);
            let mut dispatch = tape.dispatch(kernel).images(x, images).tensor(stats);
            for output in outputs {
                dispatch = dispatch.images(*output, images);
            }
            dispatch.params(&params).invocations((params.pixels as usize).div_ceil(SQUARES) * cut.groups);
        }
        if self.whole && tape.defers() {
            let normalisation = Normalisation { coefficients: stats, relu: true };
            tape.note_origin(outputs[0], Read { tensor: x, normalisation: Some(normalisation) });
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
        let whole = if self.whole { dy[0] } else { None };
        let Some(pooled) = dy[dy.len() - 1] else {
            return self.norm().backward(tape, node, &[whole], needs);
        };
        let gradients = Gradients { whole, pooled };
        let part = self.gradient_sums(tape, node, &gradients);
        let sums = self.norm().affine_gradient(tape, node, part, needs);
        let dx = needs[0].then(|| self.input_gradient(tape, node, &gradients, sums));
        vec![dx, None, None, None, None]
    }

    /// What was pooled is small, and kept.
    fn recomputes(&self, output: usize) -> bool {
        self.whole && output == 0
    }

    fn recompute(&self, tape: &mut Tape, node: &Node, inputs: &[Read]) -> Vec<TensorId> {
        self.norm().recompute(tape, node, inputs)
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let mut y = self.norm().reference(inputs);
        let statistics = y.split_off(1);
        let pooled = MaxPool2d.reference(&y);
        if self.whole { [y, pooled, statistics].concat() } else { [pooled, statistics].concat() }
    }
}

/// Shapes worth testing and timing, with gradients of both outputs, of the first alone, and of the pooled one alone.
pub fn cases() -> Vec<Case> {
    let shapes = [[1, 2, 2, 4], [2, 6, 10, 4], [3, 4, 2, 20], [2, 16, 16, 8], [2, 6, 4, 24]];
    let mut cases = Vec::new();
    for training in [true, false] {
        for shape in shapes {
            cases.push(case(training, true, shape).with_gradients_of(2));
        }
        cases.push(case(training, true, shapes[1]));
        cases.push(case(training, false, shapes[1]));
        cases.push(case(training, false, shapes[2]));
        cases.push(case(training, false, shapes[4]));
    }
    cases
}

fn case(training: bool, whole: bool, shape: [usize; 4]) -> Case {
    let channels = Shape::new([shape[3]]);
    let inputs = vec![
        CaseInput::activation(Shape::new(shape)).filled(Fill::Normal(0.5, 2.0)),
        CaseInput::weight(channels.clone(), 1.0),
        CaseInput::weight(channels.clone(), 1.0),
        CaseInput::constant(channels.clone(), Store::State, Fill::Normal(0.0, 1.0)),
        CaseInput::constant(channels, Store::State, Fill::Uniform(0.5, 2.0)),
    ];
    let mode = if training { "training" } else { "evaluation" };
    let what = if whole { "both" } else { "pooled alone" };
    Case::new(format!("{mode} {shape:?}, {what}"), BatchNormPool { training, whole }, inputs)
}
