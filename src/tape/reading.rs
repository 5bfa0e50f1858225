//! How an operation reads a tensor: as it lies in memory, computed again for the backward pass, or normalised by the
//! reader itself, so that what a batch norm gives need not be written.

use super::program::Phase;
use super::record::Tape;
use super::tensor::{Home, TensorId};

/// What a reader makes of each element: `z = relu?((x - mean) * scale + beta)` of its channel, rounded as it would have
/// been stored, so that reading and storing give the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Normalisation {
    /// [3 or more, C] of f32: mean, scale and beta come first.
    pub coefficients: TensorId,
    /// A ReLU follows.
    pub relu: bool,
}

/// A tensor as a kernel is to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// What is bound.
    pub tensor: TensorId,
    /// What is done with it; `None` where it is the tensor that was meant.
    pub normalisation: Option<Normalisation>,
}

impl From<TensorId> for Read {
    fn from(tensor: TensorId) -> Self {
        Self { tensor, normalisation: None }
    }
}

/// Moments of an activation [N, H, W, C] by channel, gathered by the operation that wrote it. Its pixels are cut into slices
/// of the batch and these into splits, all of one length but for the last ones, which may be shorter or empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moments {
    /// [slices * splits, 2, C] of f32: mean and sum of squared deviations of each split.
    pub part: TensorId,
    /// Splits of a slice.
    pub splits: usize,
    /// Pixels of a whole slice.
    pub slice_pixels: usize,
    /// Pixels of a whole split.
    pub split_pixels: usize,
}

/// A tensor that can be read from another one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deferred {
    read: Read,
    written: bool,
}

impl Tape {
    /// Whether batch norms may leave what they give to their readers.
    pub fn defers(&self) -> bool {
        self.defers
    }

    /// Sets [`Tape::defers`], for what is recorded from here on. No result depends on it, but for the rounding of sums that two sources have
    /// in common: a kernel that adds both in one go takes none that it would have to normalise.
    pub fn set_deferring(&mut self, defers: bool) {
        self.defers = defers;
    }

    /// Says that `id` was not written, and what to read in its place. An operation that cannot do so
    /// ([`super::Op::normalises`]) makes its producer write it after all ([`super::Op::write_deferred`]).
    ///
    /// # Panics
    /// Where the tensor is not transient: whoever reads it outside the program would find nothing.
    pub fn defer(&mut self, id: TensorId, read: Read) {
        assert_eq!(self.info(id).home, Home::Transient, "{} is read outside", self.info(id).name);
        self.deferred.insert(id, Deferred { read, written: false });
    }

    /// Says that `id` was written, and what it can be read from as well: cheaper for a reader in the backward pass than to have it
    /// computed again.
    pub fn note_origin(&mut self, id: TensorId, read: Read) {
        self.deferred.insert(id, Deferred { read, written: true });
    }

    /// Notes the moments of a tensor for the batch norm that follows.
    pub fn note_moments(&mut self, id: TensorId, moments: Moments) {
        self.moments.insert(id, moments);
    }

    /// The moments of a tensor, where who wrote it gathered them.
    pub fn moments(&self, id: TensorId) -> Option<Moments> {
        self.moments.get(&id).copied()
    }

    /// A tensor for an operation that can normalise what it reads, forward or backward.
    pub fn read(&mut self, id: TensorId) -> Read {
        let backward = self.phase == Phase::Backward;
        match self.deferred.get(&id) {
            // Cheaper than to compute it once more.
            Some(deferred) if !deferred.written || (backward && self.recompute) => {
                let Read { tensor, normalisation } = deferred.read;
                Read { tensor: if backward { self.value(tensor) } else { tensor }, normalisation }
            }
            _ if backward => self.value(id).into(),
            _ => id.into(),
        }
    }

    /// A tensor of the forward pass as the backward pass reads it: the tensor itself, or one that is computed again
    /// where that is cheap and wanted. To be called for what is read, and only for that.
    ///
    /// # Panics
    /// Where the tensor was left to its readers: who can normalise takes [`Tape::read`] in both passes.
    pub fn value(&mut self, id: TensorId) -> TensorId {
        assert!(!self.is_unwritten(id), "{} was never written", self.info(id).name);
        if let Some(again) = self.again.get(&id) {
            return *again;
        }
        let Some((node, output)) = self.producers.get(&id).copied().filter(|_| self.recompute) else {
            return id;
        };
        let node = self.nodes[node].clone();
        if !node.op.recomputes(output) {
            return id;
        }
        let again = |(place, input): (usize, &TensorId)| match node.op.normalises(place) {
            true => self.read(*input),
            false => self.value(*input).into(),
        };
        let inputs: Vec<Read> = node.inputs.iter().enumerate().map(again).collect();
        let reader = std::mem::replace(&mut self.operation, node.op.label());
        let outputs = node.op.recompute(self, &node, &inputs);
        self.operation = reader;
        self.again.insert(id, outputs[output]);
        outputs[output]
    }

    /// Has a tensor written that was left to its readers, once, before someone reads it who takes it as it is.
    pub(super) fn materialise(&mut self, id: TensorId) {
        if !self.is_unwritten(id) {
            return;
        }
        let (node, _) = self.producers[&id];
        let node = self.nodes[node].clone();
        let reader = std::mem::replace(&mut self.node_name, node.name.clone());
        let operation = std::mem::replace(&mut self.operation, node.op.label());
        node.op.write_deferred(self, &node);
        (self.node_name, self.operation) = (reader, operation);
        if let Some(deferred) = self.deferred.get_mut(&id) {
            deferred.written = true;
        }
    }

    fn is_unwritten(&self, id: TensorId) -> bool {
        self.deferred.get(&id).is_some_and(|deferred| !deferred.written)
    }
}
