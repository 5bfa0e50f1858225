//! Bilinear resize, corners not aligned (`torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`).
//!
//! Input `x` [N, HI, WI, C], C a multiple of 4; output [N, HO, WO, C]. The gradient is gathered in a fixed order.

use super::common::{indices, stored_alike};
use crate::gpu::{Kernel, ShaderSource};
use crate::params;
use crate::tape::{Array, Case, CaseInput, Node, Op, Shape, Tape, TensorId};

const SHADER: ShaderSource = ShaderSource { name: "resize", text: include_str!("../../shaders/resize.wgsl") };

params! {
    struct ResizeParams {
        in_height: u32, in_width: u32, out_height: u32, out_width: u32, groups: u32, len: u32,
    }
}

/// The resize.
#[derive(Debug, Clone)]
pub struct Resize {
    /// HO
    pub height: usize,
    /// WO
    pub width: usize,
}

/// Records one direction; `inner` is the side of `x`, `outer` that of `y`, whichever is read.
fn record(
    tape: &mut Tape,
    entry: &'static str,
    [read, written]: [TensorId; 2],
    [inner, outer]: [TensorId; 2],
) {
    let [_, in_height, in_width, c] = tape.shape(inner).as_nhwc();
    let [_, out_height, out_width, _] = tape.shape(outer).as_nhwc();
    let shape = tape.shape(written);
    let image_len = shape.len() / shape.dims()[0] / 4;
    let kernel = Kernel::new(SHADER, entry, stored_alike(tape, &[read, written]));
    for images in tape.image_slices(&[read, written]) {
        let params = ResizeParams {
            in_height: in_height as u32,
            in_width: in_width as u32,
            out_height: out_height as u32,
            out_width: out_width as u32,
            groups: (c / 4) as u32,
            len: (images.len() * image_len) as u32,
        };
        let dispatch = tape.dispatch(kernel.clone());
        dispatch
            .images(read, &images)
            .images(written, &images)
            .params(&params)
            .invocations(params.len as usize);
    }
}

impl Op for Resize {
    fn name(&self) -> &'static str {
        "resize"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        let [n, _, _, c] = inputs[0].as_nhwc();
        if c % 4 != 0 {
            return Err(format!("{}: channels come in fours", inputs[0]));
        }
        Ok(vec![Shape::nhwc(n, self.height, self.width, c)])
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        record(tape, "forward", [inputs[0], outputs[0]], [inputs[0], outputs[0]]);
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
        let (x, dy) = (node.inputs[0], dy[0].expect("one output"));
        let dx = tape.activation("dx", tape.shape(x).clone());
        record(tape, "backward", [dy, dx], [dx, dy]);
        vec![Some(dx)]
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let x = &inputs[0];
        let [n, h, w, c] = x.shape.as_nhwc();
        let place = |o: usize, count_in: usize, count_out: usize| {
            let s = ((o as f64 + 0.5) * count_in as f64 / count_out as f64 - 0.5).max(0.0);
            let low = (s as usize).min(count_in - 1);
            (low, (low + 1).min(count_in - 1), s - low as f64)
        };
        let mut y = Array::zeros(Shape::nhwc(n, self.height, self.width, c));
        for (b, i, j, k) in indices(n, self.height, self.width, c) {
            let (h0, h1, p) = place(i, h, self.height);
            let (w0, w1, q) = place(j, w, self.width);
            let row = |r: usize| x.data[x.at(b, r, w0, k)] * (1.0 - q) + x.data[x.at(b, r, w1, k)] * q;
            let at = y.at(b, i, j, k);
            y.data[at] = row(h0) * (1.0 - p) + row(h1) * p;
        }
        vec![y]
    }
}

/// Shapes worth testing and timing: up and down by two, by odd factors, from and to a single pixel.
pub fn cases() -> Vec<Case> {
    let shapes = [
        ([1, 1, 1, 4], [2, 2]),
        ([2, 6, 10, 4], [3, 5]),
        ([2, 3, 5, 8], [6, 10]),
        ([1, 7, 4, 4], [3, 9]),
        ([1, 4, 6, 4], [1, 1]),
        ([1, 5, 5, 4], [5, 5]),
    ];
    shapes
        .map(|(shape, [height, width])| {
            let input = CaseInput::activation(Shape::new(shape));
            Case::new(format!("{shape:?} to {height} x {width}"), Resize { height, width }, vec![input])
        })
        .into()
}
