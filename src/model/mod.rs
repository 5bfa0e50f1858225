//! The network: its layers, its parameters with their names and shapes in PyTorch, and how they start.

mod attention_unet;
mod parameters;

pub use attention_unet::{AttentionUNet, Spec};
pub use parameters::{Kind, NamedTensor, Parameter};
