//! Samples on disk and in memory: HDF5 in, channel planes, patches and tiles out; the split and its manifest;
//! synthetic tissue to try everything on. Knows no GPU, and of the configuration only the augmentation.
//!
//! The way of a sample: [`hdf5`] reads arrays, [`sample`] checks that they belong together, [`channels`] turns them
//! into the network's input planes, [`patches`] and [`tiles`] say where those are cut, [`augment`] how a patch is
//! warped, [`residency`] where samples lie on the device; [`loader`] does it all ahead on other threads.

pub mod augment;
pub mod channels;
pub mod check;
pub mod hdf5;
pub mod loader;
pub mod mt19937;
pub mod patches;
pub mod random;
pub mod residency;
pub mod sample;
pub mod split;
pub mod synth;
pub mod tiles;
