//! 1x1 convolution onto one channel, with bias (`torch.nn.Conv2d(C, 1, 1)`): the attention gate's psi and the last
//! layer. `y[n,h,w] = b + sum over c of x[n,h,w,c] * weight[c]`.
//!
//! Inputs `x` `[N, H, W, C]`, C a multiple of 4, weight `[C]`, bias `[1]`; output `[N, H, W, 1]`.

use std::ops::Range;

use super::common::{Scatter, bias_gradient, pixel_splits, reading, split_sum, stored_alike};
use crate::gpu::{Kernel, ShaderSource};
use crate::params;
use crate::tape::{Array, Case, CaseInput, Node, Op, Read, Shape, Tape, TensorId};

const SHADER: ShaderSource =
    ShaderSource { name: "project", text: include_str!("../../shaders/project.wgsl") };

params! {
    struct ProjectParams { pixels: u32, groups: u32, pixels_per_split: u32, splits: u32, split_first: u32 }
}

/// The projection.
#[derive(Debug, Clone)]
pub struct Project;

fn kernel(tape: &Tape, entry: &'static str, x: Read) -> Kernel {
    Kernel::new(SHADER, entry, reading(stored_alike(tape, &[x.tensor]), x))
}

fn params(tape: &Tape, x: TensorId, images: &Range<usize>) -> ProjectParams {
    let [_, h, w, c] = tape.shape(x).as_nhwc();
    ProjectParams {
        pixels: (images.len() * h * w) as u32,
        groups: (c / 4) as u32,
        ..bytemuck::Zeroable::zeroed()
    }
}

fn weight_gradient(tape: &mut Tape, read: Read, dy: TensorId, weight: TensorId) {
    let x = read.tensor;
    let [_, h, w, c] = tape.shape(x).as_nhwc();
    let slices = tape.image_slices(&[x, dy]);
    let splits = pixel_splits(tape, slices[0].len() * h * w, c / 4, 32, slices.len() * c);
    let part = tape.transient("weight part", Shape::new([splits * slices.len(), c]));
    for (place, images) in slices.iter().enumerate() {
        let plain = params(tape, x, images);
        let params = ProjectParams {
            pixels_per_split: plain.pixels.div_ceil(splits as u32),
            splits: splits as u32,
            split_first: (place * splits) as u32,
            ..plain
        };
        let kernel = kernel(tape, "weight_gradient", read);
        let dispatch = tape.dispatch(kernel).images(x, images).images(dy, images);
        dispatch.tensor(part).coefficients(read, weight).params(&params).invocations(splits * c / 4);
    }
    let target = tape.weight_gradient(weight);
    split_sum(tape, part, target, Scatter::plain(c));
}

fn input_gradient(tape: &mut Tape, x: TensorId, dy: TensorId, weight: TensorId) -> TensorId {
    let dx = tape.activation("dx", tape.shape(x).clone());
    for images in tape.image_slices(&[dy, dx]) {
        let params = params(tape, dx, &images);
        tape.dispatch(kernel(tape, "input_gradient", dx.into()))
            .tensor(weight)
            .images(dy, &images)
            .images(dx, &images)
            .params(&params)
            .invocations(params.pixels as usize * params.groups as usize);
    }
    dx
}

impl Op for Project {
    fn name(&self) -> &'static str {
        "project"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        let [x, weight, bias] = inputs else { return Err("takes x, weight, bias".into()) };
        let [n, h, w, c] = x.as_nhwc();
        if weight.len() != c || bias.len() != 1 || c % 4 != 0 {
            return Err(format!("x {x} does not go with weight {weight}, bias {bias}"));
        }
        Ok(vec![Shape::nhwc(n, h, w, 1)])
    }

    fn normalises(&self, _input: usize) -> bool {
        true
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        let [x, weight, bias] = inputs[..] else { unreachable!("three inputs") };
        let read = tape.read(x);
        let x = read.tensor;
        for images in tape.image_slices(&[x, outputs[0]]) {
            let params = params(tape, x, &images);
            tape.dispatch(kernel(tape, "forward", read))
                .images(x, &images)
                .tensor(weight)
                .tensor(bias)
                .images(outputs[0], &images)
                .coefficients(read, weight)
                .params(&params)
                .flops(params.pixels as usize * params.groups as usize * 8)
                .invocations(params.pixels as usize);
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
        let [x, weight, bias] = node.inputs[..] else { unreachable!("three inputs") };
        let dy = dy[0].expect("one output");
        if needs[1] {
            let read = tape.read(x);
            weight_gradient(tape, read, dy, weight);
        }
        if needs[2] {
            bias_gradient(tape, dy, bias);
        }
        vec![needs[0].then(|| input_gradient(tape, x, dy, weight)), None, None]
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let [x, weight, bias] = inputs else { unreachable!("three inputs") };
        let [n, h, w, c] = x.shape.as_nhwc();
        let dot =
            |pixel: &[f64]| bias.data[0] + pixel.iter().zip(&weight.data).map(|(a, b)| a * b).sum::<f64>();
        vec![Array::new(Shape::nhwc(n, h, w, 1), x.data.chunks_exact(c).map(dot).collect())]
    }
}

/// Shapes worth testing and timing.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = [[1, 1, 1, 4], [2, 3, 5, 8], [1, 9, 7, 20], [2, 16, 16, 64]].map(case).into();
    cases.push(case([2, 3, 5, 8]).deferred(&[0], true));
    cases.push(case([1, 9, 7, 20]).deferred(&[0], false));
    cases
}

fn case([n, h, w, c]: [usize; 4]) -> Case {
    let inputs = vec![
        CaseInput::activation(Shape::nhwc(n, h, w, c)),
        CaseInput::weight(Shape::new([c]), 0.5),
        CaseInput::weight(Shape::new([1]), 1.0),
    ];
    Case::new(format!("[{n}, {h}, {w}, {c}]"), Project, inputs)
}
