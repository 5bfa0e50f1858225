//! The network without its training: weights and statistics on a device, one program, windows in batches.

use super::input::Image;
use super::windows::{TRANSFORMS, Windows, reflected, turned};
use crate::config::Precision;
use crate::data::channels::Prepared;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Limits, PendingRead};
use crate::model::{AttentionUNet, NamedTensor};
use crate::ops::choice::Question;
use crate::report::progress;
use crate::tape::{Element, Loaded, Mode, Program, Shape, SlotPool, Store, Stores, Tape, TensorId, Tuning};
use crate::train::{TuningCache, element_of, measured};

/// How windows are run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineSettings {
    /// Side of a window, a multiple of 16.
    pub window_px: usize,
    /// By how much neighbours overlap, at least.
    pub overlap_px: usize,
    /// Windows at once.
    pub batch_size: usize,
    /// Averages the predictions of all flips and turns.
    pub all_turns: bool,
    /// Winograd's convolutions may be used.
    pub winograd: bool,
    /// How activations are stored; sums and probabilities are f32 always.
    pub precision: Precision,
}

/// A network on a device, for prediction.
pub struct Engine {
    gpu: Gpu,
    settings: EngineSettings,
    loaded: Loaded,
    x: TensorId,
    logits: TensorId,
}

/// A window of a batch: its corner, and how it is turned.
type Place = ([usize; 2], usize);

impl Engine {
    /// Uploads the weights and loads the program. In f32 the device's limits alone decide which kernels compute it, so that the same command
    /// gives the same bytes; in f16 on a GPU, what was measured there, and what was not is measured first, which `mode` says how to show.
    ///
    /// # Errors
    /// A user error where the window is impossible or does not fit the device, and where the device has no f16 that is
    /// asked for; a failure where memory is short.
    pub fn new(
        gpu: Gpu,
        net: &AttentionUNet,
        tensors: &[NamedTensor],
        settings: EngineSettings,
        mode: progress::Mode,
    ) -> Result<Self> {
        let EngineSettings { window_px, overlap_px, .. } = settings;
        if window_px == 0 || !window_px.is_multiple_of(16) {
            let remedy = "four 2x2 poolings halve a window four times: take 256, 384, 512, ...";
            return Err(Error::user("--window", "a multiple of 16", window_px, remedy));
        }
        if overlap_px >= window_px {
            let remedy = "half of the window is usual";
            return Err(Error::user(
                "--overlap",
                format!("less than the window's {window_px} px"),
                overlap_px,
                remedy,
            ));
        }
        let element = element_of(settings.precision, gpu.limits());
        if element == Element::F16 && !gpu.limits().f16 {
            let remedy = "take --precision f32, or auto, which takes f16 only where it gains";
            return Err(Error::user("--precision", "f32 on this device", "f16, which it cannot", remedy));
        }
        check_window(net, settings, element, gpu.limits())?;
        let mut stores = Stores::new();
        let (weights, state) = net.pack(tensors);
        for (store, name, values) in
            [(Store::Weights, "weights", weights), (Store::State, "statistics", state)]
        {
            let buffer = gpu.buffer(name, 4 * values.len() as u64)?;
            gpu.write(&buffer, 0, bytemuck::cast_slice(&values));
            stores.insert(store, buffer);
        }
        let by_limits = TuningCache::load(gpu.summary()).by_limits();
        let (program, x, logits) = record(net, gpu.limits(), settings, element, by_limits);
        let (program, x, logits) = if element == Element::F16 && !gpu.limits().software {
            let asked: Vec<Question> =
                program.questions.iter().filter_map(|question| Question::from_key(question)).collect();
            record(net, gpu.limits(), settings, element, measured(&gpu, &asked, mode)?)
        } else {
            (program, x, logits)
        };
        let loaded = Loaded::new(&gpu, program, &stores, &mut SlotPool::default())?;
        Ok(Self { gpu, settings, loaded, x, logits })
    }

    /// How many windows an image takes, turned ones counted apart.
    pub fn windows(&self, height: usize, width: usize) -> usize {
        self.places(&self.cover(height, width)).len()
    }

    fn cover(&self, height: usize, width: usize) -> Windows {
        Windows::over(height, width, self.settings.window_px, self.settings.overlap_px)
    }

    fn places(&self, windows: &Windows) -> Vec<Place> {
        let turns = if self.settings.all_turns { TRANSFORMS } else { 1 };
        windows.corners.iter().flat_map(|corner| (0..turns).map(move |turn| (*corner, turn))).collect()
    }

    /// The probability of a rosette at each pixel [height * width]. `advance` is told of every batch by its windows.
    ///
    /// # Errors
    /// Where the device was lost.
    pub fn predict(&self, image: &Image, mut advance: impl FnMut(usize)) -> Result<Vec<f32>> {
        let planes = &image.planes;
        let windows = self.cover(planes.height, planes.width);
        let places = self.places(&windows);
        let mut sum = vec![0.0_f32; planes.height * planes.width];
        let mut total = vec![0.0_f32; sum.len()];
        let mut before: Option<(PendingRead, &[Place])> = None;
        // The next batch is put together while the device works on the one before.
        for batch in places.chunks(self.settings.batch_size).map(Some).chain([None]) {
            let next = batch.map(|batch| (self.start(planes, batch), batch));
            if let Some((pending, batch)) = std::mem::replace(&mut before, next) {
                let bytes = self.gpu.finish_read(pending)?;
                let logits: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
                let pixels = self.settings.window_px.pow(2);
                for (place, logits) in batch.iter().zip(logits.chunks_exact(pixels)) {
                    add(planes, &windows, *place, logits, &mut sum, &mut total);
                }
                advance(batch.len());
            }
        }
        sum.iter_mut().zip(&total).for_each(|(sum, total)| *sum /= total);
        Ok(sum)
    }

    fn start(&self, image: &Prepared, batch: &[Place]) -> PendingRead {
        let side = self.settings.window_px;
        let mut x = vec![0.0_f32; self.settings.batch_size * side * side * 4];
        for ((corner, turn), window) in batch.iter().zip(x.chunks_exact_mut(side * side * 4)) {
            for (at, pixel) in window.chunks_exact_mut(4).enumerate() {
                let [row, column] = turned(*turn, side, at / side, at % side);
                let row = reflected(corner[0] + row, image.height);
                let from = row * image.width + reflected(corner[1] + column, image.width);
                pixel[0] = f32::from(image.boundary[from]);
                pixel[1] = f32::from(image.cells[from]);
                pixel[2] = image.intensity.as_ref().map_or(0.0, |plane| plane[from]);
            }
        }
        self.loaded.write(&self.gpu, self.x, &x);
        let logits = self.loaded.program.stored_range(self.logits);
        self.gpu.run_and_read(&self.loaded.executable, self.loaded.outputs(), logits)
    }
}

/// The network on a batch of windows, with its input and its logits.
fn record(
    net: &AttentionUNet,
    limits: Limits,
    settings: EngineSettings,
    element: Element,
    tuning: Tuning,
) -> (Program, TensorId, TensorId) {
    let EngineSettings { window_px, batch_size, .. } = settings;
    let mut tape = Tape::new(limits, Mode::Evaluate);
    tape.set_exact(!settings.winograd);
    tape.set_tuning(tuning);
    tape.set_stored_element(element);
    let x = tape.input("x", Shape::nhwc(batch_size, window_px, window_px, 4));
    let logits = tape.output("logits", Shape::nhwc(batch_size, window_px, window_px, 1));
    net.logits(&mut tape, x, false, Some(logits));
    (tape.finish(), x, logits)
}

/// One window of the widest activation must fit a binding, and so must the logits of a batch.
fn check_window(
    net: &AttentionUNet,
    settings: EngineSettings,
    element: Element,
    limits: Limits,
) -> Result<()> {
    let pixels = (settings.window_px as u64).pow(2);
    let most = limits.storage_binding_bytes;
    let check = |flag: &str, what: &str, bytes: u64| {
        if bytes <= most {
            return Ok(());
        }
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        let expected = format!("{what} of at most {} on this adapter", mib(most));
        Err(Error::user(flag, expected, mib(bytes), "take a smaller one, or another adapter"))
    };
    let widest = net.spec().base_channels as u64 * element.bytes();
    check("--window", "an activation of one window", pixels.saturating_mul(widest))?;
    let logits = pixels.saturating_mul(4).saturating_mul(settings.batch_size as u64);
    check("--batch-size", "the logits of one batch", logits)
}

/// Adds a window's probabilities to those of the image, each by its weight.
fn add(
    image: &Prepared,
    windows: &Windows,
    (corner, turn): Place,
    logits: &[f32],
    sum: &mut [f32],
    total: &mut [f32],
) {
    let side = windows.side;
    for (at, logit) in logits.iter().enumerate() {
        let [row, column] = turned(turn, side, at / side, at % side);
        let (y, x) = (corner[0] + row, corner[1] + column);
        if y < image.height && x < image.width {
            let weight = windows.weights[row] * windows.weights[column];
            sum[y * image.width + x] += weight / (1.0 + (-logit).exp());
            total[y * image.width + x] += weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Skip;
    use crate::model::Spec;

    /// Recording used to panic on these.
    #[test]
    fn a_window_that_exceeds_a_binding_is_refused_by_name() {
        let net = AttentionUNet::new(Spec { in_channels: 2, base_channels: 8, skip: Skip::Full });
        let check = |window_px: usize, batch_size: usize| {
            let settings = EngineSettings {
                window_px,
                overlap_px: 0,
                batch_size,
                all_turns: false,
                winograd: true,
                precision: Precision::F32,
            };
            check_window(&net, settings, Element::F32, Limits::WEBGPU).err().map(|error| error.to_string())
        };
        assert_eq!(check(2048, 1), None);
        assert!(check(2064, 1).is_some_and(|said| said.starts_with("--window")));
        assert!(check(1_000_000_000, 1).is_some_and(|said| said.starts_with("--window")));
        assert!(check(2048, 9).is_some_and(|said| said.starts_with("--batch-size")));
    }
}
