//! 2x2 max pooling, stride 2 (`torch.nn.MaxPool2d(2)`).
//!
//! Input `x` [N, H, W, C], H and W even, C a multiple of 4; output [N, H/2, W/2, C]. The gradient goes to the first of
//! equal values in reading order, found again from `x`.

use std::ops::Range;

use super::common::{indices, stored_alike};
use crate::gpu::{Kernel, ShaderSource};
use crate::params;
use crate::tape::{Array, Case, CaseInput, Fill, Node, Op, Shape, Tape, TensorId};

const SHADER: ShaderSource =
    ShaderSource { name: "max_pool2d", text: include_str!("../../shaders/max_pool2d.wgsl") };

params! {
    struct PoolParams { width: u32, groups: u32, len: u32 }
}

/// The pooling.
#[derive(Debug, Clone)]
pub struct MaxPool2d;

/// The parameters for some images of the small side.
fn params(tape: &Tape, small: TensorId, images: &Range<usize>) -> PoolParams {
    let [_, h, w, c] = tape.shape(small).as_nhwc();
    PoolParams { width: w as u32, groups: (c / 4) as u32, len: (images.len() * h * w * c / 4) as u32 }
}

impl Op for MaxPool2d {
    fn name(&self) -> &'static str {
        "max_pool2d"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        let [n, h, w, c] = inputs[0].as_nhwc();
        if h % 2 != 0 || w % 2 != 0 || c % 4 != 0 {
            return Err(format!("{}: height and width must be even, channels in fours", inputs[0]));
        }
        Ok(vec![Shape::nhwc(n, h / 2, w / 2, c)])
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        let (x, y) = (inputs[0], outputs[0]);
        for images in tape.image_slices(&[x, y]) {
            let params = params(tape, y, &images);
            let kernel = Kernel::new(SHADER, "forward", stored_alike(tape, &[x, y]));
            let dispatch = tape.dispatch(kernel).images(x, &images).images(y, &images).params(&params);
            dispatch.invocations(params.len as usize);
        }
        Vec::new()
    }

    fn backward(
        &self,
        tape: &mut Tape,
        node: &Node,
        dy: &[Option<TensorId>],
        needs: &[bool],
    ) -> Vec<Option<TensorId>> {
        if !needs[0] {
            return vec![None];
        }
        let (x, dy) = (tape.value(node.inputs[0]), dy[0].expect("one output"));
        let so_far = tape.gradient_so_far(node.inputs[0]);
        let dx = so_far.unwrap_or_else(|| tape.activation("dx", tape.shape(x).clone()));
        let variant = stored_alike(tape, &[x, dy, dx]).with("ADD", so_far.is_some());
        let kernel = Kernel::new(SHADER, "backward", variant);
        for images in tape.image_slices(&[x, dy, dx]) {
            let params = params(tape, dy, &images);
            tape.dispatch(kernel.clone())
                .images(x, &images)
                .images(dy, &images)
                .images(dx, &images)
                .params(&params)
                .invocations(params.len as usize);
        }
        vec![Some(dx)]
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let x = &inputs[0];
        let [n, h, w, c] = x.shape.as_nhwc();
        let mut y = Array::zeros(Shape::nhwc(n, h / 2, w / 2, c));
        for (b, i, j, k) in indices(n, h / 2, w / 2, c) {
            let square = [(0, 0), (0, 1), (1, 0), (1, 1)];
            let values = square.map(|(di, dj)| x.data[x.at(b, 2 * i + di, 2 * j + dj, k)]);
            let at = y.at(b, i, j, k);
            y.data[at] = values.into_iter().fold(f64::NEG_INFINITY, f64::max);
        }
        vec![y]
    }
}

/// Shapes worth testing and timing.
pub fn cases() -> Vec<Case> {
    let input = |shape: [usize; 4]| CaseInput::activation(Shape::new(shape)).filled(Fill::Distinct(0.01));
    [[1, 2, 2, 4], [2, 6, 10, 4], [3, 4, 2, 20]]
        .map(|shape| Case::new(format!("{shape:?}"), MaxPool2d, vec![input(shape)]))
        .into()
}
