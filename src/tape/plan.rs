//! The memory plan: transient tensors whose lifetimes do not meet share a slot, a whole buffer each.
//!
//! Whole buffers, not ranges of one arena: usage is tracked by buffer, so that a shared one would serialise every
//! dispatch and could not be read and written at once.

use std::fmt::Write as _;
use std::ops::Range;

use super::program::Program;
use super::tensor::{Home, TensorId};

/// When a transient tensor is needed, and where it lives.
#[derive(Debug, Clone)]
pub struct Lifetime {
    /// Which tensor.
    pub tensor: TensorId,
    /// The dispatches from its first to its last use.
    pub dispatches: Range<usize>,
    /// Its size.
    pub bytes: u64,
    /// Its slot.
    pub slot: usize,
}

/// Slots for every transient tensor of a program.
#[derive(Debug, Clone)]
pub struct MemoryPlan {
    /// One for each transient tensor that something touches, largest first.
    pub lifetimes: Vec<Lifetime>,
    /// Size of each slot.
    pub slots: Vec<u64>,
}

impl MemoryPlan {
    /// Plans a program: largest tensor first, each into the first slot that is free for its whole life. Since slots
    /// open in order of size, the first that is free is at least as large as the tensor.
    pub fn new(program: &Program) -> Self {
        let mut lifetimes: Vec<Lifetime> = program
            .lifetimes()
            .into_iter()
            .enumerate()
            .filter(|(index, _)| program.tensors[*index].home == Home::Transient)
            .filter_map(|(index, life)| {
                let bytes = program.tensors[index].bytes();
                life.map(|dispatches| Lifetime { tensor: TensorId(index as u32), dispatches, bytes, slot: 0 })
            })
            .collect();
        lifetimes.sort_by_key(|life| (std::cmp::Reverse(life.bytes), life.dispatches.start));
        let mut slots: Vec<(u64, Vec<Range<usize>>)> = Vec::new();
        for life in &mut lifetimes {
            let free = slots.iter().position(|(_, taken)| taken.iter().all(|t| apart(t, &life.dispatches)));
            let slot = free.unwrap_or_else(|| {
                slots.push((life.bytes, Vec::new()));
                slots.len() - 1
            });
            slots[slot].1.push(life.dispatches.clone());
            life.slot = slot;
        }
        Self { lifetimes, slots: slots.into_iter().map(|(bytes, _)| bytes).collect() }
    }

    /// Bytes of all slots together.
    pub fn slot_bytes(&self) -> u64 {
        self.slots.iter().sum()
    }

    /// The most that is alive at once: no plan can do with less.
    pub fn lower_bound_bytes(&self) -> u64 {
        let end = self.lifetimes.iter().map(|life| life.dispatches.end).max().unwrap_or(0);
        let alive =
            |at: usize| self.lifetimes.iter().filter(|l| l.dispatches.contains(&at)).map(|l| l.bytes).sum();
        (0..end).map(alive).max().unwrap_or(0)
    }

    /// The plan as a table: each tensor with its shape, size, slot and lifetime, then the slots.
    pub fn table(&self, program: &Program) -> String {
        let mut text = String::new();
        let mib = |bytes: u64| bytes as f64 / 1048576.0;
        let _ = writeln!(text, "{:<44} {:<22} {:>10}  {:>4}  dispatches", "tensor", "shape", "MiB", "slot");
        let mut by_start: Vec<&Lifetime> = self.lifetimes.iter().collect();
        by_start.sort_by_key(|life| (life.dispatches.start, life.tensor));
        for life in by_start {
            let info = program.tensor(life.tensor);
            let (name, shape, range) = (&info.name, info.shape.to_string(), &life.dispatches);
            let (size, slot, first, last) = (mib(life.bytes), life.slot, range.start, range.end - 1);
            let _ = writeln!(text, "{name:<44} {shape:<22} {size:>10.3}  {slot:>4}  {first}..{last}");
        }
        let (count, total, least) = (self.slots.len(), mib(self.slot_bytes()), mib(self.lower_bound_bytes()));
        let _ = writeln!(text, "{count} slots, {total:.1} MiB; alive at once at most {least:.1} MiB");
        text
    }
}

fn apart(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.end <= b.start || b.end <= a.start
}
