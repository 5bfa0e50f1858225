//! `rosette` trains the Attention U-Net that finds multicellular rosettes in epithelia, on any GPU that speaks
//! Vulkan, Metal or DX12. Every pass is a compute shader written by hand in WGSL; a small tape composes them.
//!
//! Where to start reading: [`train`] for the loop, [`tape`] for how a step is recorded and replayed, [`ops`] for the
//! list of operations, `ARCHITECTURE.md` for the reasons.

pub mod cli;
pub mod config;
pub mod data;
pub mod error;
pub mod exchange;
pub mod files;
pub mod gpu;
pub mod inference;
pub mod interop;
pub mod matrix;
pub mod model;
pub mod ops;
pub mod report;
pub mod tape;
pub mod train;
