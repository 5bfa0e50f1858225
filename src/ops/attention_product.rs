//! The attention gate's product with what makes its factor: `y[n,h,w,c] = x[n,h,w,c] * sigmoid(norm(p)[n,h,w])` (Oktay et
//! al. 2018, equation 2), a batch norm of one channel. The factor is never stored.
//!
//! Inputs: `x` `[N, H, W, C]`, C a multiple of 4; `p` `[N, H, W, 1]`; gamma, beta, running mean, running variance `[1]` of
//! the norm. The running statistics change in training. Output `[N, H, W, C]`. Saved: the norm's statistics [4, 1].

use std::ops::Range;

use super::activation::Sigmoid;
use super::batch_norm::BatchNorm;
use super::common::{pixel_lanes, pixels_each, reading, stored_alike, u};
use super::gate::Gate;
use crate::gpu::{Kernel, ShaderSource};
use crate::params;
use crate::tape::{Array, Case, CaseInput, Fill, Node, Op, Read, Shape, Store, Tape, TensorId};

const SHADER: ShaderSource =
    ShaderSource { name: "attention_product", text: include_str!("../../shaders/attention_product.wgsl") };

params! {
    struct ProductParams { pixels: u32, groups: u32 }
}

/// The product.
#[derive(Debug, Clone)]
pub struct AttentionProduct {
    /// Statistics of the batch, or the running ones.
    pub training: bool,
    /// Invocations that share a pixel, a power of two up to 64; by the device where `None`.
    pub lanes: Option<usize>,
}

impl AttentionProduct {
    /// The product as the device does it best.
    pub fn new(training: bool) -> Self {
        Self { training, lanes: None }
    }

    fn norm(&self) -> BatchNorm {
        BatchNorm::new(self.training, false)
    }

    /// The kernel that reads x so, and stores it and other tensors alike; with the pixels of a workgroup.
    fn kernel(&self, tape: &Tape, entry: &'static str, x: Read, others: &[TensorId]) -> (Kernel, usize) {
        let [n, h, w, c] = tape.shape(x.tensor).as_nhwc();
        let lanes = self.lanes.unwrap_or_else(|| pixel_lanes(tape, c / 4));
        let pixels = pixels_each(tape, n * h * w, lanes);
        let variant = stored_alike(tape, &[&[x.tensor], others].concat());
        let variant = reading(variant, x).with("LANES", u(lanes)).with("PIXELS", u(pixels));
        (Kernel::new(SHADER, entry, variant), 64 / lanes * pixels)
    }

    fn product(&self, tape: &mut Tape, read: Read, [p, stats, y]: [TensorId; 3]) {
        let x = read.tensor;
        let (kernel, pixels_a_group) = self.kernel(tape, "forward", read, &[y]);
        for images in tape.image_slices(&[x, p, y]) {
            let params = params(tape, x, &images);
            tape.dispatch(kernel.clone())
                .images(x, &images)
                .images(p, &images)
                .tensor(stats)
                .images(y, &images)
                .coefficients(read, stats)
                .params(&params)
                .groups((params.pixels as usize).div_ceil(pixels_a_group));
        }
    }

    /// The gradients of `x` and of what the sigmoid takes.
    fn gradients(&self, tape: &mut Tape, node: &Node, dy: TensorId) -> [TensorId; 2] {
        let (read, p) = (tape.read(node.inputs[0]), tape.value(node.inputs[1]));
        let x = read.tensor;
        let dx = tape.activation("dx", tape.shape(x).clone());
        let dz = tape.activation("dz", tape.shape(p).clone());
        let (kernel, pixels_a_group) = self.kernel(tape, "backward", read, &[dy, dx]);
        for images in tape.image_slices(&[x, p, dy, dx, dz]) {
            let params = params(tape, x, &images);
            tape.dispatch(kernel.clone())
                .images(x, &images)
                .images(p, &images)
                .images(dy, &images)
                .tensor(node.saved[0])
                .images(dx, &images)
                .images(dz, &images)
                .coefficients(read, node.saved[0])
                .params(&params)
                .groups((params.pixels as usize).div_ceil(pixels_a_group));
        }
        [dx, dz]
    }
}

fn params(tape: &Tape, x: TensorId, images: &Range<usize>) -> ProductParams {
    let [_, h, w, c] = tape.shape(x).as_nhwc();
    ProductParams { pixels: (images.len() * h * w) as u32, groups: (c / 4) as u32 }
}

impl Op for AttentionProduct {
    fn name(&self) -> &'static str {
        "attention_product"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        let [x, p, norm @ ..] = inputs else { return Err("takes x, p, and a norm's four".into()) };
        let [n, h, w, c] = x.as_nhwc();
        if p.as_nhwc() != [n, h, w, 1] || norm.len() != 4 || norm.iter().any(|v| v.len() != 1) || c % 4 != 0 {
            return Err(format!("x {x} does not go with p {p}, or not with the norm"));
        }
        Ok(vec![(*x).clone()])
    }

    fn mutates(&self) -> &'static [usize] {
        if self.training { &[4, 5] } else { &[] }
    }

    fn normalises(&self, input: usize) -> bool {
        input == 0
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        let stats = self.norm().stats(tape, &inputs[1..]);
        let x = tape.read(inputs[0]);
        self.product(tape, x, [inputs[1], stats, outputs[0]]);
        vec![stats]
    }

    fn backward(
        &self,
        tape: &mut Tape,
        node: &Node,
        dy: &[Option<TensorId>],
        needs: &[bool],
    ) -> Vec<Option<TensorId>> {
        if !needs.contains(&true) {
            return vec![None; needs.len()];
        }
        let [dx, dz] = self.gradients(tape, node, dy[0].expect("one output"));
        let mut gradients = vec![needs[0].then_some(dx)];
        // From there on it is the gradient of a batch norm of one channel, whose node this would be.
        let norm = Node {
            name: node.name.clone(),
            op: Box::new(self.norm()),
            inputs: node.inputs[1..].to_vec(),
            outputs: Vec::new(),
            saved: node.saved.clone(),
        };
        gradients.extend(match needs[1..].contains(&true) {
            true => norm.op.backward(tape, &norm, &[Some(dz)], &needs[1..]),
            false => vec![None; needs.len() - 1],
        });
        gradients
    }

    fn recomputes(&self, _: usize) -> bool {
        true
    }

    fn recompute(&self, tape: &mut Tape, node: &Node, inputs: &[Read]) -> Vec<TensorId> {
        let y = tape.activation("attention_product again", tape.shape(inputs[0].tensor).clone());
        self.product(tape, inputs[0], [inputs[1].tensor, node.saved[0], y]);
        vec![y]
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let mut norm = self.norm().reference(&inputs[1..]);
        let psi = Sigmoid.reference(&[norm.remove(0)]).remove(0);
        [Gate.reference(&[inputs[0].clone(), psi]), norm].concat()
    }
}

/// Shapes worth testing and timing.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for training in [true, false] {
        // A pixel to an invocation, shared in parts that come out even, and in such that do not.
        for (shape, lanes) in [
            ([1, 2, 2, 4], Some(1)),
            ([2, 3, 5, 8], Some(1)),
            ([1, 7, 3, 20], Some(4)),
            ([2, 9, 16, 32], Some(8)),
            ([1, 6, 5, 12], Some(2)),
            ([2, 16, 16, 16], None),
        ] {
            cases.push(case(training, lanes, Shape::new(shape)));
        }
    }
    cases.push(case(true, Some(1), Shape::new([2, 3, 5, 8])).deferred(&[0], true));
    cases.push(case(true, Some(4), Shape::new([1, 7, 3, 20])).deferred(&[0], false));
    cases
}

fn case(training: bool, lanes: Option<usize>, shape: Shape) -> Case {
    let [n, h, w, _] = shape.as_nhwc();
    let one = Shape::new([1]);
    let inputs = vec![
        CaseInput::activation(shape.clone()),
        CaseInput::activation(Shape::nhwc(n, h, w, 1)).filled(Fill::Normal(0.5, 2.0)),
        CaseInput::weight(one.clone(), 1.0),
        CaseInput::weight(one.clone(), 1.0),
        CaseInput::constant(one.clone(), Store::State, Fill::Normal(0.0, 1.0)),
        CaseInput::constant(one, Store::State, Fill::Uniform(0.5, 2.0)),
    ];
    let mode = if training { "training" } else { "evaluation" };
    let lanes_word = lanes.map_or("by the device".to_owned(), |lanes| lanes.to_string());
    let op = AttentionProduct { training, lanes };
    Case::new(format!("{mode} {shape}, lanes {lanes_word}"), op, inputs)
}
