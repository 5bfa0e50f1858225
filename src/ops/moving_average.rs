//! Exponential moving average of a flat buffer (Polyak and Juditsky 1992; `torch.optim.swa_utils.get_ema_multi_avg_fn`):
//! `a += r (x - a)`, r = 1 - decay.
//!
//! Inputs: the average and what is averaged, `[len]` each, and the rates `[4]`, r first (see [`rates`]). No output: the
//! average changes in place. No gradient flows through it.

use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::params;
use crate::tape::{Array, Case, CaseInput, Fill, Node, Op, Shape, Store, Tape, TensorId};

const SHADER: ShaderSource =
    ShaderSource { name: "moving_average", text: include_str!("../../shaders/moving_average.wgsl") };

params! {
    struct MovingAverageParams { len: u32 }
}

/// The average's step.
#[derive(Debug, Clone)]
pub struct MovingAverage;

/// What the host uploads for a step, which counts from 1. The decay is at most (1 + step) / (10 + step), as
/// TensorFlow's `ExponentialMovingAverage(num_updates)` has it: a short training must not end with its first weights.
pub fn rates(decay: f64, step: u64) -> [f32; 4] {
    let step = step as f64;
    [(1.0 - decay.min((1.0 + step) / (10.0 + step))) as f32, 0.0, 0.0, 0.0]
}

impl Op for MovingAverage {
    fn name(&self) -> &'static str {
        "moving_average"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        let [a, x, rates] = inputs else { return Err("takes the average, the values and the rates".into()) };
        if a != x || a.len() % 4 != 0 || rates.len() != 4 {
            return Err("the average and the values must be alike, in fours".into());
        }
        Ok(Vec::new())
    }

    fn mutates(&self) -> &'static [usize] {
        &[0]
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], _: &[TensorId]) -> Vec<TensorId> {
        let [a, x, rates] = inputs[..] else { unreachable!("three inputs") };
        let total = tape.shape(a).bytes();
        let most = tape.limits().storage_binding_bytes / 256 * 256;
        for start in (0..total).step_by(most as usize) {
            let bytes = most.min(total - start);
            let dispatch = tape.dispatch(Kernel::new(SHADER, "moving_average", Variant::new()));
            let dispatch =
                dispatch.range(a, start, bytes).read_and_written(true).range(x, start, bytes).tensor(rates);
            let params = MovingAverageParams { len: (bytes / 4) as u32 };
            dispatch.params(&params).flops(bytes as usize * 3 / 4).invocations((bytes / 16) as usize);
        }
        Vec::new()
    }

    fn backward(&self, _: &mut Tape, _: &Node, _: &[Option<TensorId>], _: &[bool]) -> Vec<Option<TensorId>> {
        unreachable!("an average has no output")
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let rate = inputs[2].data[0];
        vec![inputs[0].zip(&inputs[1], |a, x| a + rate * (x - a))]
    }
}

/// Shapes worth testing and timing.
pub fn cases() -> Vec<Case> {
    let case = |len: usize, rates: &'static [f64]| {
        let normal = |store| CaseInput::constant(Shape::new([len]), store, Fill::Normal(0.0, 1.0));
        let rates_input = CaseInput::constant(Shape::new([4]), Store::Inputs, Fill::Listed(rates));
        let inputs = vec![normal(Store::Average), normal(Store::Weights), rates_input];
        Case::new(format!("[{len}] rate {}", rates[0]), MovingAverage, inputs)
    };
    vec![
        case(4, &[0.5, 0.0, 0.0, 0.0]),
        case(4096 + 4, &[0.001, 0.0, 0.0, 0.0]),
        case(260, &[0.0, 0.0, 0.0, 0.0]),
        case(256, &[1.0, 0.0, 0.0, 0.0]),
    ]
}

#[cfg(test)]
mod tests {
    use super::rates;

    #[test]
    fn the_decay_grows_into_the_one_that_was_set() {
        assert_eq!(rates(0.9, 1)[0], (1.0 - 2.0 / 11.0) as f32);
        assert_eq!(rates(0.9, 79)[0], (1.0 - 80.0 / 89.0) as f32, "the last before");
        assert_eq!(rates(0.9, 80)[0], (1.0_f64 - 0.9) as f32);
        assert_eq!(rates(0.9, 100_000)[0], (1.0_f64 - 0.9) as f32);
    }
}
