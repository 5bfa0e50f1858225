//! What a benchmark found of a training step.

use serde::{Deserialize, Serialize};

use crate::gpu::Ceilings;
use crate::tape::Phase;

/// Times of a training step. What `rosette bench --json` prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepTimes {
    /// Version of rosette.
    pub rosette: String,
    /// The adapter.
    pub device: String,
    /// Its driver and the driver's version.
    pub driver: String,
    /// Operating system and processor architecture, as Rust names them.
    pub system: String,
    /// Processors that the process may use: a software adapter's speed, and the host's.
    pub processors: usize,
    /// Width of the first block.
    pub base: usize,
    /// Side of a patch.
    pub patch: usize,
    /// Patches a step.
    pub batch: usize,
    /// How activations are stored, `f32` or `f16`.
    pub precision: String,
    /// Where skips are taken, `full` or `pooled`.
    pub skip: String,
    /// What else shapes the step, and is not as it is by default, as `rosette bench` is asked for it.
    pub options: Vec<String>,
    /// Kernels were asked for with this in their names, or in their operations'.
    pub filter: Option<String>,
    /// Convolutions, counted in all their passes and shapes, ...
    pub convolutions: usize,
    /// ... and those whose kernels were chosen by measurement.
    pub measured: usize,
    /// Median of the steps, each waited for: from the host's start of its work to the loss.
    pub step_ms_median: f64,
    /// Fastest of them.
    pub step_ms_best: f64,
    /// A step where the next is submitted before the loss is read, as a training has it: mean.
    pub step_ms_streamed: f64,
    /// From nothing to the end of the first step, shader compilation included.
    pub first_step_ms: f64,
    /// Host time to submit a step, median.
    pub submit_ms_median: f64,
    /// Floating-point operations a step, in 10^9: of its operations as they are defined, whatever the kernels save.
    pub gflop: f64,
    /// Peak memory of the plan: everything persistent and every slot.
    pub planned_bytes: u64,
    /// Bytes that the step's dispatches read and write: what moves where nothing stays in a cache.
    pub bound_bytes: u64,
    /// Bytes that would move if every tensor were written once and read once.
    pub least_bytes: u64,
    /// What the device can do at best; none without timestamps.
    pub ceilings: Option<Ceilings>,
    /// Device time of every kernel for each of its variants and shapes, longest first; empty without timestamps.
    pub kernels: Vec<KernelTime>,
    /// Device time by part of the step, each dispatch the fastest of some; then by the clock upload and read-back, the fastest of some too,
    /// and what the fastest step took beside all that.
    pub phases: Vec<(String, f64)>,
}

/// Device time in one step of all dispatches of a kernel that have the rest in common too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KernelTime {
    /// `shader/entry`.
    pub kernel: String,
    /// The operation that asked for it, such as `conv2d 3x3`.
    pub operation: String,
    /// The part of the step: `data`, `forward`, `backward` or `optimiser`.
    pub phase: String,
    /// The shader's constants.
    pub variant: String,
    /// Shapes of the tensors that a dispatch binds.
    pub tensors: String,
    /// What they cost.
    #[serde(flatten)]
    pub spent: Spent,
}

/// What some dispatches cost.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Spent {
    /// Dispatches.
    pub dispatches: usize,
    /// Time.
    pub ms: f64,
    /// Floating-point operations, in 10^9; a Winograd kernel counts those of the convolution that it stands for.
    pub gflop: f64,
    /// Bytes read and written, in 10^9.
    pub gigabytes: f64,
    /// The time that this would have taken at the device's ceilings: of each dispatch, arithmetic or memory, whichever takes longer.
    pub bound_ms: f64,
}

impl std::iter::Sum for Spent {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, other| Self {
            dispatches: sum.dispatches + other.dispatches,
            ms: sum.ms + other.ms,
            gflop: sum.gflop + other.gflop,
            gigabytes: sum.gigabytes + other.gigabytes,
            bound_ms: sum.bound_ms + other.bound_ms,
        })
    }
}

impl StepTimes {
    /// Time of all dispatches of a step; 0 without timestamps.
    pub fn on_device_ms(&self) -> f64 {
        let parts = [Phase::Data, Phase::Forward, Phase::Backward, Phase::Optimiser].map(name_of);
        self.phases.iter().filter(|(phase, _)| parts.contains(phase)).map(|(_, ms)| ms).sum()
    }
}

impl KernelTime {
    /// Whether its name, or its operation's, has this in it.
    pub fn has(&self, text: &str) -> bool {
        self.operation.contains(text) || self.kernel.contains(text)
    }
}

/// A part of the step in a word.
pub(super) fn name_of(phase: Phase) -> String {
    format!("{phase:?}").to_lowercase()
}
