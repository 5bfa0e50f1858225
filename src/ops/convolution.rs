//! The kernels of convolutions, shared by [`super::conv2d`] and [`super::conv_transpose2d`]: how a convolution becomes
//! dispatches on a device. Competing forms, the input gradient (the same kernels with flipped weights) and the
//! weight gradient (partial sums over image rows, added in a fixed order).
//!
//! A transposed 2x2 convolution with stride 2 is a 1x1 convolution to four times the channels whose result is seen as
//! squares of 2x2 pixels: the same kernels with another address function (`SQUARES`).

use super::choice::{Form, Pass, Question, question};
use super::common::{
    Scatter, block_of, blocks_a_lane, by_eights, four_or_eight, pixel_splits, reading, split_sum,
    splits_of_products, stored, u,
};
use super::filtering::Filtering;
use super::matrix::{self, Tile};
use super::winograd;
use super::winograd_product::by_registers;
use super::{direct, gradient_product};
use crate::gpu::{Kernel, ShaderSource, Variant};
use crate::params;
use crate::tape::{DispatchBuilder, Element, Moments, Prepared, Read, Shape, Tape, TensorId};

/// For four channels at once and for eight.
const PIXEL: [ShaderSource; 2] =
    four_or_eight!("conv2d_pixel", "lane4\n#import read4", "lane8\n#import read8");
const TILED: ShaderSource =
    ShaderSource { name: "conv2d_tiled", text: include_str!("../../shaders/conv2d_tiled.wgsl") };
const FLIP: ShaderSource =
    ShaderSource { name: "conv2d_flip", text: include_str!("../../shaders/conv2d_flip.wgsl") };
const GRADIENT: ShaderSource = ShaderSource {
    name: "conv2d_weight_gradient",
    text: include_str!("../../shaders/conv2d_weight_gradient.wgsl"),
};

/// The shaders of the forms that compete, but for Winograd's.
pub(super) const SOURCES: &[ShaderSource] = &[PIXEL[0], PIXEL[1], TILED, FLIP, GRADIENT];

params! {
    struct PixelParams {
        pixels: u32, width: u32, x_groups: u32, weight_groups: u32, weight_first: u32, blocks: u32,
        out_groups: u32,
    }
}

params! {
    struct TiledParams {
        pixels: u32, height: u32, width: u32, x_groups: u32, weight_groups: u32, weight_first: u32,
        blocks: u32, out_groups: u32, pixel_tiles: u32, start_from: u32, moments_first: u32,
    }
}

params! {
    struct GradientParams {
        height: u32, width: u32, x_groups: u32, out_groups: u32, rows: u32, rows_per_split: u32, splits: u32,
        split_first: u32, blocks: u32,
    }
}

params! {
    struct FlipJob {
        first_group: u32, weight_at: u32, result_at: u32, taps: u32, x_groups: u32, out_groups: u32, weight_groups: u32,
        weight_first: u32,
    }
}

/// The packed layout of a convolution's weight: `[CO/8][CI/4][K*K][4][8]`, output channels innermost, zeros where CO or
/// CI is rounded up.
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

    /// Place in the packed weight of an output channel, an input channel and a tap.
    pub fn place(&self, o: usize, c: usize, tap: usize) -> usize {
        let (groups, taps) = (self.in_channels.div_ceil(4), self.kernel * self.kernel);
        (((o / 8 * groups + c / 4) * taps + tap) * 4 + c % 4) * 8 + o % 8
    }

    /// Place in the packed weight of each element of PyTorch's [CO, CI, K, K], in that order.
    pub fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let (packing, taps) = (*self, self.kernel * self.kernel);
        (0..self.out_channels * self.in_channels * taps).map(move |index| {
            let (tap, channels) = (index % taps, index / taps);
            packing.place(channels / packing.in_channels, channels % packing.in_channels, tap)
        })
    }
}

/// What the kernels of one convolution need to know.
#[derive(Debug, Clone, Copy)]
pub(super) struct Convolution {
    /// 3 or 1.
    pub kernel: usize,
    /// Output channels; of a transposed convolution, those of all four pixels of a square.
    pub out_channels: usize,
    /// Kernels to use; `None` leaves the choice to the device's limits.
    pub form: Option<Form>,
    /// The large side of a transposed convolution is y.
    pub squares: bool,
}

/// One convolution: the sources, each with its place among the weight's groups of channels, and the rest.
pub(super) struct Call {
    pub sources: Vec<(Read, usize)>,
    pub weight: TensorId,
    /// For an input gradient: `weight` is that of the forward pass, to be taken flipped and with input and output
    /// channels exchanged, for the input channels that start at this group.
    pub flip_from: Option<usize>,
    /// The weight as that takes it, for forms that want it made.
    pub flipped: Option<Prepared>,
    pub bias: Option<TensorId>,
    /// What the sums are added to: [`Start::Bias`] where there is one.
    pub start: Start,
    pub y: TensorId,
    /// Winograd's transformed sources, where a call with the same sources has left them.
    pub transformed: Option<TensorId>,
    /// `x` is [N, 2 H, 2 W, C] seen as [N, H, W, 4 C].
    pub x_squares: bool,
    /// The same of `y`.
    pub y_squares: bool,
    /// A batch norm wants the moments of `y`: a form that has it in registers gathers them.
    pub moments: bool,
}

impl Call {
    /// Where the moments of y go that the source at `place` gathers by tiles of so many pixels: none where they are not
    /// wanted, or more sources are to be added.
    pub(super) fn gathers(
        &self,
        tape: &mut Tape,
        place: usize,
        slices: usize,
        slice_pixels: usize,
        tile_pixels: usize,
    ) -> Option<Moments> {
        if !self.moments || place + 1 < self.sources.len() {
            return None;
        }
        let (splits, channels) = (slice_pixels.div_ceil(tile_pixels), tape.shape(self.y).as_nhwc()[3]);
        let part = tape.transient("moments part", Shape::new([slices * splits, 2, channels]));
        let moments = Moments { part, splits, slice_pixels, split_pixels: tile_pixels };
        tape.note_moments(self.y, moments);
        Some(moments)
    }

    /// Blocks of output channels and groups of input channels of the weight as this call sees it.
    pub(super) fn weight_dims(&self, tape: &Tape) -> [usize; 2] {
        match self.flip_from {
            Some(_) => {
                let read = seen(tape, self.sources[0].0.tensor, self.x_squares)[3];
                [tape.shape(self.y).as_nhwc()[3].div_ceil(8), read / 4]
            }
            None => [tape.shape(self.weight).dims()[0], tape.shape(self.weight).dims()[1]],
        }
    }
}

impl DispatchBuilder<'_> {
    /// Binds a convolution's weight, flipped where it has to be.
    pub(super) fn weight_of(self, call: &Call) -> Self {
        match call.flipped {
            Some(flipped) => self.prepared(flipped),
            None => self.tensor(call.weight),
        }
    }
}

/// One source of a convolution.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub x: Read,
    pub first: usize,
    pub start: Start,
    /// Its place among the sources.
    pub place: usize,
}

/// What the sums are added to, as the shaders number it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Bias = 0,
    Y = 1,
    Zero = 2,
}

/// `[N, H, W, C]` of a tensor, or of its 2x2 squares as [N, H/2, W/2, 4 C].
pub(super) fn seen(tape: &Tape, id: TensorId, squares: bool) -> [usize; 4] {
    let [n, h, w, c] = tape.shape(id).as_nhwc();
    if squares { [n, h / 2, w / 2, 4 * c] } else { [n, h, w, c] }
}

impl Convolution {
    /// The form asked for, where the device can; else what was measured to be the fastest, else the device's usual one.
    fn form(&self, tape: &mut Tape, question: &Question) -> Form {
        if let Some(form) = self.form.filter(|form| question.allows(*form, tape.limits())) {
            return form;
        }
        question.ask(tape).unwrap_or_else(|| question.default_form(tape))
    }

    fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    fn variant(&self, tape: &Tape, call: &Call, x: Read) -> Variant {
        stored(stored(reading(Variant::new(), x), "X", tape, x.tensor), "Y", tape, call.y)
            .with("X_SQUARES", call.x_squares)
            .with("Y_SQUARES", call.y_squares)
    }

    /// `y = conv(sources, weight) + bias`. Returns the transformed sources, where this form has them whole: they serve
    /// [`Call::transformed`] and [`Convolution::weight_gradient`].
    pub(super) fn convolve(&self, tape: &mut Tape, call: &Call) -> Option<TensorId> {
        let pass = if call.flip_from.is_some() { Pass::InputGradient } else { Pass::Forward };
        let sources: Vec<Read> = call.sources.iter().map(|(x, _)| *x).collect();
        let question = question(tape, (pass, self.kernel, self.squares), &sources, call.y);
        let form = self.form(tape, &question);
        if let Some(filtering) = Filtering::of(form) {
            return winograd::convolve(tape, call, filtering);
        }
        match (form, call.flip_from) {
            (form, _) if form.is_matrix() => {
                let tile = Tile::of(form, pass, question.out_channels);
                matrix::convolve(tape, call, self.kernel, tile);
            }
            (form, Some(first)) => {
                let flipped = Some(self.flipped_weight(tape, call, first));
                let sources = call.sources.clone();
                self.convolve_plainly(tape, &Call { sources, flipped, ..*call }, form);
            }
            (form, None) => self.convolve_plainly(tape, call, form),
        }
        None
    }

    fn convolve_plainly(&self, tape: &mut Tape, call: &Call, form: Form) {
        for (place, (x, first)) in call.sources.iter().enumerate() {
            let start = if place == 0 { call.start } else { Start::Y };
            let source = Source { x: *x, first: *first, start, place };
            match form {
                Form::Direct if self.kernel == 1 => self.convolve_pixels(tape, call, source),
                Form::Direct => direct::convolve(tape, call, source),
                _ => self.convolve_tiled(tape, call, source),
            }
        }
    }

    fn convolve_tiled(&self, tape: &mut Tape, call: &Call, source: Source) {
        const TILE_PIXELS: usize = 128;
        const TILE_BLOCKS: usize = 8;
        const STEP_CHANNELS: usize = 16;
        let x = source.x.tensor;
        let [_, h, w, cx] = seen(tape, x, call.x_squares);
        let co = seen(tape, call.y, call.y_squares)[3];
        let [blocks, weight_groups] = call.weight_dims(tape);
        let slices = tape.image_slices(&[x, call.y]);
        let moments = call.gathers(tape, source.place, slices.len(), slices[0].len() * h * w, TILE_PIXELS);
        let entry = if moments.is_some() { "forward_moments" } else { "forward" };
        // The first layer has few: a step's others would be multiplied in vain. Some of them are where registers are few, since Intel's
        // driver unrolls a loop of few rounds.
        let least = if tape.limits().few_registers { 12 } else { 0 };
        let variant =
            self.variant(tape, call, source.x).with("PRODUCT_USED", u(cx.clamp(least, STEP_CHANNELS)));
        let variant = by_registers(variant, tape);
        let kernel = Kernel::new(TILED, entry, variant.with("K", u(self.kernel)));
        for (slice, images) in slices.into_iter().enumerate() {
            let pixels = images.len() * h * w;
            let params = TiledParams {
                pixels: pixels as u32,
                height: h as u32,
                width: w as u32,
                x_groups: (cx / 4) as u32,
                weight_groups: weight_groups as u32,
                weight_first: source.first as u32,
                blocks: blocks as u32,
                out_groups: (co / 4) as u32,
                pixel_tiles: pixels.div_ceil(TILE_PIXELS) as u32,
                start_from: source.start as u32,
                moments_first: moments.map_or(0, |moments| (slice * moments.splits) as u32),
            };
            tape.dispatch(kernel.clone())
                .images(x, &images)
                .weight_of(call)
                .tensor(call.bias.unwrap_or(call.weight))
                .images(call.y, &images)
                .read_and_written(source.start == Start::Y)
                .coefficients(source.x, call.weight)
                .also(moments.map(|moments| moments.part))
                .params(&params)
                .flops(2 * pixels * cx * co * self.taps())
                .groups(pixels.div_ceil(TILE_PIXELS) * blocks.div_ceil(TILE_BLOCKS));
        }
    }

    /// The direct form of a 1x1 convolution.
    fn convolve_pixels(&self, tape: &mut Tape, call: &Call, source: Source) {
        let x = source.x.tensor;
        let [_, h, w, cx] = seen(tape, x, call.x_squares);
        let co = seen(tape, call.y, call.y_squares)[3];
        let [blocks, weight_groups] = call.weight_dims(tape);
        let by_eights = by_eights(tape, &[x, call.y]);
        for images in tape.image_slices(&[x, call.y]) {
            let pixels = images.len() * h * w;
            // As many a lane as leave no lane of a subgroup idle.
            let pixels_each = block_of(pixels / 8, if tape.limits().few_registers { 4 } else { 8 });
            let flops = 2 * pixels * cx * co;
            let blocks_each = match tape.limits().software {
                true if by_eights => blocks_a_lane(blocks, flops),
                true => block_of(blocks, 4),
                // What a GPU's invocation can hold in registers is half as much.
                false => block_of(blocks, 2),
            };
            let variant = self.variant(tape, call, source.x);
            let variant = variant
                .with("V_FLOATS", u(if by_eights { 8 } else { 4 }))
                .with("PIXELS", u(pixels_each))
                .with("BLOCKS", u(blocks_each))
                .with("START", u(source.start as usize));
            let params = PixelParams {
                pixels: pixels as u32,
                width: w as u32,
                x_groups: (cx / 4) as u32,
                weight_groups: weight_groups as u32,
                weight_first: source.first as u32,
                blocks: blocks as u32,
                out_groups: (co / 4) as u32,
            };
            tape.dispatch(Kernel::new(PIXEL[usize::from(by_eights)], "forward", variant))
                .images(x, &images)
                .weight_of(call)
                .tensor(call.bias.unwrap_or(call.weight))
                .images(call.y, &images)
                .read_and_written(source.start == Start::Y)
                .coefficients(source.x, call.weight)
                .params(&params)
                .flops(flops)
                .groups(pixels.div_ceil(pixels_each * 8) * blocks.div_ceil(blocks_each));
        }
    }

    /// Weights of the input gradient for one source: flipped, with input and output channels exchanged.
    fn flipped_weight(&self, tape: &mut Tape, call: &Call, first: usize) -> Prepared {
        let (cx, co) = (tape.shape(call.y).as_nhwc()[3], self.out_channels);
        let job = FlipJob {
            taps: self.taps() as u32,
            x_groups: (cx / 4) as u32,
            out_groups: (co / 4) as u32,
            weight_groups: tape.shape(call.weight).dims()[1] as u32,
            weight_first: first as u32,
            ..bytemuck::Zeroable::zeroed()
        };
        let len = Packing { out_channels: cx, in_channels: co, kernel: self.kernel }.shape().len();
        let kernel = Kernel::new(FLIP, "flip", Variant::new());
        tape.prepare(kernel, call.weight, &job, (len, Element::F32), len / 16)
    }

    /// Records the weight's gradient, for all sources; `transformed` is what the forward pass left of them.
    pub(super) fn weight_gradient(
        &self,
        tape: &mut Tape,
        (sources, transformed): (&[(Read, usize)], Option<TensorId>),
        dy: TensorId,
        weight: TensorId,
    ) {
        let read: Vec<Read> = sources.iter().map(|(x, _)| *x).collect();
        let question = question(tape, (Pass::WeightGradient, self.kernel, self.squares), &read, dy);
        let form = self.form(tape, &question);
        if let Some(filtering) = Filtering::of(form) {
            return winograd::weight_gradient(tape, (sources, transformed), (dy, weight), filtering);
        }
        let by_pixels = form != Form::Tiled && self.kernel == 1;
        for (x, first) in sources {
            if form.is_matrix() {
                let tile = Tile::of(form, Pass::WeightGradient, self.out_channels);
                matrix::weight_gradient(tape, (*x, *first), dy, weight, (self.kernel, self.squares, tile));
                continue;
            }
            if by_pixels && self.out_channels.is_multiple_of(8) {
                gradient_product::pixel_weight_gradient(tape, (*x, *first), dy, weight, self.squares);
            } else {
                self.direct_weight_gradient(tape, *x, dy, weight, *first);
            }
        }
    }

    fn direct_weight_gradient(
        &self,
        tape: &mut Tape,
        source: Read,
        dy: TensorId,
        weight: TensorId,
        first: usize,
    ) {
        let x = source.tensor;
        let [n, h, w, cx] = tape.shape(x).as_nhwc();
        let co = self.out_channels;
        let (blocks, row_groups) = (co.div_ceil(8), tape.shape(weight).dims()[1]);
        // On a GPU a row of taps keeps the sums in registers; where registers spill anyway, fewer loads win.
        let tap_rows = if tape.limits().software { self.kernel } else { 1 };
        let tap_row_count = self.kernel / tap_rows;
        let halves = if tape.limits().few_registers { 1 } else { 2 };
        let slices = tape.image_slices(&[x, dy]);
        let lanes = cx / 4 * (2 * blocks / halves) * tap_row_count;
        let unit = self.taps() * 32;
        // A driver that unrolls nothing also counts the loops over taps.
        let rows = (slices[0].len() * h, w * (1 + 2 * tap_rows * self.kernel));
        let flops = 2 * n * h * w * cx * co * self.taps();
        let len = slices.len() * blocks * cx / 4 * unit;
        let splits = match cx {
            // The first layer leaves a GPU waiting for loads, as a sum over pixels does.
            4 if !tape.limits().software => pixel_splits(tape, rows.0, lanes, 1, len),
            _ => splits_of_products(tape, rows, (lanes, flops), 1, len),
        };
        let part = tape.transient("weight part", Shape::new([splits * slices.len(), blocks, cx / 4, unit]));
        let variant = stored(stored(reading(Variant::new(), source), "X", tape, x), "Y", tape, dy)
            .with("K", u(self.kernel))
            .with("TAP_ROWS", u(tap_rows))
            .with("HALVES", u(halves))
            .with("Y_SQUARES", self.squares);
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
                blocks: blocks as u32,
            };
            tape.dispatch(kernel.clone())
                .images(x, images)
                .images(dy, images)
                .tensor(part)
                .coefficients(source, weight)
                .params(&params)
                .flops(2 * rows * w * cx * co * self.taps())
                .invocations(lanes * splits);
        }
        let target = tape.weight_gradient(weight);
        let scatter = Scatter { unit, from_groups: cx / 4, to_groups: row_groups, first };
        split_sum(tape, part, target, scatter);
    }

    /// Records the gradient of a source, whose channels start at this group of the weight's; `transformed` passes what is
    /// left of dy on from one source to the next.
    pub(super) fn input_gradient(
        &self,
        tape: &mut Tape,
        (dy, transformed): (TensorId, &mut Option<TensorId>),
        weight: TensorId,
        (x, first): (TensorId, usize),
    ) -> TensorId {
        let shape = tape.shape(x).clone();
        let so_far = tape.gradient_so_far(x);
        let dx = so_far.unwrap_or_else(|| tape.activation("dx", shape));
        let call = Call {
            sources: vec![(dy.into(), 0)],
            weight,
            flip_from: Some(first),
            flipped: None,
            start: if so_far.is_some() { Start::Y } else { Start::Zero },
            bias: None,
            y: dx,
            transformed: *transformed,
            x_squares: self.squares,
            y_squares: false,
            moments: false,
        };
        *transformed = self.convolve(tape, &call).or(*transformed);
        dx
    }
}
