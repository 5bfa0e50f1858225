//! From an experiment to a network, the settings of its steps, and the memory that they take.

use super::step::{StepSettings, record_evaluation, record_training};
use super::tuning::questions;
use crate::config::{Experiment, Precision};
use crate::data::augment::smoothing_weights;
use crate::error::Result;
use crate::gpu::Limits;
use crate::model::{AttentionUNet, Spec};
use crate::ops::choice::Question;
use crate::ops::warp::PatchSource;
use crate::tape::{Element, MemoryPlan, Program, Tuning};

/// The network of an experiment.
pub fn network(experiment: &Experiment) -> AttentionUNet {
    AttentionUNet::new(Spec {
        in_channels: experiment.input_channels(),
        base_channels: experiment.model.base_channels,
        skip: experiment.model.skip,
    })
}

/// What shapes its steps on a device with these limits.
pub fn settings(experiment: &Experiment, limits: Limits) -> StepSettings {
    StepSettings {
        patch_px: experiment.model.patch_size,
        dice_weight: experiment.training.dice_weight as f32,
        weight_decay: experiment.training.weight_decay as f32,
        winograd: experiment.training.winograd,
        recompute: experiment.training.recompute,
        element: stored_element(experiment, limits),
        patches: None,
        tuning: Tuning::default(),
    }
}

/// Which convolutions an experiment's training asks for, on a device with these limits.
///
/// # Errors
/// A user error where such a device cannot hold one patch.
pub fn experiment_questions(experiment: &Experiment, limits: Limits) -> Result<Vec<Question>> {
    let (net, settings) = (network(experiment), settings(experiment, limits));
    settings.check_fits(&net, experiment.training.batch_size, limits)?;
    Ok(questions(&net, limits, &settings, &[experiment.training.batch_size]))
}

/// What an experiment's `precision` comes to on a device.
pub fn stored_element(experiment: &Experiment, limits: Limits) -> Element {
    element_of(experiment.training.precision, limits)
}

/// What a `precision` comes to on a device.
pub fn element_of(precision: Precision, limits: Limits) -> Element {
    match precision {
        Precision::F32 => Element::F32,
        Precision::F16 => Element::F16,
        // The software adapter computes f16 no faster than f32.
        Precision::Auto if limits.f16 && !limits.software => Element::F16,
        Precision::Auto => Element::F32,
    }
}

/// Device memory of a training, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights, gradients, two moments, statistics.
    pub persistent_bytes: u64,
    /// Inputs and outputs of both programs.
    pub transfer_bytes: u64,
    /// Activations and their gradients in training.
    pub training_bytes: u64,
    /// Activations in evaluation, in the same memory.
    pub evaluation_bytes: u64,
}

impl MemoryEstimate {
    /// All of it, without the samples.
    pub fn total_bytes(&self) -> u64 {
        self.persistent_bytes + self.transfer_bytes + self.training_bytes.max(self.evaluation_bytes)
    }
}

/// The device memory of an experiment's training, without allocating anything.
///
/// # Errors
/// A user error where a device with these limits cannot hold one patch, or one weight.
pub fn estimate_memory(experiment: &Experiment, limits: Limits) -> Result<MemoryEstimate> {
    Ok(plan_step(experiment, limits)?.2)
}

/// The memory plan of an experiment's training step in words and numbers, without allocating anything.
///
/// # Errors
/// Those of [`estimate_memory`].
pub fn describe_plan(experiment: &Experiment, limits: Limits) -> Result<String> {
    let (step, plan, estimate) = plan_step(experiment, limits)?;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    Ok(format!(
        "{}\ntraining step: {} dispatches, {:.1} GFLOP\n\
         weights, gradients, two moments, statistics: {:.3} GiB\ninputs and outputs: {:.3} GiB\n\
         activations and their gradients: {:.3} GiB (evaluation needs {:.3} GiB, in the same slots)\n\
         total: {:.3} GiB, and at most {} GiB of training samples (data.memory_budget)\n",
        plan.table(&step),
        step.dispatches.len(),
        step.flops() as f64 / 1e9,
        gib(estimate.persistent_bytes),
        gib(estimate.transfer_bytes),
        gib(estimate.training_bytes),
        gib(estimate.evaluation_bytes),
        gib(estimate.total_bytes()),
        experiment.training.data.memory_budget,
    ))
}

fn plan_step(experiment: &Experiment, limits: Limits) -> Result<(Program, MemoryPlan, MemoryEstimate)> {
    let net = network(experiment);
    let (mut settings, batch) = (settings(experiment, limits), experiment.training.batch_size);
    let weights = smoothing_weights(&experiment.training.augmentation, settings.patch_px);
    // The samples' own memory is not the step's: as little as can be stands for it.
    let radius = weights.map(|weights| weights.len() - 1);
    settings.patches = Some(PatchSource { chunks: 1, chunk_words: 64, radius });
    settings.check_fits(&net, batch, limits)?;
    let step = record_training(&net, limits, &settings, batch).program;
    step.check_bindings(limits)?;
    let plan = MemoryPlan::new(&step);
    let evaluation = record_evaluation(&net, limits, &settings, batch).program;
    let estimate = MemoryEstimate {
        persistent_bytes: 4 * net.weights().total_bytes() + net.state().total_bytes(),
        transfer_bytes: step.input_bytes
            + step.output_bytes
            + evaluation.input_bytes
            + evaluation.output_bytes,
        training_bytes: plan.slot_bytes(),
        evaluation_bytes: MemoryPlan::new(&evaluation).slot_bytes(),
    };
    Ok((step, plan, estimate))
}
