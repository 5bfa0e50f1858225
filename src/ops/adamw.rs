//! AdamW, one step (`torch.optim.AdamW`; Loshchilov and Hutter 2019, with the bias corrections of Kingma and Ba 2015).
//!
//! Inputs: weights, gradients, first and second moments, `[len]` each, and the step's sizes `[4]` (see [`step_sizes`]).
//! No output: weights and moments change in place. No gradient flows through it.

use super::common::{four_or_eight, group_kernel};
use crate::gpu::{ShaderSource, Variant};
use crate::params;
use crate::tape::{Array, Case, CaseInput, Fill, Node, Op, Shape, Store, Tape, TensorId};

/// For four elements an invocation and for eight.
const SHADERS: [ShaderSource; 2] = four_or_eight!("adamw");
const EPS: f32 = 1e-8;
/// Decay of the first moment.
pub(super) const BETA1: f64 = 0.9;
/// Decay of the second moment.
pub(super) const BETA2: f64 = 0.999;

params! {
    struct AdamWParams { len: u32, decay: f32, beta1: f32, beta2: f32, rest1: f32, rest2: f32, eps: f32 }
}

/// The optimiser's step.
#[derive(Debug, Clone)]
pub struct AdamW {
    /// Weight decay, applied to every weight.
    pub weight_decay: f32,
}

/// What changes from step to step, as the shader takes it: learning rate, learning rate over the first bias
/// correction, one over the root of the second, and what gradients are multiplied by; nothing changes where that is 0.
/// `step` counts from 1.
pub fn step_sizes(learning_rate: f64, step: u64) -> [f32; 4] {
    let correction = |beta: f64| 1.0 - beta.powf(step as f64);
    let first = learning_rate / correction(BETA1);
    let second = 1.0 / correction(BETA2).sqrt();
    [learning_rate as f32, first as f32, second as f32, 1.0]
}

impl Op for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        let [w, g, m, v, sizes] = inputs else { return Err("takes w, g, m, v and the step's sizes".into()) };
        if [g, m, v].iter().any(|shape| **shape != *w) || w.len() % 4 != 0 || sizes.len() != 4 {
            return Err("weights, gradients and moments must be alike, in fours".into());
        }
        Ok(Vec::new())
    }

    fn mutates(&self) -> &'static [usize] {
        &[0, 2, 3]
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], _: &[TensorId]) -> Vec<TensorId> {
        let total = tape.shape(inputs[0]).bytes();
        let most = tape.limits().storage_binding_bytes / 256 * 256;
        for start in (0..total).step_by(most as usize) {
            let bytes = most.min(total - start);
            let params = AdamWParams {
                len: (bytes / 4) as u32,
                decay: self.weight_decay,
                beta1: BETA1 as f32,
                beta2: BETA2 as f32,
                // One minus beta before rounding, as PyTorch has it: 1e-5 apart from one minus the rounded beta.
                rest1: (1.0 - BETA1) as f32,
                rest2: (1.0 - BETA2) as f32,
                eps: EPS,
            };
            // A software adapter takes less time for one access of eight numbers than for two of four.
            let by_eights = tape.limits().software && bytes.is_multiple_of(32);
            let mut dispatch = tape.dispatch(group_kernel(SHADERS, "adamw", by_eights, Variant::new()));
            for (place, id) in inputs[..4].iter().enumerate() {
                // All but the gradients are brought up to date.
                dispatch = dispatch.range(*id, start, bytes).read_and_written(place != 1);
            }
            dispatch
                .tensor(inputs[4])
                .params(&params)
                .invocations(bytes as usize / if by_eights { 32 } else { 16 });
        }
        Vec::new()
    }

    fn backward(&self, _: &mut Tape, _: &Node, _: &[Option<TensorId>], _: &[bool]) -> Vec<Option<TensorId>> {
        unreachable!("an optimiser has no output")
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let [w, g, m, v, sizes] = inputs else { unreachable!("five inputs") };
        let (lr, first, second) = (sizes.data[0], sizes.data[1], sizes.data[2]);
        let (b1, b2) = (BETA1, BETA2);
        if sizes.data[3] == 0.0 {
            return vec![w.clone(), m.clone(), v.clone()];
        }
        let g = &g.map(|g| g * sizes.data[3]);
        let m = m.zip(g, |m, g| b1 * m + (1.0 - b1) * g);
        let v = v.zip(g, |v, g| b2 * v + (1.0 - b2) * g * g);
        let update = m.zip(&v, |m, v| first * m / (v.sqrt() * second + f64::from(EPS)));
        let w = w.zip(&update, |w, update| w * (1.0 - lr * f64::from(self.weight_decay)) - update);
        vec![w, m, v]
    }
}

/// Shapes worth testing and timing.
pub fn cases() -> Vec<Case> {
    let case = |len: usize, weight_decay: f32, sizes: &'static [f64]| {
        let constant = |store, fill| CaseInput::constant(Shape::new([len]), store, fill);
        let step = CaseInput::constant(Shape::new([4]), Store::Inputs, Fill::Listed(sizes));
        let inputs = vec![
            constant(Store::Weights, Fill::Normal(0.0, 1.0)),
            constant(Store::Gradients, Fill::Normal(0.0, 1.0)),
            constant(Store::Moment1, Fill::Normal(0.0, 1.0)),
            constant(Store::Moment2, Fill::Uniform(0.1, 1.0)),
            step,
        ];
        Case::new(
            format!("[{len}] decay {weight_decay} gradients times {}", sizes[3]),
            AdamW { weight_decay },
            inputs,
        )
    };
    vec![
        case(4, 0.0, &[0.001, 0.01, 1.5, 1.0]),
        case(4096 + 4, 0.01, &[0.003, 0.004, 3.0, 1.0]),
        case(4096 + 8, 0.01, &[0.003, 0.004, 3.0, 0.5]),
        case(260, 0.01, &[0.003, 0.004, 3.0, 0.125]),
        case(256, 0.01, &[0.003, 0.004, 3.0, 0.0]),
    ]
}
