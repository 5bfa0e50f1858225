//! What a session's flat buffers hold: weights, statistics, moments, averages, written and read back.

use std::collections::BTreeMap;

use super::session::Session;
use crate::error::{Error, Result};
use crate::gpu::{PendingRead, SharedBuffer};
use crate::model::{AttentionUNet, NamedTensor};
use crate::tape::Store;

/// The contents of the flat buffers that outlive a step, by name.
pub type Buffers = BTreeMap<String, Vec<f32>>;

const KEPT: [(&str, Store); 5] = [
    ("weights", Store::Weights),
    ("first moments", Store::Moment1),
    ("second moments", Store::Moment2),
    ("running statistics", Store::State),
    ("loss scaling", Store::Scaling),
];
/// Kept besides where weights are averaged.
const AVERAGES: [(&str, Store); 2] =
    [("averaged weights", Store::Average), ("averaged statistics", Store::AverageState)];
/// Kept besides between the micro-batches of a step.
const GRADIENTS: (&str, Store) = ("gradients", Store::Gradients);

/// A network's weights and running statistics as they lie on the device.
pub(super) struct Packed {
    net: AttentionUNet,
    weights: Vec<f32>,
    state: Vec<f32>,
}

impl Packed {
    /// The same in the network's order.
    pub fn into_tensors(self) -> Vec<NamedTensor> {
        self.net.unpack(&self.weights, &self.state)
    }
}

impl Session {
    /// Uploads weights and running statistics, given in the network's order.
    pub fn set_tensors(&mut self, tensors: &[NamedTensor]) {
        let (weights, state) = self.net.pack(tensors);
        self.gpu.write(self.store(Store::Weights), 0, bytemuck::cast_slice(&weights));
        self.gpu.write(self.store(Store::State), 0, bytemuck::cast_slice(&state));
        if self.settings.ema_decay > 0.0 {
            self.gpu.write(self.store(Store::Average), 0, bytemuck::cast_slice(&weights));
            self.gpu.write(self.store(Store::AverageState), 0, bytemuck::cast_slice(&state));
        }
    }

    /// Reads weights and running statistics back, in the network's order.
    ///
    /// # Errors
    /// Where the device was lost.
    pub fn tensors(&self) -> Result<Vec<NamedTensor>> {
        Ok(self.net.unpack(&self.read_store(Store::Weights)?, &self.read_store(Store::State)?))
    }

    /// The weights and statistics that evaluation uses: the averaged ones, or [`Session::tensors`] where none are
    /// averaged.
    ///
    /// # Errors
    /// Where the device was lost.
    pub fn evaluated_tensors(&self) -> Result<Vec<NamedTensor>> {
        Ok(self.evaluated()?.into_tensors())
    }

    /// The same as it lies on the device: to put it in order takes a while.
    ///
    /// # Errors
    /// Where the device was lost.
    pub(super) fn evaluated(&self) -> Result<Packed> {
        let [weights, state] = self.evaluated_stores();
        let (weights, state) = (self.read_store(weights)?, self.read_store(state)?);
        Ok(Packed { net: self.net.clone(), weights, state })
    }

    pub(super) fn evaluated_stores(&self) -> [Store; 2] {
        match self.settings.ema_decay > 0.0 {
            true => [Store::Average, Store::AverageState],
            false => [Store::Weights, Store::State],
        }
    }

    /// Reads the gradients of the last step back, by the names of their weights.
    ///
    /// # Errors
    /// Where the device was lost.
    pub fn gradients(&self) -> Result<Vec<NamedTensor>> {
        let state = vec![0.0; (self.net.state().total_bytes() / 4) as usize];
        let mut all = self.net.unpack(&self.read_store(Store::Gradients)?, &state);
        let trained: Vec<bool> = self.net.parameters().iter().map(|p| p.trained).collect();
        let mut keep = trained.iter();
        all.retain(|_| *keep.next().expect("one flag a parameter"));
        Ok(all)
    }

    /// Reads everything back that decides how training goes on.
    ///
    /// # Errors
    /// Where the device was lost.
    pub fn buffers(&self) -> Result<Buffers> {
        let kept = self.kept(self.is_open);
        let pending: Vec<_> = kept.map(|(name, store)| (name, self.start_reading(*store))).collect();
        pending
            .into_iter()
            .map(|(name, read)| Ok((name.to_string(), self.gpu.finish_read_as(read)?)))
            .collect()
    }

    /// What decides how training goes on, in the middle of a step or between two.
    fn kept(&self, is_open: bool) -> impl Iterator<Item = &'static (&'static str, Store)> + use<> {
        let averages: &[_] = if self.settings.ema_decay > 0.0 { &AVERAGES } else { &[] };
        let gradients: &[_] = if is_open { &[GRADIENTS] } else { &[] };
        KEPT.iter().chain(averages).chain(gradients)
    }

    /// Goes on from buffers that [`Session::buffers`] read after so many steps and batches.
    ///
    /// # Errors
    /// A user error where they are another network's.
    pub fn restore(&mut self, buffers: &Buffers, steps: u64, batches: u64) -> Result<()> {
        let is_open = buffers.contains_key(GRADIENTS.0);
        let sizes = |name: &str| buffers.get(name).map_or(0, |values| 4 * values.len() as u64);
        let wrong = |(name, store): &&(&str, Store)| sizes(name) != self.store(*store).size_bytes();
        if let Some((name, store)) = self.kept(is_open).find(wrong) {
            let expected = format!("{} bytes", self.store(*store).size_bytes());
            let remedy = "remove the checkpoint and start again";
            return Err(Error::user(format!("checkpoint: {name}"), expected, sizes(name), remedy));
        }
        for (name, store) in self.kept(is_open) {
            self.gpu.write(self.store(*store), 0, bytemuck::cast_slice(&buffers[*name]));
        }
        (self.steps, self.batches, self.is_open) = (steps, batches, is_open);
        Ok(())
    }

    pub(super) fn store(&self, store: Store) -> &SharedBuffer {
        &self.stores[&store]
    }

    fn read_store(&self, store: Store) -> Result<Vec<f32>> {
        self.gpu.finish_read_as(self.start_reading(store))
    }

    fn start_reading(&self, store: Store) -> PendingRead {
        let buffer = self.store(store);
        self.gpu.start_read(buffer, 0..buffer.size_bytes())
    }
}
