//! Which kernels compute a convolution: the forms that compete, the question that a convolution asks, and the forms
//! that may answer it on a device. The tuner ([`super::tune`]) answers; without it the device's limits do.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::filtering::Filtering;
use super::{direct, matrix};
use crate::gpu::Limits;
use crate::tape::{Element, Read, Shape, Tape, TensorId, Tuning};

/// Kernels that compute a convolution. All give the same result up to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// Large register tiles, weights broadcast within subgroups of at least 8 lanes: where loads cost more than
    /// arithmetic.
    Direct,
    /// Winograd's F(4x4, 3x3), four times fewer multiplications: on a processor within subgroups likewise, on a GPU through
    /// workgroup memory.
    Winograd,
    /// Winograd's F(2x2, 3x3), 2.25 times fewer: less memory for weights, which counts where there are more of them than of
    /// pixels, and less rounding.
    WinogradTwo,
    /// Implicit matrix product with tiles in workgroup memory: where arithmetic units wait for memory.
    Tiled,
    /// The same on matrix units, 128 rows by 128 outputs a workgroup: weights are rounded to f16, sums are f32.
    Matrix,
    /// The same by 64 outputs.
    MatrixNarrow,
    /// 256 rows by 64 outputs; of a weight's gradient 64 by 64, whose pixels are divided once more.
    MatrixTall,
    /// Of 3x3 convolutions alone: taps share what they read of a patch of the image; of a weight's gradient three of a row do.
    MatrixRows,
}

impl Form {
    /// Every form, in the order in which they are tried.
    pub const ALL: [Self; 8] = [
        Self::Direct,
        Self::Winograd,
        Self::WinogradTwo,
        Self::Tiled,
        Self::Matrix,
        Self::MatrixNarrow,
        Self::MatrixTall,
        Self::MatrixRows,
    ];
    /// Those that run on matrix units.
    pub const MATRIX: [Self; 4] = [Self::Matrix, Self::MatrixNarrow, Self::MatrixTall, Self::MatrixRows];

    /// The form's name in caches and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Winograd => "winograd",
            Self::WinogradTwo => "winograd 2x2",
            Self::Tiled => "tiled",
            Self::Matrix => "matrix",
            Self::MatrixNarrow => "matrix narrow",
            Self::MatrixTall => "matrix tall",
            Self::MatrixRows => "matrix rows",
        }
    }

    /// The form of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.name() == name)
    }

    /// Runs on matrix units.
    pub fn is_matrix(self) -> bool {
        Self::MATRIX.contains(&self)
    }

    /// Computes nothing but plain 3x3 convolutions.
    pub fn is_for_3x3_alone(self) -> bool {
        self == Self::MatrixRows
    }

    /// Whether a device can run any of its kernels, on activations stored as f16 (`half`) or f32; else another form takes its place.
    pub fn runs_on(self, half: bool, limits: Limits) -> bool {
        match self {
            Self::Tiled => true,
            // What is loaded is passed round by broadcast; of Winograd's products by processors alone.
            Self::Direct => limits.subgroup_lanes >= 8,
            Self::Winograd | Self::WinogradTwo => !limits.software || limits.subgroup_lanes >= 8,
            Self::Matrix | Self::MatrixNarrow | Self::MatrixTall | Self::MatrixRows => {
                let passes = [Pass::Forward, Pass::InputGradient, Pass::WeightGradient];
                let mut layers = passes.iter().flat_map(|pass| matrix::OUTS.map(|outs| (*pass, outs)));
                half && layers.any(|layer| matrix::fits(self, layer, limits))
            }
        }
    }

    /// Rounds more than a plain sum does: passed over where `winograd: false` asks for that.
    pub fn is_inexact(self) -> bool {
        Filtering::of(self).is_some()
    }
}

/// What a convolution computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// y from x.
    Forward,
    /// dx from dy.
    InputGradient,
    /// dw from x and dy.
    WeightGradient,
}

/// All that decides which form is fastest, besides the device. Its JSON is the question that the tape is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// What is computed.
    pub pass: Pass,
    /// 3 or 1.
    pub kernel: usize,
    /// A transposed convolution, whose large side is seen as squares of 2x2 pixels with four times the channels.
    pub squares: bool,
    /// Images, rows and columns of the small side.
    pub image: [usize; 3],
    /// Channels of each source that is read (for an input gradient: of dy).
    pub sources: Vec<usize>,
    /// Channels written (for a weight gradient: of dy).
    pub out_channels: usize,
    /// What is read and what is written are stored as f16.
    pub half: bool,
    /// Forms that round more than a plain sum are passed over.
    pub exact: bool,
    /// The sources are normalised as they are read. Not named where they are not, as it was before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub normalised: bool,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.squares, self.kernel) {
            (true, _) => "2x2 transposed".to_owned(),
            (false, k) => format!("{k}x{k}"),
        };
        let pass = match self.pass {
            Pass::Forward => "forward",
            Pass::InputGradient => "input gradient",
            Pass::WeightGradient => "weight gradient",
        };
        let sources: Vec<String> = self.sources.iter().map(usize::to_string).collect();
        let [n, h, w] = self.image;
        let stored = if self.half { "f16" } else { "f32" };
        let read = if self.normalised { " normalised" } else { "" };
        let (sources, out) = (sources.join("+"), self.out_channels);
        write!(f, "{what} {pass} [{n}, {h}, {w}] {sources}{read} to {out} {stored}")
    }
}

impl Question {
    /// Floating-point operations, a multiply-add counted as two, however few of them a form does.
    pub fn flops(&self) -> u64 {
        let pixels: usize = self.image.iter().product();
        let channels: usize = self.sources.iter().sum();
        (2 * self.kernel.pow(2) * pixels * channels * self.out_channels) as u64
    }

    /// The question as the tape and the cache know it.
    pub fn key(&self) -> String {
        serde_json::to_string(self).expect("numbers and words")
    }

    /// The question of a key.
    pub fn from_key(key: &str) -> Option<Self> {
        serde_json::from_str(key).ok()
    }

    /// Asks the tape; an answer that this device or program has no use for is none.
    pub(super) fn ask(&self, tape: &mut Tape) -> Option<Form> {
        // The program notes that it was asked.
        let _ = tape.ask(&self.key());
        self.taken(tape.tuning(), tape.limits())
    }

    /// The form that measurements suggest, where a device with these limits has a use for it.
    pub fn taken(&self, tuning: Tuning, limits: Limits) -> Option<Form> {
        let form = self.answer(tuning)?;
        self.candidates(limits, tuning.banned()).contains(&form).then_some(form)
    }

    /// What was measured for this, or else for the batch that comes nearest: an epoch's last batch, a part of one and the last windows of
    /// a validation have sizes of their own, which are not measured.
    fn answer(&self, tuning: Tuning) -> Option<Form> {
        if let Some(name) = tuning.answer(&self.key()) {
            return Form::named(name);
        }
        let [batch, ..] = self.image;
        let others = tuning.answers().filter_map(|(key, name)| Some((Self::from_key(key)?, name)));
        let of_another_batch =
            others.filter(|(other, _)| Self { image: self.image, ..other.clone() } == *self);
        let same_image = of_another_batch.filter(|(other, _)| other.image[1..] == self.image[1..]);
        // Of two as near the larger, which the device is busier with.
        let nearest = same_image
            .min_by_key(|(other, _)| (batch.abs_diff(other.image[0]), std::cmp::Reverse(other.image[0])));
        Form::named(nearest?.1)
    }

    /// The usual form, or the next that is not banned; where all are, the usual one.
    pub(super) fn default_form(&self, tape: &Tape) -> Form {
        let candidates = self.candidates(tape.limits(), tape.banned());
        candidates.first().copied().unwrap_or_else(|| self.usual(tape.limits()))
    }

    /// The form that the device's limits suggest.
    pub fn usual(&self, limits: Limits) -> Form {
        if !(limits.software && limits.subgroup_lanes >= 8) {
            return Form::Tiled;
        }
        if self.is_narrow() {
            return Form::Direct;
        }
        let preferred = match self.has_more_weights_than_pixels() {
            true => [Form::WinogradTwo, Form::Winograd],
            false => [Form::Winograd, Form::WinogradTwo],
        };
        let fits = |form: &Form| !self.exact && self.winograd_fits(*form, limits);
        preferred.into_iter().find(fits).unwrap_or(Form::Direct)
    }

    /// So few channels that Winograd's transforms are most of its work.
    fn is_narrow(&self) -> bool {
        let is_3x3 = self.kernel == 3 && !self.squares;
        is_3x3
            && !self.half
            && self.sources.iter().all(|channels| direct::is_narrow(*channels, self.out_channels))
    }

    /// F(2x2, 3x3) accesses less for a weight than F(4x4, 3x3), and more for a pixel. Measured: faster on layers of 4 x 4 pixels, and as
    /// fast on those of 8 x 8, which are just beyond this bound.
    fn has_more_weights_than_pixels(&self) -> bool {
        let channels: usize = self.sources.iter().sum();
        let pixels: usize = self.image.iter().product();
        5 * channels * self.out_channels >= (channels + self.out_channels) * pixels
    }

    /// The forms that can answer on a device with these limits, the usual one first, without those `banned` by name.
    pub fn candidates(&self, limits: Limits, banned: &[String]) -> Vec<Form> {
        let usual = self.usual(limits);
        let others = Form::ALL.into_iter().filter(|form| *form != usual && self.allows(*form, limits));
        let is_banned = |form: &Form| banned.iter().any(|name| name == form.name());
        std::iter::once(usual).chain(others).filter(|form| !is_banned(form)).collect()
    }

    /// Whether a form can compute this on a device with these limits, at the precision asked for.
    pub fn allows(&self, form: Form, limits: Limits) -> bool {
        let is_3x3 = self.kernel == 3 && !self.squares;
        form.runs_on(self.half, limits)
            && (is_3x3 || !form.is_for_3x3_alone())
            && match form {
                Form::Tiled | Form::Direct => true,
                Form::Matrix | Form::MatrixNarrow | Form::MatrixTall | Form::MatrixRows => {
                    self.by_eights() && matrix::fits(form, (self.pass, self.out_channels), limits)
                }
                Form::Winograd | Form::WinogradTwo => !self.exact && self.winograd_fits(form, limits),
            }
    }

    /// Channels come in eights, which matrix units' kernels read and write in one go.
    fn by_eights(&self) -> bool {
        self.sources.iter().chain([&self.out_channels]).all(|channels| channels.is_multiple_of(8))
    }

    /// The transformed weights of 8 outputs, or their gradient's partial sums, fit a binding; the image is no smaller than
    /// a tile, and neither side is seen as squares. Processors take inputs by eights.
    fn winograd_fits(&self, form: Form, limits: Limits) -> bool {
        let Some(filtering) = Filtering::of(form) else { return false };
        let [_, h, w] = self.image;
        let groups = self.sources.iter().map(|channels| channels.div_ceil(4)).sum();
        let fits = filtering.block_bytes(groups) <= limits.storage_binding_bytes;
        let by_eights = !limits.software || self.sources.iter().all(|channels| channels.is_multiple_of(8));
        self.kernel == 3 && !self.squares && fits && by_eights && h.min(w) >= filtering.tile()
    }
}

/// The question of a convolution from sources to `y`, both as the kernels see them.
pub(super) fn question(
    tape: &Tape,
    (pass, kernel, squares): (Pass, usize, bool),
    sources: &[Read],
    y: TensorId,
) -> Question {
    let channels = |id: TensorId| tape.shape(id).as_nhwc()[3];
    let [mut n_h_w, at_y] = [tape.shape(sources[0].tensor), tape.shape(y)].map(small_side);
    // Of a transposed convolution one side is four times as large.
    if n_h_w[1] > at_y[1] {
        n_h_w = at_y;
    }
    Question {
        pass,
        kernel,
        squares,
        image: n_h_w,
        sources: sources.iter().map(|read| channels(read.tensor)).collect(),
        out_channels: channels(y),
        // The network's input is f32 whatever activations are.
        half: sources.iter().map(|read| read.tensor).chain([y]).all(|id| tape.element(id) == Element::F16),
        exact: tape.exact(),
        normalised: sources.iter().any(|read| read.normalisation.is_some()),
    }
}

fn small_side(shape: &Shape) -> [usize; 3] {
    let [n, h, w, _] = shape.as_nhwc();
    [n, h, w]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::MatrixUnits;

    #[test]
    fn a_device_without_subgroups_gets_no_shader_that_broadcasts() {
        for (pass, kernel) in [Pass::Forward, Pass::InputGradient, Pass::WeightGradient]
            .into_iter()
            .flat_map(|pass| [(pass, 1), (pass, 3)])
        {
            let question = Question { pass, kernel, ..forward([1, 16, 16], &[16], 16) };
            // On a GPU Winograd's kernels broadcast nothing.
            let forms = question.candidates(Limits::WEBGPU, &[]);
            let all: &[Form] = &[Form::Tiled, Form::Winograd, Form::WinogradTwo];
            assert_eq!(forms, all[..if kernel == 3 { 3 } else { 1 }], "{question}");
            let processor = Limits { software: true, ..Limits::WEBGPU };
            assert_eq!(question.candidates(processor, &[]), [Form::Tiled], "{question}");
        }
    }

    /// A 3x3 convolution forward, in f32.
    fn forward(image: [usize; 3], sources: &[usize], out_channels: usize) -> Question {
        Question {
            pass: Pass::Forward,
            kernel: 3,
            squares: false,
            image,
            sources: sources.to_vec(),
            out_channels,
            half: false,
            exact: false,
            normalised: false,
        }
    }

    #[test]
    fn a_processors_usual_form_goes_by_channels_and_pixels() {
        let limits = Limits { software: true, subgroup_lanes: 8, ..Limits::WEBGPU };
        let usual = |question: &Question| question.usual(limits);
        let few = forward([4, 64, 64], &[8, 8], 16);
        assert_eq!(usual(&few), Form::Direct);
        assert_eq!(usual(&Question { half: true, ..few.clone() }), Form::Winograd, "by eights of f32");
        assert_eq!(usual(&forward([4, 64, 64], &[8], 12)), Form::Winograd, "eight outputs a block");
        assert_eq!(usual(&forward([4, 64, 64], &[16], 16)), Form::Winograd);
        assert_eq!(usual(&forward([4, 4, 4], &[128], 128)), Form::WinogradTwo, "weights count");
        assert_eq!(usual(&forward([4, 3, 9], &[32], 32)), Form::WinogradTwo, "smaller than a tile of four");
        assert_eq!(usual(&forward([4, 1, 9], &[32], 32)), Form::Direct, "smaller than any");
        let exact = Question { exact: true, ..forward([4, 4, 4], &[128], 128) };
        assert_eq!(usual(&exact), Form::Direct);
        assert!(exact.candidates(limits, &[]).iter().all(|form| !form.is_inexact()));
        // Inputs by twos of fours, on processors alone.
        let odd = forward([4, 64, 64], &[12], 16);
        assert_eq!(odd.candidates(limits, &[]), [Form::Direct, Form::Tiled]);
        assert!(odd.candidates(Limits::WEBGPU, &[]).contains(&Form::Winograd));
    }

    /// Last batches were computed by the usual forms, whatever had been measured.
    #[test]
    fn a_batch_that_was_not_measured_goes_by_the_nearest_that_was() {
        let asked = |batch: usize| forward([batch, 64, 64], &[16], 16);
        let answers = [(asked(8), "winograd"), (asked(4), "direct"), (asked(2), "no such form")];
        let other = Question { image: [3, 32, 32], ..asked(3) };
        let other = [(other, "winograd 2x2"), (Question { half: true, ..asked(3) }, "winograd 2x2")];
        let answers =
            answers.into_iter().chain(other).map(|(question, form)| (question.key(), form.to_owned()));
        let tuning = Tuning::new(answers.collect(), Vec::new());
        let answer = |batch: usize| asked(batch).answer(tuning);
        assert_eq!([answer(4), answer(8)], [Some(Form::Direct), Some(Form::Winograd)], "measured");
        assert_eq!([answer(3), answer(5)], [Some(Form::Direct); 2], "the larger of two");
        assert_eq!([answer(6), answer(64)], [Some(Form::Winograd); 2]);
        assert_eq!(answer(1), None, "an answer that nobody knows");
        assert_eq!(forward([4, 64, 64], &[16], 24).answer(tuning), None, "another layer");
    }

    #[test]
    fn a_form_whose_workgroups_do_not_fit_is_not_offered() {
        let question = Question { half: true, exact: true, ..forward([1, 16, 16], &[16], 16) };
        let limits = Limits { matrix: MatrixUnits::Eight, workgroup_bytes: 32 << 10, ..Limits::WEBGPU };
        let offered = |limits| question.candidates(limits, &[]);
        assert_eq!(offered(limits), [Form::Tiled, Form::Matrix, Form::MatrixNarrow]);
        let limits = Limits { workgroup_bytes: 48 << 10, ..limits };
        let all = [Form::Tiled, Form::Matrix, Form::MatrixNarrow, Form::MatrixTall, Form::MatrixRows];
        assert_eq!(offered(limits), all);
        // Of a weight's gradient it takes less.
        let gradient = Question { pass: Pass::WeightGradient, ..question.clone() };
        let limits = Limits { workgroup_bytes: 32 << 10, ..limits };
        assert!(gradient.candidates(limits, &[]).contains(&Form::MatrixRows));
        assert_eq!(offered(Limits { workgroup_bytes: 16 << 10, ..limits }), [Form::Tiled]);
    }
}
