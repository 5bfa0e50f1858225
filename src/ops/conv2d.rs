//! 2-D convolution, stride 1, "same" padding, kernel 3x3 or 1x1, with bias (`torch.nn.Conv2d`).
//!
//! `y[n,h,w,o] = b[o] + sum over (i,j,c) of x[n,h+i-P,w+j-P,c] * weight[o,c,i,j]`, P = K/2.
//!
//! Inputs: one or two sources `x` [N, H, W, CX] (two are the channel concatenation, which is never made), the packed
//! weight `[CO/8, CI/4, K*K, 4, 8]` (see [`Packing`]), the bias `[CO]`. Output `[N, H, W, CO]`. Channels come in fours.
//! Nothing is saved but the inputs, and where memory is not short what Winograd's form made of them. The input gradient is
//! the same convolution with flipped, transposed weights.

pub use super::choice::Form;
use super::common::{bias_gradient, indices};
pub use super::convolution::Packing;
use super::convolution::{Call, Convolution, Start};
use crate::tape::{Array, Case, CaseInput, Mode, Node, Op, Read, Shape, Tape, TensorId};

/// The convolution.
#[derive(Debug, Clone)]
pub struct Conv2d {
    /// 3 or 1.
    pub kernel: usize,
    /// Output channels, a multiple of 4.
    pub out_channels: usize,
    /// Kernels to use; `None` leaves the choice to the device.
    pub form: Option<Form>,
    /// A batch norm follows: in training it takes the mean away, and the bias with it, so that the bias's gradient is zero.
    /// Sums over dy would only find rounding there; nothing is written instead, where flat gradients are zero already. And it
    /// wants the moments of y, which some forms gather as they write it.
    pub centred: bool,
}

impl Conv2d {
    /// A convolution whose kernels are chosen for the device.
    pub fn new(kernel: usize, out_channels: usize) -> Self {
        Self { kernel, out_channels, form: None, centred: false }
    }

    /// The same where a batch norm in training follows.
    pub fn centred(self) -> Self {
        Self { centred: true, ..self }
    }

    fn kernels(&self) -> Convolution {
        Convolution { kernel: self.kernel, out_channels: self.out_channels, form: self.form, squares: false }
    }
}

/// The sources among a convolution's inputs, each with its first channel group.
fn sources(tape: &Tape, inputs: &[TensorId]) -> Vec<(TensorId, usize)> {
    let mut first = 0;
    let with_first = |id: &TensorId| {
        let source = (*id, first);
        first += tape.shape(*id).as_nhwc()[3] / 4;
        source
    };
    inputs[..inputs.len() - 2].iter().map(with_first).collect()
}

/// The same as kernels are to read them.
fn reads(tape: &mut Tape, sources: &[(TensorId, usize)]) -> Vec<(Read, usize)> {
    sources.iter().map(|(x, first)| (tape.read(*x), *first)).collect()
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn label(&self) -> String {
        format!("conv2d {0}x{0}", self.kernel)
    }

    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String> {
        let [sources @ .., weight, bias] = inputs else { return Err("takes sources, weight, bias".into()) };
        let [n, h, w, _] = sources.first().ok_or("takes one or two sources")?.as_nhwc();
        let mut in_channels = 0;
        for source in sources {
            let [n2, h2, w2, c] = source.as_nhwc();
            if [n2, h2, w2] != [n, h, w] || c % 4 != 0 || (sources.len() > 1 && c % 8 != 0) {
                return Err(format!("sources {source} and {} do not go together", sources[0]));
            }
            in_channels += c;
        }
        let packing = Packing { out_channels: self.out_channels, in_channels, kernel: self.kernel };
        if **weight != packing.shape()
            || bias.len() != self.out_channels
            || !self.out_channels.is_multiple_of(4)
        {
            return Err(format!("weight {weight}, bias {bias}: expected {}", packing.shape()));
        }
        Ok(vec![Shape::nhwc(n, h, w, self.out_channels)])
    }

    fn normalises(&self, _input: usize) -> bool {
        true
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        let (weight, bias, y) = (inputs[inputs.len() - 2], inputs[inputs.len() - 1], outputs[0]);
        let sources = sources(tape, inputs);
        let sources = reads(tape, &sources);
        let call = Call {
            sources,
            weight,
            flip_from: None,
            flipped: None,
            bias: Some(bias),
            start: Start::Bias,
            y,
            transformed: None,
            x_squares: false,
            y_squares: false,
            moments: self.centred && matches!(tape.mode(), Mode::Train { .. }),
        };
        let transformed = self.kernels().convolve(tape, &call);
        // On a GPU, where this form is rare, memory is dearer.
        transformed.filter(|_| tape.limits().software && !tape.recomputes()).into_iter().collect()
    }

    fn backward(
        &self,
        tape: &mut Tape,
        node: &Node,
        dy: &[Option<TensorId>],
        needs: &[bool],
    ) -> Vec<Option<TensorId>> {
        let dy = dy[0].expect("one output");
        let count = node.inputs.len();
        let (weight, bias) = (node.inputs[count - 2], node.inputs[count - 1]);
        let mut gradients = vec![None; count];
        let sources = sources(tape, &node.inputs);
        if needs[count - 2] {
            let read = reads(tape, &sources);
            self.kernels().weight_gradient(tape, (&read, node.saved.first().copied()), dy, weight);
        }
        let mut transformed = None;
        for (place, source) in sources.into_iter().enumerate().filter(|(place, _)| needs[*place]) {
            let dx = self.kernels().input_gradient(tape, (dy, &mut transformed), weight, source);
            gradients[place] = Some(dx);
        }
        if needs[count - 1] && !self.centred {
            bias_gradient(tape, dy, bias);
        }
        gradients
    }

    fn reference(&self, inputs: &[Array]) -> Vec<Array> {
        let (sources, weight, bias) =
            (&inputs[..inputs.len() - 2], &inputs[inputs.len() - 2], &inputs[inputs.len() - 1]);
        let [n, h, w, _] = sources[0].shape.as_nhwc();
        let in_channels = sources.iter().map(|s| s.shape.as_nhwc()[3]).sum();
        let packing = Packing { out_channels: self.out_channels, in_channels, kernel: self.kernel };
        let places: Vec<usize> = packing.places().collect();
        let mut y = Array::zeros(Shape::nhwc(n, h, w, self.out_channels));
        let pad = self.kernel / 2;
        for (b, i, j, o) in indices(n, h, w, self.out_channels) {
            let mut total = bias.data[o];
            let mut c0 = 0;
            for source in sources {
                let channels = source.shape.as_nhwc()[3];
                for (di, dj) in
                    (0..self.kernel * self.kernel).map(|tap| (tap / self.kernel, tap % self.kernel))
                {
                    let (hi, wi) = (i + di, j + dj);
                    if hi < pad || wi < pad || hi - pad >= h || wi - pad >= w {
                        continue;
                    }
                    let from = source.at(b, hi - pad, wi - pad, 0);
                    for c in 0..channels {
                        let place = ((o * in_channels + c0 + c) * self.kernel + di) * self.kernel + dj;
                        total += source.data[from + c] * weight.data[places[place]];
                    }
                }
                c0 += channels;
            }
            let at = y.at(b, i, j, o);
            y.data[at] = total;
        }
        vec![y]
    }
}

/// Shapes worth testing and timing.
pub fn cases() -> Vec<Case> {
    // [N, H, W], channels of the sources, output channels, kernel
    let shapes: &[([usize; 3], &[usize], usize, usize)] = &[
        ([1, 1, 1], &[4], 4, 3),
        ([1, 1, 1], &[8], 8, 1),
        ([2, 5, 7], &[4], 8, 3),
        ([1, 3, 9], &[12], 20, 3),
        ([3, 6, 5], &[8, 16], 12, 3),
        ([2, 5, 3], &[8, 8], 8, 1),
        ([1, 9, 2], &[20], 4, 1),
        ([1, 4, 4], &[64], 72, 3),
        ([2, 9, 13], &[8], 24, 3),
        ([1, 6, 5], &[40, 32], 40, 3),
        ([1, 3, 2], &[72], 64, 1),
        ([2, 8, 9], &[12], 40, 1),
    ];
    let mut cases = Vec::new();
    for form in [Form::Direct, Form::Winograd, Form::WinogradTwo, Form::Tiled] {
        for ([n, h, w], sources, out_channels, kernel) in shapes.iter().copied() {
            cases.push(case(form, [n, h, w], sources, out_channels, kernel));
        }
        // Many channels, and two sources of many.
        cases.push(case(form, [1, 4, 6], &[264], 16, 3).forward_only());
        cases.push(case(form, [1, 3, 3], &[128, 128], 8, 3).forward_only());
        cases.push(case(form, [2, 5, 7], &[12], 20, 3).deferred(&[0], true));
        cases.push(case(form, [1, 6, 9], &[8, 16], 8, 3).deferred(&[1], false));
        cases.push(case(form, [2, 5, 3], &[12], 8, 1).deferred(&[0], true));
    }
    // 1x1 by eights where that is so: ragged in pixels and in outputs, normalised, of two sources, of many inputs.
    cases.push(case(Form::Direct, [1, 9, 11], &[16], 72, 1));
    cases.push(case(Form::Direct, [1, 9, 11], &[24], 64, 1).deferred(&[0], true));
    cases.push(case(Form::Direct, [2, 5, 3], &[8, 16], 24, 1));
    cases.push(case(Form::Direct, [1, 8, 9], &[1024], 64, 1).forward_only());
    // Enough work for 64 outputs a lane of a processor.
    cases.push(case(Form::Direct, [1, 63, 66], &[256], 64, 1).forward_only());
    cases.push(case(Form::Winograd, [1, 31, 33], &[256], 128, 3).forward_only());
    cases.push(centred(Form::Tiled, [2, 5, 7], &[8, 16], 12));
    cases.push(centred(Form::Winograd, [2, 8, 12], &[8, 16], 12));
    cases.push(centred(Form::Winograd, [1, 5, 8], &[8], 12));
    cases.push(centred(Form::WinogradTwo, [2, 6, 4], &[8, 16], 24));
    // Few channels: two sources, more tiles than lanes, normalised.
    cases.push(case(Form::Direct, [2, 5, 7], &[8, 8], 16, 3));
    cases.push(case(Form::Direct, [3, 17, 23], &[8], 8, 3).deferred(&[0], true));
    // Runs of 32 pixels: shorter than one, one, one and a pixel, two.
    for (image, sources, out_channels) in [
        ([2, 9, 13], vec![8], 24),
        ([1, 5, 32], vec![24], 8),
        ([1, 4, 33], vec![8, 16], 16),
        ([2, 3, 64], vec![8], 8),
        ([12, 2, 3], vec![8], 16),
        // Two splits, of which the second begins within a row and goes on beyond the last one.
        ([1, 43, 70], vec![8], 8),
        ([1, 2, 3], vec![40, 72], 72),
    ] {
        cases.push(case(Form::MatrixRows, image, &sources, out_channels, 3));
    }
    cases.push(case(Form::MatrixRows, [2, 9, 35], &[24], 8, 3).deferred(&[0], true));
    // Whole patches of both kinds, several down and across, of two images and two sources; and one with a ragged edge on each side.
    cases.push(centred(Form::MatrixRows, [2, 16, 32], &[8, 24], 72));
    cases.push(centred(Form::MatrixRows, [2, 32, 16], &[24], 16));
    cases.push(case(Form::MatrixRows, [2, 17, 18], &[24], 72, 3).deferred(&[0], true).forward_only());
    cases.push(case(Form::MatrixRows, [1, 7, 31], &[16, 8], 136, 3).forward_only());
    cases.push(case(Form::MatrixRows, [1, 6, 9], &[8, 16], 8, 3).deferred(&[1], false).forward_only());
    for form in Form::MATRIX {
        if !form.is_for_3x3_alone() {
            cases.push(case(form, [1, 1, 1], &[8], 8, 1));
        }
        cases.push(case(form, [2, 9, 13], &[8], 24, 3));
        // Several images a step, and several splits.
        cases.push(case(form, [12, 2, 3], &[8], 16, 3));
        cases.push(case(form, [1, 40, 40], &[8], 8, 3));
        cases.push(case(form, [1, 3, 5], &[40, 136], 136, 3).forward_only());
        cases.push(case(form, [2, 9, 13], &[24], 8, 3).deferred(&[0], true));
        cases.push(case(form, [1, 3, 5], &[40, 136], 136, 3).deferred(&[0], false).forward_only());
        cases.push(centred(form, [2, 5, 7], &[8, 16], 24));
    }
    cases
}

fn case(form: Form, [n, h, w]: [usize; 3], sources: &[usize], out_channels: usize, kernel: usize) -> Case {
    let in_channels: usize = sources.iter().sum();
    let packing = Packing { out_channels, in_channels, kernel };
    let deviation = 1.0 / ((in_channels * kernel * kernel) as f64).sqrt();
    let mut inputs: Vec<CaseInput> =
        sources.iter().map(|c| CaseInput::activation(Shape::nhwc(n, h, w, *c))).collect();
    inputs.push(CaseInput::weight(packing.shape(), deviation));
    inputs.push(CaseInput::weight(Shape::new([out_channels]), 1.0));
    let op = Conv2d { form: Some(form), ..Conv2d::new(kernel, out_channels) };
    Case::new(format!("{form:?} {kernel}x{kernel} [{n}, {h}, {w}] {sources:?} to {out_channels}"), op, inputs)
}

/// A case that gathers the moments of y, as before a batch norm.
fn centred(form: Form, image: [usize; 3], sources: &[usize], out_channels: usize) -> Case {
    let case = case(form, image, sources, out_channels, 3);
    let op = Conv2d { form: Some(form), ..Conv2d::new(3, out_channels).centred() };
    Case { op: Box::new(op), label: format!("{} with moments", case.label), ..case }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_puts_every_weight_in_a_place_of_its_own() {
        let packing = Packing { out_channels: 12, in_channels: 6, kernel: 3 };
        let mut places: Vec<usize> = packing.places().collect();
        assert!(places.iter().all(|place| *place < packing.shape().len()));
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 12 * 6 * 9);
    }
}
