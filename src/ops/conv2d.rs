//! 2-D convolution, stride 1, "same" padding, kernel 3x3 or 1x1, with bias (`torch.nn.Conv2d`).
//!
//! `y[n,h,w,o] = b[o] + sum over (i,j,c) of x[n,h+i-P,w+j-P,c] * weight[o,c,i,j]`, P = K/2.
//!
//! Inputs: one or two sources `x` [N, H, W, CX] (two are the channel concatenation, which is never made), the packed
//! weight [CO/8, CI/4, K*K, 4, 8] (see [`Packing`]), the bias [CO]. Output [N, H, W, CO]. Channels come in fours.
//! Nothing is saved but the inputs. The input gradient is the same convolution with flipped, transposed weights.

use super::common::{Scatter, bias_gradient, split_sum, splits_for, u};
use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::params;
use crate::tape::{Array, Case, CaseInput, Node, Op, Shape, Tape, TensorId};

const DIRECT: ShaderSource =
    ShaderSource { name: "conv2d_direct", text: include_str!("../../shaders/conv2d_direct.wgsl") };
const TILED: ShaderSource =
    ShaderSource { name: "conv2d_tiled", text: include_str!("../../shaders/conv2d_tiled.wgsl") };
const GRADIENT: ShaderSource = ShaderSource {
    name: "conv2d_weight_gradient",
    text: include_str!("../../shaders/conv2d_weight_gradient.wgsl"),
};

/// Bytes of 4 input x 8 output channels of one tap, the packed weight's unit.
const UNIT_BYTES: usize = 128;
/// Bindings start on multiples of this.
const BINDING_ALIGNMENT: usize = 256;

params! {
    struct DirectParams {
        images: u32, height: u32, width: u32, x_groups: u32, x_first: u32, slice_groups: u32, out_channels: u32,
        block_first: u32, tile_rows: u32, tile_cols: u32, groups_per_block: u32, blocks: u32,
        weight_skip: u32, start_from: u32,
    }
}

params! {
    struct TiledParams {
        pixels: u32, height: u32, width: u32, x_groups: u32, weight_groups: u32, weight_first: u32,
        blocks: u32, out_groups: u32, pixel_tiles: u32, start_from: u32,
    }
}

params! {
    struct GradientParams {
        height: u32, width: u32, x_groups: u32, out_groups: u32, rows: u32, rows_per_split: u32, splits: u32,
        split_first: u32, weight_groups: u32, weight_first: u32, blocks: u32,
    }
}

/// Which kernels compute the convolution. All give the same result up to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Register tiles, weights through uniform bindings: where loads cost more than arithmetic.
    Direct,
    /// Implicit matrix product with tiles in workgroup memory: where arithmetic units wait for memory.
    Tiled,
}

/// The convolution.
#[derive(Debug, Clone)]
pub struct Conv2d {
    /// 3 or 1.
    pub kernel: usize,
    /// Output channels, a multiple of 4.
    pub out_channels: usize,
    /// Kernels to use; `None` leaves the choice to the device's limits.
    pub form: Option<Form>,
}

/// The packed layout of a convolution's weight: [CO/8][CI/4][K*K][4][8], output channels innermost, zeros where CO or
/// CI is rounded up. A slice of input channels of one block is contiguous, so that it can be a uniform binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// Output channels.
    pub out_channels: usize,
    /// Input channels of all sources.
    pub in_channels: usize,
    /// 3 or 1.
    pub kernel: usize,
}

impl Packing {
    /// Shape of the packed weight.
    pub fn shape(&self) -> Shape {
        let taps = self.kernel * self.kernel;
        Shape::new([self.out_channels.div_ceil(8), self.in_channels.div_ceil(4), taps, 4, 8])
    }

    /// Place in the packed weight of each element of PyTorch's [CO, CI, K, K], in that order.
    pub fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let Self { out_channels, in_channels, kernel } = *self;
        let (groups, taps) = (in_channels.div_ceil(4), kernel * kernel);
        (0..out_channels * in_channels * taps).map(move |index| {
            let (tap, c, o) = (index % taps, (index / taps) % in_channels, index / (taps * in_channels));
            (((o / 8 * groups + c / 4) * taps + tap) * 4 + c % 4) * 8 + o % 8
        })
    }
}

impl Conv2d {
    /// A convolution whose kernels are chosen for the device.
    pub fn new(kernel: usize, out_channels: usize) -> Self {
        Self { kernel, out_channels, form: None }
    }

    fn form(&self, tape: &Tape) -> Form {
        self.form.unwrap_or(if tape.limits().software { Form::Direct } else { Form::Tiled })
    }

    fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// `y = conv(x, weight) + bias`, for the channels of one source; `first` is its place among the weight's channel
    /// groups.
    fn convolve(&self, tape: &mut Tape, call: Call) {
        match self.form(tape) {
            Form::Direct => self.convolve_direct(tape, call),
            Form::Tiled => self.convolve_tiled(tape, call),
        }
    }

    fn convolve_tiled(&self, tape: &mut Tape, call: Call) {
        const TILE_PIXELS: usize = 128;
        const TILE_BLOCKS: usize = 8;
        let [_, h, w, cx] = tape.shape(call.x).as_nhwc();
        let co = tape.shape(call.y).as_nhwc()[3];
        let (blocks, weight_groups) = (tape.shape(call.weight).dims()[0], tape.shape(call.weight).dims()[1]);
        let kernel = Kernel::new(TILED, "forward", Variant::new().with("K", u(self.kernel)));
        for images in tape.image_slices(&[call.x, call.y]) {
            let pixels = images.len() * h * w;
            let params = TiledParams {
                pixels: pixels as u32,
                height: h as u32,
                width: w as u32,
                x_groups: (cx / 4) as u32,
                weight_groups: weight_groups as u32,
                weight_first: call.first as u32,
                blocks: blocks as u32,
                out_groups: (co / 4) as u32,
                pixel_tiles: pixels.div_ceil(TILE_PIXELS) as u32,
                start_from: call.start as u32,
            };
            tape.dispatch(kernel.clone())
                .images(call.x, &images)
                .tensor(call.weight)
                .tensor(call.bias)
                .images(call.y, &images)
                .params(&params)
                .flops(2 * pixels * cx * co * self.taps())
                .groups(pixels.div_ceil(TILE_PIXELS) * blocks.div_ceil(TILE_BLOCKS));
        }
    }

    fn convolve_direct(&self, tape: &mut Tape, call: Call) {
        let cx = tape.shape(call.x).as_nhwc()[3];
        let blocks = tape.shape(call.weight).dims()[0];
        for images in tape.image_slices(&[call.x, call.y]) {
            for slice in self.weight_slices(tape, call.weight, call.first, cx / 4, blocks) {
                self.dispatch_direct(tape, &call, &images, &slice);
            }
        }
    }

    /// Cuts a source's weights into what fits a uniform binding: several blocks of output channels with all of the
    /// channels, or one block with a part of them.
    fn weight_slices(
        &self,
        tape: &Tape,
        weight: TensorId,
        first: usize,
        groups: usize,
        blocks: usize,
    ) -> Vec<WeightSlice> {
        let limit = tape.limits().uniform_binding_bytes as usize - BINDING_ALIGNMENT;
        let row_bytes = groups * self.taps() * UNIT_BYTES;
        let whole_rows = tape.shape(weight).dims()[1] == groups;
        let (step, part) = if whole_rows && row_bytes <= limit {
            (limit / row_bytes, groups)
        } else {
            (1, groups.div_ceil(row_bytes.div_ceil(limit)))
        };
        (0..blocks)
            .step_by(step)
            .flat_map(|block| (0..groups).step_by(part).map(move |from| (block, from)))
            .map(|(block, from)| WeightSlice {
                block,
                blocks: step.min(blocks - block),
                first: first + from,
                groups: part.min(groups - from),
                from,
            })
            .collect()
    }

    fn dispatch_direct(
        &self,
        tape: &mut Tape,
        call: &Call,
        images: &std::ops::Range<usize>,
        slice: &WeightSlice,
    ) {
        let (rows, cols) = if self.kernel == 3 { (2, 4) } else { (1, 8) };
        let [_, h, w, cx] = tape.shape(call.x).as_nhwc();
        let co = tape.shape(call.y).as_nhwc()[3];
        let row_groups = tape.shape(call.weight).dims()[1];
        let group_bytes = self.taps() * UNIT_BYTES;
        let start = (slice.block * row_groups + slice.first) * group_bytes;
        let skip = start % BINDING_ALIGNMENT;
        let slice_bytes = skip + slice.blocks * slice.groups * group_bytes;
        let variant = Variant::new()
            .with("K", u(self.kernel))
            .with("ROWS", u(rows))
            .with("COLS", u(cols))
            .with("SLICE", u(slice_bytes / 16));
        let (tile_rows, tile_cols) = (h.div_ceil(rows), w.div_ceil(cols));
        let groups_per_block = (images.len() * tile_rows * tile_cols).div_ceil(64);
        let params = DirectParams {
            images: images.len() as u32,
            height: h as u32,
            width: w as u32,
            x_groups: (cx / 4) as u32,
            x_first: slice.from as u32,
            slice_groups: slice.groups as u32,
            out_channels: co as u32,
            block_first: slice.block as u32,
            tile_rows: tile_rows as u32,
            tile_cols: tile_cols as u32,
            groups_per_block: groups_per_block as u32,
            blocks: slice.blocks as u32,
            weight_skip: (skip / 16) as u32,
            start_from: if slice.from > 0 { Start::Y } else { call.start } as u32,
        };
        let outputs = (slice.blocks * 8).min(co - slice.block * 8);
        tape.dispatch(Kernel::new(DIRECT, "forward", variant))
            .images(call.x, images)
            .range(call.weight, (start - skip) as u64, slice_bytes as u64)
            .tensor(call.bias)
            .images(call.y, images)
            .params(&params)
            .flops(2 * images.len() * h * w * slice.groups * 4 * outputs * self.taps())
            .groups(groups_per_block * slice.blocks);
    }

    /// Weights of the input gradient for one source: flipped, with input and output channels exchanged.
    fn flipped_weight(&self, tape: &mut Tape, weight: TensorId, first: usize, cx: usize) -> TensorId {
        let co = self.out_channels;
        let shape = Packing { out_channels: cx, in_channels: co, kernel: self.kernel }.shape();
        let params = GradientParams {
            x_groups: (cx / 4) as u32,
            out_groups: (co / 4) as u32,
            weight_groups: tape.shape(weight).dims()[1] as u32,
            weight_first: first as u32,
            ..bytemuck::Zeroable::zeroed()
        };
        let len = shape.len();
        let flipped = tape.transient("flipped", shape);
        let variant = Variant::new().with("K", u(self.kernel)).with("TAP_ROWS", u(self.kernel));
        let kernel = Kernel::new(GRADIENT, "flip", variant);
        tape.dispatch(kernel).tensor(weight).tensor(flipped).params(&params).invocations(len);
        flipped
    }

    fn weight_gradient(&self, tape: &mut Tape, x: TensorId, dy: TensorId, weight: TensorId, first: usize) {
        let [_, h, w, cx] = tape.shape(x).as_nhwc();
        let co = self.out_channels;
        let (blocks, row_groups) = (co.div_ceil(8), tape.shape(weight).dims()[1]);
        // On a GPU a row of taps keeps the sums in registers; where registers spill anyway, fewer loads win.
        let tap_rows = if tape.limits().software { self.kernel } else { 1 };
        let tap_row_count = self.kernel / tap_rows;
        let slices = tape.image_slices(&[x, dy]);
        let lanes = cx / 4 * blocks * tap_row_count;
        let splits = splits_for(tape, slices[0].len() * h, lanes, 1);
        let unit = self.taps() * 32;
        let part = tape.transient("weight part", Shape::new([splits * slices.len(), blocks, cx / 4, unit]));
        let variant = Variant::new().with("K", u(self.kernel)).with("TAP_ROWS", u(tap_rows));
        let kernel = Kernel::new(GRADIENT, "weight_gradient", variant);
        for (place, images) in slices.iter().enumerate() {
            let rows = images.len() * h;
            let params = GradientParams {
                height: h as u32,
                width: w as u32,
                x_groups: (cx / 4) as u32,
                out_groups: (co / 4) as u32,
                rows: rows as u32,
                rows_per_split: rows.div_ceil(splits) as u32,
                splits: splits as u32,
                split_first: (place * splits) as u32,
                weight_groups: row_groups as u32,
                weight_first: first as u32,
                blocks: blocks as u32,
            };
            tape.dispatch(kernel.clone())
                .images(x, images)
                .images(dy, images)
                .tensor(part)
                .params(&params)
                .flops(2 * rows * w * cx * co * self.taps())
                .invocations(lanes * splits);
        }
        let target = tape.weight_gradient(weight);
        let scatter = Scatter { unit, from_groups: cx / 4, to_groups: row_groups, first };
        split_sum(tape, part, target, scatter);
    }

    fn input_gradient(&self, tape: &mut Tape, dy: TensorId, weight: TensorId, first: usize, x: TensorId) -> TensorId {
        let shape = tape.shape(x).clone();
        let cx = shape.as_nhwc()[3];
        let flipped = self.flipped_weight(tape, weight, first, cx);
        let dx = tape.transient("dx", shape);
        // The bias is bound but not read.
        self.convolve(tape, Call { x: dy, weight: flipped, first: 0, bias: flipped, y: dx, start: Start::Zero });
        dx
    }
}

/// One source of a convolution.
struct Call {
    x: TensorId,
    weight: TensorId,
    first: usize,
    bias: TensorId,
    y: TensorId,
    start: Start,
}

/// What the sums are added to, as the shaders number it.
#[derive(Debug, Clone, Copy)]
enum Start {
    Bias = 0,
    Y = 1,
    Zero = 2,
}

/// A part of the packed weights that fits a uniform binding.
#[derive(Debug, PartialEq, Eq)]
struct WeightSlice {
    /// First block of 8 output channels.
    block: usize,
    /// Blocks.
    blocks: usize,
    /// First group of 4 channels among those of the weight.
    first: usize,
    /// Groups of 4 channels.
    groups: usize,
    /// First group among those of the source.
    from: usize,
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

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
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
        if **weight != packing.shape() || bias.len() != self.out_channels || self.out_channels % 4 != 0 {
            return Err(format!("weight {weight}, bias {bias}: expected {}", packing.shape()));
        }
        Ok(vec![Shape::nhwc(n, h, w, self.out_channels)])
    }

    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId> {
        let (weight, bias, y) = (inputs[inputs.len() - 2], inputs[inputs.len() - 1], outputs[0]);
        for (x, first) in sources(tape, inputs) {
            let start = if first == 0 { Start::Bias } else { Start::Y };
            self.convolve(tape, Call { x, weight, first, bias, y, start });
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
        let dy = dy[0].expect("one output");
        let count = node.inputs.len();
        let (weight, bias) = (node.inputs[count - 2], node.inputs[count - 1]);
        let mut gradients = vec![None; count];
        for (place, (x, first)) in sources(tape, &node.inputs).into_iter().enumerate() {
            if needs[count - 2] {
                self.weight_gradient(tape, x, dy, weight, first);
            }
            if needs[place] {
                gradients[place] = Some(self.input_gradient(tape, dy, weight, first, x));
            }
        }
        if needs[count - 1] {
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
                for (di, dj) in (0..self.taps()).map(|tap| (tap / self.kernel, tap % self.kernel)) {
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

/// All `[n, h, w, c]` in order.
pub(super) fn indices(
    n: usize,
    h: usize,
    w: usize,
    c: usize,
) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..n * h * w * c).map(move |at| (at / (h * w * c), at / (w * c) % h, at / c % w, at % c))
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
    ];
    let mut cases = Vec::new();
    for form in [Form::Direct, Form::Tiled] {
        for ([n, h, w], sources, out_channels, kernel) in shapes.iter().copied() {
            cases.push(case(form, [n, h, w], sources, out_channels, kernel));
        }
        // More channels than a uniform binding holds, and more pixels than a row of workgroups.
        cases.push(case(form, [1, 4, 6], &[264], 16, 3).forward_only());
        cases.push(case(form, [1, 3, 3], &[128, 128], 8, 3).forward_only());
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
    let op = Conv2d { kernel, out_channels, form: Some(form) };
    Case::new(format!("{form:?} {kernel}x{kernel} [{n}, {h}, {w}] {sources:?} to {out_channels}"), op, inputs)
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
