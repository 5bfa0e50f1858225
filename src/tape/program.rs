//! The linear program that a tape records: dispatches with what they bind, before any memory is given out.

use std::ops::Range;

use super::tensor::{Home, TensorId, TensorInfo};
use crate::error::{Error, Result};
use crate::gpu::{Kernel, Limits};

/// The part of a step that a dispatch belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// From samples to the input.
    Data,
    /// From the input to the loss.
    Forward,
    /// From the loss to the gradients.
    Backward,
    /// From the gradients to the weights.
    Optimiser,
}

/// Floating-point operations, multiply and add counted apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flops {
    /// Of the operation as it is defined, so that ways of computing it compare.
    pub counted: u64,
    /// Of the kernel: fewer where it saves some.
    pub executed: u64,
}

impl From<usize> for Flops {
    /// Of a kernel that saves none.
    fn from(flops: usize) -> Self {
        Self { counted: flops as u64, executed: flops as u64 }
    }
}

/// A range of a tensor that a dispatch binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arg {
    /// Which tensor.
    pub tensor: TensorId,
    /// Start within the tensor.
    pub offset_bytes: u64,
    /// Length.
    pub size_bytes: u64,
}

/// One recorded dispatch.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// What runs.
    pub kernel: Kernel,
    /// On what, in the order of the kernel's tensor bindings.
    pub args: Vec<Arg>,
    /// The parameter block.
    pub params: Vec<u8>,
    /// Workgroups.
    pub groups: u32,
    /// The node that asked for it, such as `enc1.0`.
    pub node: String,
    /// The operation of that node ([`super::Op::label`]), whose sum with another gradient counts as its own; empty outside of any.
    pub operation: String,
    /// Part of the step.
    pub phase: Phase,
    /// What it computes.
    pub flops: Flops,
    /// Of what it binds, what lies between the ranges that it reads.
    pub unread_bytes: u64,
    /// Of what it binds, what it reads and writes too.
    pub reread_bytes: u64,
}

impl Dispatch {
    /// Bytes of everything that the dispatch binds and reads or writes; twice where it does both.
    pub fn bound_bytes(&self) -> u64 {
        self.args.iter().map(|arg| arg.size_bytes).sum::<u64>() - self.unread_bytes + self.reread_bytes
    }
}

/// A whole recording.
#[derive(Debug)]
pub struct Program {
    /// Every tensor, by its number.
    pub tensors: Vec<TensorInfo>,
    /// Every dispatch, in order.
    pub dispatches: Vec<Dispatch>,
    /// Tensors that stay whole until the end of the program.
    pub kept: Vec<TensorId>,
    /// What was asked of the tuning (see [`super::Tuning`]).
    pub questions: Vec<String>,
    /// Size of the inputs' buffer.
    pub input_bytes: u64,
    /// Size of the outputs' buffer.
    pub output_bytes: u64,
}

impl Program {
    /// The tensor's record.
    pub fn tensor(&self, id: TensorId) -> &TensorInfo {
        &self.tensors[id.0 as usize]
    }

    /// The byte range of a stored tensor within its flat buffer.
    ///
    /// # Panics
    /// Where the tensor is transient.
    pub fn stored_range(&self, id: TensorId) -> Range<u64> {
        let info = self.tensor(id);
        let Home::Stored { offset_bytes, .. } = info.home else { panic!("{} is transient", info.name) };
        offset_bytes..offset_bytes + info.bytes()
    }

    /// Whether the device can show every dispatch what it binds.
    ///
    /// # Errors
    /// A user error with the sizes where a range is larger than a binding may be.
    pub fn check_bindings(&self, limits: Limits) -> Result<()> {
        let most = limits.storage_binding_bytes;
        let mut args = self.dispatches.iter().flat_map(|dispatch| &dispatch.args);
        let Some(arg) = args.find(|arg| arg.size_bytes > most) else { return Ok(()) };
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let expected = format!("at most {:.0} MiB in one binding on this adapter", mib(most));
        let found = format!("{:.1} MiB", mib(arg.size_bytes));
        let remedy = match self.tensor(arg.tensor).home {
            Home::Transient => "reduce batch_size, patch_size or base_channels, or take another adapter",
            Home::Stored { .. } => "reduce base_channels, or take another adapter (`rosette devices`)",
        };
        Err(Error::user(&self.tensor(arg.tensor).name, expected, found, remedy))
    }

    /// The kernel of every dispatch.
    pub fn into_kernels(self) -> impl Iterator<Item = Kernel> {
        self.dispatches.into_iter().map(|dispatch| dispatch.kernel)
    }

    /// Floating-point operations of the whole program, as its operations are defined.
    pub fn flops(&self) -> u64 {
        self.dispatches.iter().map(|d| d.flops.counted).sum()
    }

    /// First and last dispatch that touch a tensor, by tensor; `None` for one that nothing touches.
    pub(super) fn lifetimes(&self) -> Vec<Option<Range<usize>>> {
        let mut lives: Vec<Option<Range<usize>>> = vec![None; self.tensors.len()];
        for (place, dispatch) in self.dispatches.iter().enumerate() {
            for arg in &dispatch.args {
                let life = lives[arg.tensor.0 as usize].get_or_insert(place..place + 1);
                life.end = place + 1;
            }
        }
        for kept in &self.kept {
            if let Some(life) = &mut lives[kept.0 as usize] {
                life.end = self.dispatches.len();
            }
        }
        lives
    }
}
