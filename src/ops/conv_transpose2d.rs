//! Transposed 2-D convolution, kernel 2x2, stride 2, with bias (`torch.nn.ConvTranspose2d(kernel_size=2, stride=2)`).
//!
//! `y[n,2h+i,2w+j,o] = b[o] + sum over c of x[n,h,w,c] * weight[c,o,i,j]`: a 1x1 convolution to 4 CO channels, those of
//! the four pixels of a square, written to where the square lies.
//!
//! Inputs: `x` `[N, H, W, CI]`, the packed weight `[4 CO/8, CI/4, 1, 4, 8]` (see [`places`]), the bias `[CO]`. Output
//! [N, 2 H, 2 W, CO]. Channels come in fours.

use super::common::{bias_gradient, indices};
use super::conv2d::{Form, Packing};
use super::convolution::{Call, Convolution, Start};
use crate::tape::{Array, Case, CaseInput, Node, Op, Shape, Tape, TensorId};

/// The transposed convolution.
#[derive(Debug, Clone)]
pub struct ConvTranspose2d {
    /// Output channels, a multiple of 4.
    pub out_channels: usize,
    /// Kernels to use; `None` leaves the choice to the device's limits.
    pub form: Option<Form>,
}

/// The packed weight of a transposed convolution: that of the 1x1 convolution to the channels of four pixels.
pub fn packing(in_channels: usize, out_channels: usize) -> Packing {
    Packing { out_channels: 4 * out_channels, in_channels, kernel: 1 }
}

/// Place in the packed weight of each element of PyTorch's [CI, CO, 2, 2], in that order.
pub fn places(in_channels: usize, out_channels: usize) -> impl Iterator<Item = usize> {
    let packing = packing(in_channels, out_channels);
    (0..in_channels * out_channels * 4).map(move |index| {
        let (pixel, o, c) = (index % 4, index / 4 % out_channels, index / 4 / out_channels);
        packing.place(pixel * out_channels + o, c, 0)
    })
}

impl ConvTranspose2d {
    /// A transposed convolution whose kernels are chosen for the device.
    pub fn new(out_channels: usize) -> Self {
        Self { out_channels, form: None }
    }

    fn kernels(&self) -> Convolution {
        Convolution { kernel: 1, out_channels: 4 * self.out_channels, form: self.form, squares: true }
    }
}

impl Op for ConvTranspose2d {
    fn name(&self) -> &'static str {
        "conv_transpose2d"
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        let [x, weight, bias] = inputs else { return Err("takes x, weight, bias".into()) };
        let [n, h, w, c] = x.as_nhwc();
        let expected = packing(c, self.out_channels).shape();
        if **weight != expected
            || bias.len() != self.out_channels
            || c % 4 != 0
            || !self.out_channels.is_multiple_of(4)
        {
            return Err(format!("weight {weight}, bias {bias}: expected {expected}"));
        }
        Ok(vec![Shape::nhwc(n, 2 * h, 2 * w, self.out_channels)])
    }

    fn normalises(&self, _input: usize) -> bool {
        true
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        let call = Call {
            sources: vec![(tape.read(inputs[0]), 0)],
            weight: inputs[1],
            bias: Some(inputs[2]),
            start: Start::Bias,
            y: outputs[0],
            flip_from: None,
            flipped: None,
            transformed: None,
            x_squares: false,
            y_squares: true,
            moments: false,
        };
        self.kernels().convolve(tape, &call);
        Vec::new()
    }

    fn backward(
        &self,
        tape: &mut Tape,
        node: &Node,
        dy: &[Option<TensorId>],
        needs: &[bool],
    ) -> Vec<Option<TensorId>> {
        let dy = dy[0].expect("one output");
        let [x, weight, bias] = node.inputs[..] else { unreachable!("three inputs") };
        if needs[1] {
            let read = tape.read(x);
            self.kernels().weight_gradient(tape, (&[(read, 0)], None), dy, weight);
        }
        if needs[2] {
            bias_gradient(tape, dy, bias);
        }
        let dx = needs[0].then(|| self.kernels().input_gradient(tape, (dy, &mut None), weight, (x, 0)));
        vec![dx, None, None]
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let [x, weight, bias] = inputs else { unreachable!("three inputs") };
        let [n, h, w, channels] = x.shape.as_nhwc();
        let places: Vec<usize> = places(channels, self.out_channels).collect();
        let mut y = Array::zeros(Shape::nhwc(n, 2 * h, 2 * w, self.out_channels));
        for (b, i, j, o) in indices(n, 2 * h, 2 * w, self.out_channels) {
            let weight_at =
                |c: usize| weight.data[places[(c * self.out_channels + o) * 4 + i % 2 * 2 + j % 2]];
            let x_at = x.at(b, i / 2, j / 2, 0);
            let at = y.at(b, i, j, o);
            y.data[at] = bias.data[o] + (0..channels).map(|c| x.data[x_at + c] * weight_at(c)).sum::<f64>();
        }
        vec![y]
    }
}

/// Shapes worth testing and timing.
pub fn cases() -> Vec<Case> {
    let shapes = [
        ([1, 1, 1], 4, 4),
        ([2, 3, 5], 8, 4),
        ([1, 5, 2], 20, 12),
        ([2, 4, 4], 64, 32),
        ([1, 7, 10], 16, 24),
    ];
    let forms = [Form::Direct, Form::Tiled];
    let mut cases: Vec<Case> =
        forms.into_iter().flat_map(|form| shapes.map(|(nhw, ci, co)| case(form, nhw, ci, co))).collect();
    for form in forms {
        cases.push(case(form, [1, 5, 2], 20, 12).deferred(&[0], true));
        cases.push(case(form, [2, 3, 5], 16, 8).deferred(&[0], true));
    }
    for form in Form::MATRIX.into_iter().filter(|form| !form.is_for_3x3_alone()) {
        cases.push(case(form, [1, 5, 2], 24, 16));
        cases.push(case(form, [2, 3, 5], 8, 8).deferred(&[0], true));
    }
    cases
}

fn case(form: Form, [n, h, w]: [usize; 3], in_channels: usize, out_channels: usize) -> Case {
    let inputs = vec![
        CaseInput::activation(Shape::nhwc(n, h, w, in_channels)),
        CaseInput::weight(packing(in_channels, out_channels).shape(), 1.0 / (in_channels as f64).sqrt()),
        CaseInput::weight(Shape::new([out_channels]), 1.0),
    ];
    let op = ConvTranspose2d { out_channels, form: Some(form) };
    Case::new(format!("{form:?} [{n}, {h}, {w}, {in_channels}] to {out_channels}"), op, inputs)
}
