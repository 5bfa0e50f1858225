//! PyTorch checkpoints: a zip archive of stored entries, in which `data.pkl` pickles a dictionary from names to
//! tensors and `data/0`, `data/1`, ... hold the elements.
//!
//! A pickle is a program. The reader here (`pickle.rs`) knows the few instructions and the few names that a state dict
//! needs, refuses everything else, and never runs anything.

mod op;
mod pickle;
mod read;
mod write;

pub use read::read_pth;
pub use write::{pth_bytes, write_pth};
