//! Dynamic loss scaling for gradients that are stored as f16 (Micikevicius et al. 2018; `torch.amp.GradScaler`): the
//! scale halves where a gradient is no finite number, and that step is skipped; it doubles after 2000 good ones.
//!
//! Inputs: the flat gradients `[len]`, the step's learning rate and number `[4]`, the state (scale, good steps since it
//! changed, steps skipped, 0) `[4]` and the optimiser's step sizes `[4]` (see [`super::adamw`]). The last two change in
//! place. Output: a report `[4]`, the new state for the host. Everything is decided on the device, so that nothing waits.

use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::ops::adamw::{BETA1, BETA2, step_sizes};
use crate::ops::common::{SumLanes, busy_invocations};
use crate::params;
use crate::tape::{Array, Case, CaseInput, Fill, Node, Op, Shape, Store, Tape, TensorId};

const SHADER: ShaderSource =
    ShaderSource { name: "loss_scale", text: include_str!("../../shaders/loss_scale.wgsl") };
/// The scale of the first step, as PyTorch has it.
pub const FIRST: f32 = 65536.0;
/// Below this a gradient that overflows is no matter of scaling: the training diverged.
pub const LEAST: f32 = 1.0;
const MOST: f32 = (1 << 24) as f32;
const GROWTH_INTERVAL: f32 = 2000.0;

params! {
    struct LossScaleParams {
        len: u32, part_len: u32, first_part: u32, parts: u32, growth_interval: f32, least: f32, most: f32,
        log_beta1: f32, log_beta2: f32,
    }
}

/// The scaling.
#[derive(Debug, Clone)]
pub struct LossScale;

fn kernel(entry: &'static str) -> Kernel {
    Kernel::new(SHADER, entry, Variant::new())
}

impl Op for LossScale {
    fn name(&self) -> &'static str {
        "loss_scale"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        let [g, rest @ ..] = inputs else { return Err("takes gradients, step, state, sizes".into()) };
        if rest.len() != 3 || rest.iter().any(|shape| shape.len() != 4) || g.len() % 4 != 0 {
            return Err("gradients come in fours, step, state and sizes are [4]".into());
        }
        Ok(vec![Shape::new([4])])
    }

    fn mutates(&self) -> &'static [usize] {
        &[2, 3]
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        let [g, step, state, sizes] = inputs[..] else { unreachable!("four inputs") };
        let total = tape.shape(g).bytes();
        let most = tape.limits().storage_binding_bytes / 256 * 256;
        let ranges = total.div_ceil(most) as usize;
        let parts = busy_invocations(tape).min(total.min(most) as usize / 16);
        let part = tape.transient("overflows", Shape::new([ranges * parts]));
        let params = LossScaleParams {
            growth_interval: GROWTH_INTERVAL,
            least: LEAST,
            most: MOST,
            log_beta1: BETA1.ln() as f32,
            log_beta2: BETA2.ln() as f32,
            ..bytemuck::Zeroable::zeroed()
        };
        for range in 0..ranges {
            let start = range as u64 * most;
            let bytes = most.min(total - start);
            let len = (bytes / 16) as u32;
            let (parts, first_part) = (parts as u32, (range * parts) as u32);
            let params = LossScaleParams { len, part_len: len.div_ceil(parts), first_part, parts, ..params };
            let dispatch = tape.dispatch(kernel("scan")).range(g, start, bytes).tensor(part);
            dispatch.params(&params).invocations(parts as usize);
        }
        let params = LossScaleParams { parts: (ranges * parts) as u32, ..params };
        let lanes = SumLanes::new(tape, 1, ranges * parts);
        let update = Kernel::new(SHADER, "update", lanes.variant(Variant::new()));
        let dispatch = tape.dispatch(update).tensor(part).tensor(step).tensor(state).tensor(sizes);
        dispatch.tensor(outputs[0]).params(&params).groups(1);
        Vec::new()
    }

    fn backward(&self, _: &mut Tape, _: &Node, _: &[Option<TensorId>], _: &[bool]) -> Vec<Option<TensorId>> {
        unreachable!("no gradient flows through it")
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let [g, step, state, _] = inputs else { unreachable!("four inputs") };
        let (scale, good, skipped) = (state.data[0], state.data[1] + 1.0, state.data[2]);
        let bad = g.data.iter().any(|v| !v.is_finite());
        let new = match (bad, good >= f64::from(GROWTH_INTERVAL)) {
            (true, _) => [(scale / 2.0).max(LEAST.into()), 0.0, skipped + 1.0, 0.0],
            (false, true) => [(scale * 2.0).min(MOST.into()), 0.0, skipped, 0.0],
            (false, false) => [scale, good, skipped, 0.0],
        };
        let taken = (step.data[1] - new[2]).max(1.0);
        let mut sizes = step_sizes(step.data[0], taken as u64).map(f64::from);
        sizes[3] = if bad { 0.0 } else { 1.0 / scale };
        let array = |values: [f64; 4]| Array::new(Shape::new([4]), values.to_vec());
        vec![array(new), array(new), array(sizes)]
    }
}

/// Where the backward pass of a micro-batch starts: the scale, as [`LossScale`] keeps it in its state `[4]`, times the
/// micro-batch's weight `[1]` within its step. Output: the gradient of the loss `[1]`.
#[derive(Debug, Clone)]
pub struct LossSeed;

impl Op for LossSeed {
    fn name(&self) -> &'static str {
        "loss_seed"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        match inputs {
            [state, weight] if state.len() == 4 && weight.len() == 1 => Ok(vec![Shape::new([1])]),
            _ => Err("takes the state [4] and a weight [1]".into()),
        }
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        let dispatch = tape.dispatch(kernel("seed")).tensor(inputs[0]).tensor(inputs[1]);
        dispatch.tensor(outputs[0]).groups(1);
        Vec::new()
    }

    fn backward(&self, _: &mut Tape, _: &Node, _: &[Option<TensorId>], _: &[bool]) -> Vec<Option<TensorId>> {
        unreachable!("no gradient flows through it")
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        vec![Array::new(Shape::new([1]), vec![inputs[0].data[0] * inputs[1].data[0]])]
    }
}

/// A scale and a weight.
pub fn seed_cases() -> Vec<Case> {
    let listed =
        |len: usize, store, values| CaseInput::constant(Shape::new([len]), store, Fill::Listed(values));
    let state = listed(4, Store::Scaling, &[1024.0, 7.0, 3.0, 0.0]);
    vec![Case::new("a third", LossSeed, vec![state, listed(1, Store::Inputs, &[1.0 / 3.0])])]
}

/// What the host uploads for a step, which counts from 1.
pub fn step_inputs(learning_rate: f64, step: u64) -> [f32; 4] {
    [learning_rate as f32, step as f32, 0.0, 0.0]
}

/// Shapes worth testing and timing: a good step, one that grows the scale, infinities and what is no number, the ends of
/// the scale.
pub fn cases() -> Vec<Case> {
    let case = |label: &str, len: usize, fill: Fill, step: &'static [f64], state: &'static [f64]| {
        let constant = |len: usize, store, fill| CaseInput::constant(Shape::new([len]), store, fill);
        let inputs = vec![
            constant(len, Store::Gradients, fill),
            constant(4, Store::Inputs, Fill::Listed(step)),
            constant(4, Store::Scaling, Fill::Listed(state)),
            constant(4, Store::Scaling, Fill::Constant(f64::NAN)),
        ];
        Case::new(label, LossScale, inputs)
    };
    let usual = Fill::Normal(0.0, 1e4);
    let infinite = Fill::NormalButLast(f64::INFINITY);
    vec![
        case("first step", 4, usual, &[0.001, 1.0, 0.0, 0.0], &[65536.0, 0.0, 0.0, 0.0]),
        case("good step after skips", 4100, usual, &[0.01, 70.0, 0.0, 0.0], &[1024.0, 9.0, 6.0, 0.0]),
        case("scale grows", 260, usual, &[0.01, 9000.0, 0.0, 0.0], &[512.0, 1999.0, 7.0, 0.0]),
        case("largest scale", 260, usual, &[0.01, 3000.0, 0.0, 0.0], &[16777216.0, 1999.0, 0.0, 0.0]),
        case("overflow", 40_004, infinite, &[0.01, 12.0, 0.0, 0.0], &[65536.0, 3.0, 2.0, 0.0]),
        case("first step skipped", 8, infinite, &[0.01, 1.0, 0.0, 0.0], &[65536.0, 0.0, 0.0, 0.0]),
        case("smallest scale", 64, infinite, &[0.01, 20.0, 0.0, 0.0], &[1.0, 0.0, 19.0, 0.0]),
        case(
            "minus infinity",
            68,
            Fill::NormalButLast(f64::NEG_INFINITY),
            &[0.01, 2.0, 0.0, 0.0],
            &[4.0, 0.0, 0.0, 0.0],
        ),
        case(
            "no number",
            2052,
            Fill::NormalButLast(f64::NAN),
            &[0.01, 500.0, 0.0, 0.0],
            &[8.0, 1999.0, 0.0, 0.0],
        ),
    ]
}
