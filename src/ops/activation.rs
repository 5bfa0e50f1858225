//! Point-by-point operations: ReLU, sigmoid and the sum of two tensors (`torch.relu`, `torch.sigmoid`, `a + b`).
//!
//! Any shape. The gradients of the first two come from the output alone; a sum hands its gradient through.

use super::common::{stored_alike, vector};
use crate::gpu::{Kernel, ShaderSource};
use crate::params;
use crate::tape::{Array, Case, CaseInput, Fill, Node, Op, Read, Shape, Tape, TensorId};

const SHADER: ShaderSource =
    ShaderSource { name: "activation", text: include_str!("../../shaders/activation.wgsl") };

params! {
    struct PointParams { len: u32 }
}

/// `y = max(x, 0)`.
#[derive(Debug, Clone)]
pub struct Relu;

/// `y = 1 / (1 + exp(-x))`.
#[derive(Debug, Clone)]
pub struct Sigmoid;

/// `y = a + b`.
#[derive(Debug, Clone)]
pub struct Add;

/// Records an entry point that takes some tensors and writes the last one, slice by slice of the batch.
fn record(tape: &mut Tape, entry: &'static str, tensors: &[TensorId]) {
    let shape = tape.shape(tensors[0]).clone();
    let image_len = shape.len() / shape.dims()[0];
    let (width, alias) = vector(image_len);
    let kernel = Kernel::new(SHADER, entry, stored_alike(tape, tensors).with("V", alias));
    for images in tape.image_slices(tensors) {
        let len = images.len() * image_len / width;
        let mut dispatch = tape.dispatch(kernel.clone());
        for id in tensors {
            dispatch = dispatch.images(*id, &images);
        }
        dispatch.params(&PointParams { len: len as u32 }).flops(len * width).invocations(len);
    }
}

/// Records an entry point into a new tensor, in the backward pass.
fn again(tape: &mut Tape, entry: &'static str, inputs: &[Read]) -> TensorId {
    let y = tape.activation(entry, tape.shape(inputs[0].tensor).clone());
    let tensors: Vec<TensorId> = inputs.iter().map(|read| read.tensor).chain([y]).collect();
    record(tape, entry, &tensors);
    y
}

/// Records `a + b` into a new tensor: also how the tape sums two gradients of one tensor.
pub fn add(tape: &mut Tape, a: TensorId, b: TensorId) -> TensorId {
    let y = tape.activation("sum", tape.shape(a).clone());
    record(tape, "add", &[a, b, y]);
    y
}

fn same_shape(inputs: &[&Shape], count: usize) -> Result<Vec<Shape>, String> {
    if inputs.len() != count || inputs.iter().any(|shape| *shape != inputs[0]) {
        return Err(format!("takes {count} inputs of one shape"));
    }
    Ok(vec![inputs[0].clone()])
}

fn gradient_from_output(tape: &mut Tape, node: &Node, entry: &'static str, dy: Option<TensorId>) -> TensorId {
    let y = tape.value(node.outputs[0]);
    let dx = tape.activation("dx", tape.shape(y).clone());
    record(tape, entry, &[y, dy.expect("one output"), dx]);
    dx
}

impl Op for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        same_shape(inputs, 1)
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        record(tape, "relu", &[inputs[0], outputs[0]]);
        Vec::new()
    }

    fn backward(
        &self,
        tape: &mut Tape,
        node: &Node,
        dy: &[Option<TensorId>],
        needs: &[bool],
    ) -> Vec<Option<TensorId>> {
        vec![needs[0].then(|| gradient_from_output(tape, node, "relu_gradient", dy[0]))]
    }

    fn recomputes(&self, _: usize) -> bool {
        true
    }

    fn recompute(&self, tape: &mut Tape, _: &Node, inputs: &[Read]) -> Vec<TensorId> {
        vec![again(tape, "relu", inputs)]
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        vec![inputs[0].map(|x| x.max(0.0))]
    }
}

impl Op for Sigmoid {
    fn name(&self) -> &'static str {
        "sigmoid"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        same_shape(inputs, 1)
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        record(tape, "sigmoid", &[inputs[0], outputs[0]]);
        Vec::new()
    }

    fn backward(
        &self,
        tape: &mut Tape,
        node: &Node,
        dy: &[Option<TensorId>],
        needs: &[bool],
    ) -> Vec<Option<TensorId>> {
        vec![needs[0].then(|| gradient_from_output(tape, node, "sigmoid_gradient", dy[0]))]
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        vec![inputs[0].map(|x| 1.0 / (1.0 + (-x).exp()))]
    }
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        same_shape(inputs, 2)
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        record(tape, "add", &[inputs[0], inputs[1], outputs[0]]);
        Vec::new()
    }

    fn backward(
        &self,
        _: &mut Tape,
        _: &Node,
        dy: &[Option<TensorId>],
        needs: &[bool],
    ) -> Vec<Option<TensorId>> {
        needs.iter().map(|needed| dy[0].filter(|_| *needed)).collect()
    }

    fn recomputes(&self, _: usize) -> bool {
        true
    }

    fn recompute(&self, tape: &mut Tape, _: &Node, inputs: &[Read]) -> Vec<TensorId> {
        vec![again(tape, "add", inputs)]
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        vec![inputs[0].zip(&inputs[1], |a, b| a + b)]
    }
}

const SHAPES: [[usize; 4]; 3] = [[1, 1, 1, 1], [2, 3, 5, 1], [2, 4, 3, 8]];

fn shapes() -> impl Iterator<Item = Shape> {
    SHAPES.into_iter().map(Shape::new)
}

/// Shapes worth testing and timing, of ReLU.
pub fn relu_cases() -> Vec<Case> {
    let input = |shape| CaseInput::activation(shape).filled(Fill::AwayFromZero(0.01));
    shapes().map(|shape| Case::new(shape.to_string(), Relu, vec![input(shape)])).collect()
}

/// Shapes worth testing and timing, of the sigmoid: also far out, where a naive formula overflows.
pub fn sigmoid_cases() -> Vec<Case> {
    let input = |shape| CaseInput::activation(shape);
    let mut cases: Vec<Case> =
        shapes().map(|shape| Case::new(shape.to_string(), Sigmoid, vec![input(shape)])).collect();
    let far = input(Shape::new([2, 3, 4, 4])).filled(Fill::Normal(0.0, 60.0));
    cases.push(Case::new("far from zero", Sigmoid, vec![far]));
    cases
}

/// Shapes worth testing and timing, of the sum; one with more workgroups than a dimension holds.
pub fn add_cases() -> Vec<Case> {
    let inputs = |shape: Shape| vec![CaseInput::activation(shape.clone()), CaseInput::activation(shape)];
    let mut cases: Vec<Case> =
        shapes().map(|shape| Case::new(shape.to_string(), Add, inputs(shape))).collect();
    let long = Shape::new([1, 4099, 1025, 1]);
    cases.push(Case::new(format!("{long}: over 65,535 workgroups"), Add, inputs(long)).forward_only());
    cases
}
