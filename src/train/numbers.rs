//! The numbers that go to the device with a step, and those that come back from it.

use super::step::{Scalars, StepSettings};
use crate::ops::adamw::step_sizes;
use crate::ops::loss_scale;
use crate::ops::moving_average::rates;
use crate::tape::{Program, TensorId};

/// The state of loss scaling (see [`crate::ops::loss_scale`]).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    /// What the loss is multiplied by.
    pub scale: f32,
    /// Good steps since that changed.
    pub good_steps: f32,
    /// Steps skipped so far.
    pub skipped_steps: f32,
}

pub(super) fn stage<T: bytemuck::Pod>(staging: &mut [u8], program: &Program, id: TensorId, values: &[T]) {
    let range = program.stored_range(id);
    let bytes: &[u8] = bytemuck::cast_slice(values);
    assert_eq!(bytes.len() as u64, range.end - range.start, "the size of {id:?}");
    staging[range.start as usize..range.end as usize].copy_from_slice(bytes);
}

/// What a step's scalars are given.
pub(super) struct StepValues {
    dloss: [f32; 1],
    sizes: [f32; 4],
    step: [f32; 4],
    rates: [f32; 4],
}

pub(super) fn step_values(settings: &StepSettings, weight: f32, learning_rate: f64, step: u64) -> StepValues {
    StepValues {
        dloss: [weight],
        sizes: step_sizes(learning_rate, step),
        step: loss_scale::step_inputs(learning_rate, step),
        rates: rates(settings.ema_decay, step),
    }
}

pub(super) fn stage_scalars(staging: &mut [u8], program: &Program, scalars: &Scalars, values: &StepValues) {
    let all = [
        (scalars.dloss, &values.dloss[..]),
        (scalars.sizes, &values.sizes),
        (scalars.step, &values.step),
        (scalars.rates, &values.rates),
    ];
    for (id, values) in all {
        if let Some(id) = id {
            stage(staging, program, id, values);
        }
    }
}

pub(super) fn values_of(program: &Program, bytes: &[u8], id: TensorId) -> Vec<f32> {
    let range = program.stored_range(id);
    bytemuck::pod_collect_to_vec(&bytes[range.start as usize..range.end as usize])
}

pub(super) fn reports(program: &Program, bytes: &[u8], scalars: &Scalars) -> (Option<Scaling>, Option<f32>) {
    let scaling = scalars.report.map(|id| {
        let report = values_of(program, bytes, id);
        Scaling { scale: report[0], good_steps: report[1], skipped_steps: report[2] }
    });
    (scaling, scalars.norm.map(|id| values_of(program, bytes, id)[0]))
}
