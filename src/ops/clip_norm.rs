//! Clipping by the norm of all gradients together (Pascanu et al. 2013; `torch.nn.utils.clip_grad_norm_`).
//!
//! Inputs: the flat gradients `[len]` and the optimiser's step sizes `[4]` (see [`super::adamw`]), whose last element is
//! what gradients are multiplied by: the norm is that of the gradients times it, so that a scaled loss is unscaled first.
//! Outputs: the sizes `[4]` with that element made smaller where the norm exceeds `most`, and the norm `[1]` before
//! clipping. No gradient is written: the optimiser reads them once, as it does without.

use super::common::{SumLanes, busy_invocations};
use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::params;
use crate::tape::{Array, Case, CaseInput, Fill, Node, Op, Shape, Store, Tape, TensorId};

const SHADER: ShaderSource =
    ShaderSource { name: "clip_norm", text: include_str!("../../shaders/clip_norm.wgsl") };
/// Added to the norm, as PyTorch does.
const EPS: f64 = 1e-6;

params! {
    struct ClipNormParams { len: u32, part_len: u32, first_part: u32, parts: u32, neighbours: u32, most: f32 }
}

/// The clipping.
#[derive(Debug, Clone)]
pub struct ClipNorm {
    /// The largest norm that is left as it is.
    pub most: f32,
}

fn kernel(entry: &'static str) -> Kernel {
    Kernel::new(SHADER, entry, Variant::new())
}

impl Op for ClipNorm {
    fn name(&self) -> &'static str {
        "clip_norm"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        let [g, sizes] = inputs else { return Err("takes gradients and the step's sizes".into()) };
        if g.len() % 4 != 0 || sizes.len() != 4 {
            return Err("gradients come in fours, sizes are [4]".into());
        }
        Ok(vec![Shape::new([4]), Shape::new([1])])
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        let ([g, sizes], [clipped, norm]) = (inputs, outputs) else { unreachable!("two of each") };
        let total = tape.shape(*g).bytes();
        let most = tape.limits().storage_binding_bytes / 256 * 256;
        let ranges = total.div_ceil(most) as usize;
        let parts = busy_invocations(tape).min(total.min(most) as usize / 16);
        let neighbours = if tape.limits().software && parts.is_multiple_of(8) { 8 } else { parts } as u32;
        let part = tape.transient("squares", Shape::new([ranges * parts]));
        for range in 0..ranges {
            let start = range as u64 * most;
            let bytes = most.min(total - start);
            let len = (bytes / 16) as u32;
            let (parts, first_part) = (parts as u32, (range * parts) as u32);
            let part_len = len.div_ceil(parts);
            let params = ClipNormParams { len, part_len, first_part, parts, neighbours, most: self.most };
            let dispatch = tape.dispatch(kernel("squares")).range(*g, start, bytes).tensor(part);
            dispatch.params(&params).flops(bytes as usize / 2).invocations(parts as usize);
        }
        let parts = (ranges * parts) as u32;
        let params = ClipNormParams { parts, most: self.most, ..bytemuck::Zeroable::zeroed() };
        let lanes = SumLanes::new(tape, 1, parts as usize);
        let clip = Kernel::new(SHADER, "clip", lanes.variant(Variant::new()));
        let dispatch = tape.dispatch(clip).tensor(part).tensor(*sizes).tensor(*clipped);
        dispatch.tensor(*norm).params(&params).groups(1);
        Vec::new()
    }

    fn backward(&self, _: &mut Tape, _: &Node, _: &[Option<TensorId>], _: &[bool]) -> Vec<Option<TensorId>> {
        unreachable!("no gradient flows through it")
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (g, sizes) = (&inputs[0].data, &inputs[1].data);
        let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt() * sizes[3];
        let mut clipped = sizes.clone();
        clipped[3] *= (f64::from(self.most) / (norm + EPS)).min(1.0);
        vec![Array::new(Shape::new([4]), clipped), Array::new(Shape::new([1]), vec![norm])]
    }
}

/// Shapes worth testing and timing: norms below, near and far above the limit, scaled gradients, a step that is skipped.
pub fn cases() -> Vec<Case> {
    let case = |label: &str, len: usize, deviation: f64, most: f32, sizes: &'static [f64]| {
        let constant = |len: usize, store, fill| CaseInput::constant(Shape::new([len]), store, fill);
        let inputs = vec![
            constant(len, Store::Gradients, Fill::Normal(0.0, deviation)),
            constant(4, Store::Inputs, Fill::Listed(sizes)),
        ];
        Case::new(format!("{label} [{len}]"), ClipNorm { most }, inputs)
    };
    vec![
        case("four", 4, 1.0, 0.1, &[0.001, 0.01, 1.5, 1.0]),
        case("below", 260, 0.001, 1.0, &[0.001, 0.01, 1.5, 1.0]),
        case("far above", 40_004, 100.0, 1.0, &[1.0, 0.1, 3.0, 1.0]),
        case("scaled", 4100, 1000.0, 2.0, &[1.0, 0.1, 3.0, 0.0009765625]),
        case("scaled, below", 4100, 1000.0, 1000.0, &[1.0, 0.1, 3.0, 0.0009765625]),
        case("skipped", 64, 1.0, 0.5, &[1.0, 0.1, 3.0, 0.0]),
    ]
}
