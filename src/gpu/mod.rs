//! The device side: adapters, shader text, kernels, buffers and the executor. The only folder that names wgpu.

mod bounds;
mod ceiling;
mod device;
mod executor;
mod kernel;
mod pipeline_cache;
mod races;
mod read_back;
mod shader;
mod submissions;
mod unroll;
#[cfg(not(target_vendor = "apple"))]
mod vulkan;
pub(crate) mod watch;
pub(crate) mod wide;

pub use ceiling::{Ceilings, ceiling_kernels};
pub use device::{
    AdapterSummary, Gpu, Limits, MatrixUnits, checks_bounds, device_lost, is_device_gone, list_adapters,
};
pub use executor::{Binding, Command, Executable, SharedBuffer};
pub use kernel::{BindingInfo, BindingKind, Kernel, Params, Reflection};
pub use read_back::PendingRead;
pub use shader::{ShaderSource, Variant, with_imports};
pub use watch::Watched;
