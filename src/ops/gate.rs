//! The attention gate's product: `y[n,h,w,c] = x[n,h,w,c] * psi[n,h,w]` (Oktay et al. 2018, equation 2).
//!
//! Inputs `x` [N, H, W, C], C a multiple of 4, and `psi` [N, H, W, 1]; output [N, H, W, C].

use std::ops::Range;

use super::common::{indices, stored_alike};
use crate::gpu::{Kernel, ShaderSource};
use crate::params;
use crate::tape::{Array, Case, CaseInput, Node, Op, Read, Shape, Tape, TensorId};

const SHADER: ShaderSource = ShaderSource { name: "gate", text: include_str!("../../shaders/gate.wgsl") };

params! {
    struct GateParams { pixels: u32, groups: u32 }
}

/// The product.
#[derive(Debug, Clone)]
pub struct Gate;

fn params(tape: &Tape, x: TensorId, images: &Range<usize>) -> GateParams {
    let [_, h, w, c] = tape.shape(x).as_nhwc();
    GateParams { pixels: (images.len() * h * w) as u32, groups: (c / 4) as u32 }
}

/// Records `y = x * psi`.
fn product(tape: &mut Tape, x: TensorId, psi: TensorId, y: TensorId) {
    for images in tape.image_slices(&[x, psi, y]) {
        let params = params(tape, x, &images);
        tape.dispatch(Kernel::new(SHADER, "forward", stored_alike(tape, &[x, y])))
            .images(x, &images)
            .images(psi, &images)
            .images(y, &images)
            .params(&params)
            .invocations(params.pixels as usize * params.groups as usize);
    }
}

impl Op for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        let [x, psi] = inputs else { return Err("takes x and psi".into()) };
        let [n, h, w, c] = x.as_nhwc();
        if psi.as_nhwc() != [n, h, w, 1] || c % 4 != 0 {
            return Err(format!("x {x} does not go with psi {psi}"));
        }
        Ok(vec![(*x).clone()])
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        product(tape, inputs[0], inputs[1], outputs[0]);
        Vec::new()
    }

    fn backward(
        &self,
        tape: &mut Tape,
        node: &Node,
        dy: &[Option<TensorId>],
        needs: &[bool],
    ) -> Vec<Option<TensorId>> {
        let (x, psi, dy) = (node.inputs[0], node.inputs[1], dy[0].expect("one output"));
        let dx = needs[0].then(|| {
            let dx = tape.activation("dx", tape.shape(x).clone());
            product(tape, dy, psi, dx);
            dx
        });
        let dpsi = needs[1].then(|| {
            let x = tape.value(x);
            let dpsi = tape.activation("dpsi", tape.shape(psi).clone());
            for images in tape.image_slices(&[x, dy, dpsi]) {
                let params = params(tape, x, &images);
                tape.dispatch(Kernel::new(SHADER, "psi_gradient", stored_alike(tape, &[x, dy])))
                    .images(x, &images)
                    .images(dy, &images)
                    .images(dpsi, &images)
                    .params(&params)
                    .invocations(params.pixels as usize);
            }
            dpsi
        });
        vec![dx, dpsi]
    }

    fn recomputes(&self, _: usize) -> bool {
        true
    }

    fn recompute(&self, tape: &mut Tape, _: &Node, inputs: &[Read]) -> Vec<TensorId> {
        let [x, psi] = [0, 1].map(|place| inputs[place].tensor);
        let y = tape.activation("gate again", tape.shape(x).clone());
        product(tape, x, psi, y);
        vec![y]
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (x, psi) = (&inputs[0], &inputs[1]);
        let [n, h, w, c] = x.shape.as_nhwc();
        let mut y = x.clone();
        for (place, (b, i, j, _)) in indices(n, h, w, c).enumerate() {
            y.data[place] *= psi.data[psi.at(b, i, j, 0)];
        }
        vec![y]
    }
}

/// Shapes worth testing and timing.
pub fn cases() -> Vec<Case> {
    [[1, 1, 1, 4], [2, 3, 5, 8], [1, 7, 2, 20]]
        .map(|[n, h, w, c]| {
            let inputs = vec![
                CaseInput::activation(Shape::nhwc(n, h, w, c)),
                CaseInput::activation(Shape::nhwc(n, h, w, 1)),
            ];
            Case::new(format!("[{n}, {h}, {w}, {c}]"), Gate, inputs)
        })
        .into()
}
