//! A network on a device: its flat buffers, and the programs of each batch size, recorded when first needed.

use std::collections::HashMap;

use super::numbers::{Scaling, reports, stage, stage_scalars, step_values, values_of};
use super::step::{
    Recorded, RecordedUpdate, SCALING_BYTES, Scalars, Source, StepSettings, record_evaluation,
    record_training, record_update,
};
use crate::data::residency::{Residency, Upload};
use crate::error::Result;
use crate::gpu::{Gpu, PendingRead};
use crate::model::AttentionUNet;
use crate::ops::loss_scale::FIRST;
use crate::ops::segmentation_loss::SUMS;
use crate::ops::warp::{Patch, PatchSource};
use crate::tape::{Loaded, SlotPool, Store, Stores, TensorId};

/// A network on a device.
pub struct Session {
    pub(super) gpu: Gpu,
    pub(super) net: AttentionUNet,
    pub(super) settings: StepSettings,
    pub(super) stores: Stores,
    pool: SlotPool,
    programs: HashMap<(bool, usize), Step>,
    update: Option<Update>,
    pub(super) steps: u64,
    pub(super) batches: u64,
    /// Micro-batches have added to the gradients of a step that is not done.
    pub(super) is_open: bool,
    smoothing_weights: Option<Vec<f32>>,
    most_patches: usize,
}

/// A loaded program and where its inputs and outputs lie.
struct Step {
    loaded: Loaded,
    recorded: Ids,
    staging: Vec<u8>,
}

/// The optimiser's program where steps have several micro-batches.
struct Update {
    loaded: Loaded,
    scalars: Scalars,
    staging: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Ids {
    source: Source,
    scalars: Scalars,
    loss: TensorId,
    sums: TensorId,
    logits: TensorId,
}

/// What a step gives back.
#[derive(Debug, Clone, PartialEq)]
pub struct StepResult {
    /// The loss of the batch.
    pub loss: f32,
    /// For each patch: BCE, p t, p, t, true positives, false positives, false negatives, pixels.
    pub sums: Vec<[f32; SUMS]>,
    /// Logits [N, P, P], where they were asked for.
    pub logits: Option<Vec<f32>>,
    /// The state of loss scaling after the step, with f16.
    pub scaling: Option<Scaling>,
    /// The norm of all gradients before clipping: in f32, and where they are clipped, of a step's last batch.
    pub norm: Option<f32>,
}

/// A micro-batch's place in its step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// What its gradients are multiplied by: those of a step add up to 1.
    pub weight: f32,
    /// It is the step's first.
    pub opens: bool,
    /// It is the step's last.
    pub closes: bool,
}

impl Place {
    /// The only one.
    pub const WHOLE: Self = Self { weight: 1.0, opens: true, closes: true };
}

/// A step that was submitted; its result comes with [`Session::finish`].
pub struct PendingStep {
    read: PendingRead,
    update: Option<PendingRead>,
    key: (bool, usize),
    with_logits: bool,
}

/// What a step is given.
#[derive(Clone, Copy)]
enum Given<'a> {
    /// Channels and target.
    Pixels(&'a [f32], &'a [f32]),
    /// What patches are made of.
    Patches(&'a [Patch]),
}

impl Session {
    /// Makes the flat buffers of a network, all zero.
    ///
    /// # Errors
    /// Where the device lacks the memory.
    pub fn new(gpu: Gpu, net: AttentionUNet, settings: StepSettings) -> Result<Self> {
        let mut stores = Stores::new();
        let weight_bytes = net.weights().total_bytes();
        for store in [Store::Weights, Store::Gradients, Store::Moment1, Store::Moment2] {
            stores.insert(store, gpu.buffer(&format!("{store:?}").to_lowercase(), weight_bytes)?);
        }
        stores.insert(Store::State, gpu.buffer("running statistics", net.state().total_bytes())?);
        stores.insert(Store::Scaling, gpu.buffer("loss scaling", SCALING_BYTES)?);
        if settings.ema_decay > 0.0 {
            stores.insert(Store::Average, gpu.buffer("averaged weights", weight_bytes)?);
            let bytes = net.state().total_bytes();
            stores.insert(Store::AverageState, gpu.buffer("averaged statistics", bytes)?);
        }
        gpu.write(&stores[&Store::Scaling], 0, bytemuck::cast_slice(&[FIRST, 0.0, 0.0, 0.0]));
        Ok(Self {
            gpu,
            net,
            settings,
            stores,
            pool: SlotPool::default(),
            programs: HashMap::new(),
            update: None,
            steps: 0,
            batches: 0,
            is_open: false,
            smoothing_weights: None,
            most_patches: usize::MAX,
        })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Gives the device back, without what was on it.
    pub fn into_gpu(self) -> Gpu {
        self.gpu
    }

    /// The network.
    pub fn net(&self) -> &AttentionUNet {
        &self.net
    }

    /// What shapes the programs.
    pub fn settings(&self) -> StepSettings {
        self.settings
    }

    /// Patches that the device holds at once: any number, unless [`Session::set_most_patches`] has said otherwise.
    pub fn most_patches(&self) -> usize {
        self.most_patches
    }

    /// Sets [`Session::most_patches`].
    pub fn set_most_patches(&mut self, most: usize) {
        self.most_patches = most;
    }

    /// Training steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Batches so far, each of which moved the running statistics: as many as steps, unless these have several.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Makes room for training samples: from here on, training steps take patches ([`Session::start_patch_step`]) and
    /// make them on the device. `smoothing_weights` are those of the displacement, where patches are ever displaced.
    ///
    /// # Errors
    /// Where the device lacks the memory.
    pub fn make_patches(&mut self, residency: &Residency, smoothing_weights: Option<Vec<f32>>) -> Result<()> {
        for chunk in 0..residency.chunks {
            let buffer = self.gpu.buffer("training samples", 4 * residency.chunk_words as u64)?;
            self.stores.insert(Store::Samples(chunk), buffer);
        }
        self.programs.retain(|(training, _), _| !training);
        let radius = smoothing_weights.as_ref().map(|weights| weights.len() - 1);
        let (chunks, chunk_words) = (residency.chunks, residency.chunk_words);
        self.settings.patches = Some(PatchSource { chunks, chunk_words, radius });
        self.smoothing_weights = smoothing_weights;
        Ok(())
    }

    /// Puts samples where they belong, before whatever is submitted next.
    pub fn upload(&self, upload: &Upload) {
        let buffer = self.store(Store::Samples(upload.place.chunk));
        self.gpu.write(buffer, 4 * upload.place.first_word as u64, bytemuck::cast_slice(&upload.words));
    }

    /// Submits a training step on a batch, `x` [N, P, P, 4] and `target` [N, P, P], and returns at once.
    ///
    /// # Errors
    /// Where the device lacks memory for the program.
    pub fn start_training_step(
        &mut self,
        x: &[f32],
        target: &[f32],
        learning_rate: f64,
    ) -> Result<PendingStep> {
        self.start_training(Given::Pixels(x, target), learning_rate)
    }

    /// Submits a training step on patches, which the device makes, and returns at once.
    ///
    /// # Errors
    /// Where the device lacks memory for the program.
    pub fn start_patch_step(&mut self, patches: &[Patch], learning_rate: f64) -> Result<PendingStep> {
        self.start_training(Given::Patches(patches), learning_rate)
    }

    /// Submits a micro-batch of patches, and the optimiser after the last of a step, and returns at once. For sessions
    /// whose settings accumulate; the learning rate is that of the step.
    ///
    /// # Errors
    /// Where the device lacks memory for the program.
    pub fn start_micro_batch(
        &mut self,
        patches: &[Patch],
        place: Place,
        learning_rate: f64,
    ) -> Result<PendingStep> {
        assert!(self.settings.accumulates, "the settings accumulate");
        if place.opens {
            self.gpu.clear(self.store(Store::Gradients));
        }
        self.batches += 1;
        let mut pending = self.start(true, Given::Patches(patches), place.weight, learning_rate, false)?;
        self.is_open = !place.closes;
        if place.closes {
            self.steps += 1;
            pending.update = Some(self.start_update(learning_rate)?);
        }
        Ok(pending)
    }

    fn start_update(&mut self, learning_rate: f64) -> Result<PendingRead> {
        self.prepare_update()?;
        let update = self.update.as_mut().expect("just prepared");
        let values = step_values(&self.settings, 1.0, learning_rate, self.steps);
        stage_scalars(&mut update.staging, &update.loaded.program, &update.scalars, &values);
        self.gpu.write(update.loaded.inputs(), 0, &update.staging);
        let outputs = update.loaded.outputs();
        Ok(self.gpu.run_and_read(&update.loaded.executable, outputs, 0..outputs.size_bytes()))
    }

    fn start_training(&mut self, given: Given<'_>, learning_rate: f64) -> Result<PendingStep> {
        assert!(!self.settings.accumulates, "a step of one batch");
        self.steps += 1;
        self.batches += 1;
        self.start(true, given, 1.0, learning_rate, false)
    }

    /// Submits an evaluation of a batch and returns at once.
    ///
    /// # Errors
    /// Where the device lacks memory for the program.
    pub fn start_evaluation(&mut self, x: &[f32], target: &[f32], with_logits: bool) -> Result<PendingStep> {
        self.start(false, Given::Pixels(x, target), 1.0, 0.0, with_logits)
    }

    fn start(
        &mut self,
        training: bool,
        given: Given<'_>,
        weight: f32,
        learning_rate: f64,
        with_logits: bool,
    ) -> Result<PendingStep> {
        let batch = match given {
            Given::Pixels(_, target) => target.len() / (self.settings.patch_px * self.settings.patch_px),
            Given::Patches(patches) => patches.len(),
        };
        let key = (training, batch);
        self.prepare(training, batch)?;
        let step = self.programs.get_mut(&key).expect("just prepared");
        match (given, step.recorded.source) {
            (Given::Pixels(x, target), Source::Uploaded { x: x_id, target: target_id }) => {
                step.stage(x_id, x);
                step.stage(target_id, target);
            }
            (Given::Patches(given), Source::Made { patches, weights }) => {
                step.stage(patches, given);
                if let (Some(id), Some(weights)) = (weights, &self.smoothing_weights) {
                    step.stage(id, weights);
                }
            }
            _ => panic!("a session takes pixels until it makes patches"),
        }
        let values = step_values(&self.settings, weight, learning_rate, self.steps);
        stage_scalars(&mut step.staging, &step.loaded.program, &step.recorded.scalars, &values);
        self.gpu.write(step.loaded.inputs(), 0, &step.staging);
        let ids = &step.recorded;
        let last = if with_logits { ids.logits } else { ids.sums };
        let end = step.loaded.program.stored_range(last).end;
        let read = self.gpu.run_and_read(&step.loaded.executable, step.loaded.outputs(), 0..end);
        Ok(PendingStep { read, update: None, key, with_logits })
    }

    /// Waits for a step's result.
    ///
    /// # Errors
    /// Where the device was lost.
    pub fn finish(&self, pending: PendingStep) -> Result<StepResult> {
        let bytes = self.gpu.finish_read(pending.read)?;
        let step = &self.programs[&pending.key];
        let values = |id: TensorId| values_of(&step.loaded.program, &bytes, id);
        let sums = values(step.recorded.sums)
            .chunks_exact(SUMS)
            .map(|row| row.try_into().expect("rows of that length"))
            .collect();
        let logits = pending.with_logits.then(|| values(step.recorded.logits));
        let loss = values(step.recorded.loss)[0];
        let (scaling, norm) = match (pending.update, &self.update) {
            (Some(read), Some(update)) => {
                let bytes = self.gpu.finish_read(read)?;
                reports(&update.loaded.program, &bytes, &update.scalars)
            }
            _ => reports(&step.loaded.program, &bytes, &step.recorded.scalars),
        };
        Ok(StepResult { loss, sums, logits, scaling, norm })
    }

    /// Records, plans and loads the program of a batch size, where that has not been done.
    ///
    /// # Errors
    /// A user error where the device cannot hold one patch; else where it lacks the memory.
    pub fn prepare(&mut self, training: bool, batch: usize) -> Result<&Loaded> {
        if !self.programs.contains_key(&(training, batch)) {
            self.settings.check_fits(&self.net, batch, self.gpu.limits())?;
            if training {
                // The first training program is a full batch's: its decision holds for shorter ones.
                self.settings = self.settings.decided(&self.net, self.gpu.limits(), batch);
            }
            let record = if training { record_training } else { record_evaluation };
            let recorded = record(&self.net, self.gpu.limits(), &self.settings, batch);
            let Recorded { program, source, scalars, loss, sums, logits } = recorded;
            let loaded = if training {
                Loaded::new(&self.gpu, program, &self.stores, &mut self.pool)?
            } else {
                Loaded::new(&self.gpu, program, &self.stores_of_evaluation(), &mut self.pool)?
            };
            let staging = vec![0; loaded.program.input_bytes as usize];
            let recorded = Ids { source, scalars, loss, sums, logits };
            self.programs.insert((training, batch), Step { loaded, recorded, staging });
        }
        if training && self.settings.accumulates {
            self.prepare_update()?;
        }
        Ok(&self.programs[&(training, batch)].loaded)
    }

    fn prepare_update(&mut self) -> Result<()> {
        if self.update.is_none() {
            let recorded = record_update(&self.net, self.gpu.limits(), &self.settings);
            let RecordedUpdate { program, scalars } = recorded;
            let loaded = Loaded::new(&self.gpu, program, &self.stores, &mut self.pool)?;
            let staging = vec![0; loaded.program.input_bytes as usize];
            self.update = Some(Update { loaded, scalars, staging });
        }
        Ok(())
    }

    /// The flat buffers with the averages in place of what they average, where there are any.
    fn stores_of_evaluation(&self) -> Stores {
        let mut stores = self.stores.clone();
        for (store, evaluated) in [Store::Weights, Store::State].into_iter().zip(self.evaluated_stores()) {
            stores.insert(store, self.store(evaluated).clone());
        }
        stores
    }

    /// A program that has been prepared.
    pub fn loaded(&self, training: bool, batch: usize) -> Option<&Loaded> {
        self.programs.get(&(training, batch)).map(|step| &step.loaded)
    }

    /// Bytes that a step of a prepared program reads back where nobody wants its logits.
    pub(super) fn read_back_bytes(&self, training: bool, batch: usize) -> Option<u64> {
        let step = self.programs.get(&(training, batch))?;
        Some(step.loaded.program.stored_range(step.recorded.sums).end)
    }

    /// Fills transient memory with NaN, so that a test sees what reads before it is written.
    pub fn poison(&self) {
        self.pool.poison(&self.gpu);
    }
}

impl Step {
    fn stage<T: bytemuck::Pod>(&mut self, id: TensorId, values: &[T]) {
        stage(&mut self.staging, &self.loaded.program, id, values);
    }
}
