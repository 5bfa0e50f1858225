//! Adapters and the device: which one is taken, what it can do, and what is said where there is none.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

use super::kernel::Kernel;
use super::pipeline_cache::PipelineCache;
use super::watch::{Watch, Watched};
use crate::error::{Error, Result};

/// An opened device with its queue.
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    summary: AdapterSummary,
    limits: Limits,
    /// Where accesses are watched, for tests.
    pub(super) watch: Option<Watch>,
    cache: Option<PipelineCache>,
    /// Made once for all recordings.
    pub(super) pipelines: Mutex<HashMap<Kernel, wgpu::ComputePipeline>>,
}

/// What a person wants to know of an adapter.
#[derive(Debug, Clone)]
pub struct AdapterSummary {
    /// Place in `rosette devices`, as `--adapter` takes it.
    pub index: usize,
    /// The device's own name.
    pub name: String,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// `discrete GPU`, `integrated GPU`, `software` or what else the backend says.
    pub kind: &'static str,
    /// Driver and its version.
    pub driver: String,
    /// Runs on the processor.
    pub software: bool,
    /// 16-bit floats in shaders.
    pub f16: bool,
    /// Subgroup operations, and the smallest and largest subgroup.
    pub subgroup: Option<(u32, u32)>,
    /// Timestamps inside a pass, for the profiler.
    pub timestamps: bool,
    /// Matrix units that shaders can use.
    pub matrix_units: MatrixUnits,
    /// The limits that plans keep to.
    pub limits: Limits,
}

/// The limits of an adapter that a memory plan and a recording must keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest range of a buffer that one binding shows to a shader.
    pub storage_binding_bytes: u64,
    /// Largest buffer.
    pub buffer_bytes: u64,
    /// Offsets of bindings are multiples of this.
    pub offset_alignment_bytes: u64,
    /// Shaders run on the processor: loads cost more than arithmetic, and few long invocations beat many short ones.
    pub software: bool,
    /// Lanes that every subgroup has at least; 0 where shaders have no subgroup operations.
    pub subgroup_lanes: u32,
    /// An invocation has some 128 registers of 32 bits, or fewer, where that of NVIDIA's and AMD's GPUs has 255: kernels that keep
    /// many numbers in them have forms with fewer.
    pub few_registers: bool,
    /// Shaders have 16-bit floats.
    pub f16: bool,
    /// Matrix units that multiply f16 and add up in f32; none on a software adapter, where they would save nothing.
    pub matrix: MatrixUnits,
    /// Memory that the invocations of a workgroup share.
    pub workgroup_bytes: u32,
    /// Operations that are submitted together at most ([`super::Command::operations`]). While they run, a GPU that draws the desktop too may draw
    /// nothing, and a driver takes one that is busy for seconds for one that hangs.
    pub submission_operations: u64,
}

/// The matrices that a device's matrix units multiply: as many rows as columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatrixUnits {
    /// It has none, or none that shaders can use.
    None,
    /// Of 8 x 8.
    Eight,
    /// Of 16 x 16.
    Sixteen,
    /// Of 16 x 16, whose products eight lanes compute two rows each of: to check on any device what the others are given.
    Emulated,
}

impl Limits {
    /// WebGPU's defaults on a GPU: what every device has.
    pub const WEBGPU: Self = Self {
        storage_binding_bytes: 128 << 20,
        buffer_bytes: 256 << 20,
        offset_alignment_bytes: 256,
        software: false,
        subgroup_lanes: 0,
        few_registers: false,
        f16: false,
        matrix: MatrixUnits::None,
        workgroup_bytes: 16 << 10,
        submission_operations: INTEGRATED_OPERATIONS,
    };
}

impl fmt::Display for AdapterSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.name, self.backend, self.kind)
    }
}

/// Every adapter of the machine, real GPUs first.
pub fn list_adapters() -> Vec<AdapterSummary> {
    adapters().iter().enumerate().map(|(index, adapter)| summarise(index, adapter)).collect()
}

pub(super) fn adapters() -> Vec<wgpu::Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    // GL would list the same devices again, with less in them.
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    // WGPU_DEBUG=1 gives kernels their names in a vendor's profiler.
    descriptor.flags = wgpu::InstanceFlags::empty().with_env();
    let backends = descriptor.backends;
    let instance = wgpu::Instance::new(descriptor);
    let mut adapters = pollster::block_on(instance.enumerate_adapters(backends));
    adapters.sort_by_key(|adapter| {
        let info = adapter.get_info();
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        };
        // On Windows the same GPU is there twice: with Vulkan there may be matrix units, and more often subgroups and f16.
        (kind, info.backend == wgpu::Backend::Dx12)
    });
    adapters
}

fn summarise(index: usize, adapter: &wgpu::Adapter) -> AdapterSummary {
    let info = adapter.get_info();
    let features = adapter.features();
    let software = info.device_type == wgpu::DeviceType::Cpu;
    AdapterSummary {
        index,
        name: info.name.clone(),
        backend: info.backend.to_string(),
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete GPU",
            wgpu::DeviceType::IntegratedGpu => "integrated GPU",
            wgpu::DeviceType::VirtualGpu => "virtual GPU",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        },
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        software,
        f16: features.contains(wgpu::Features::SHADER_F16),
        subgroup: features
            .contains(wgpu::Features::SUBGROUP)
            .then_some((info.subgroup_min_size, info.subgroup_max_size)),
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES),
        matrix_units: matrix_units(adapter),
        limits: limits_of(adapter),
    }
}

/// NVIDIA and AMD, by their numbers on the PCI bus. Metal names none: its GPUs are Apple's, but for old ones.
const MANY_REGISTERS: [u32; 2] = [0x10de, 0x1002];

fn limits_of(adapter: &wgpu::Adapter) -> Limits {
    let (limits, info) = (adapter.limits(), adapter.get_info());
    let subgroups = adapter.features().contains(wgpu::Features::SUBGROUP);
    let software = info.device_type == wgpu::DeviceType::Cpu;
    let alignment =
        limits.min_storage_buffer_offset_alignment.max(limits.min_uniform_buffer_offset_alignment);
    Limits {
        storage_binding_bytes: limits.max_storage_buffer_binding_size,
        buffer_bytes: limits.max_buffer_size,
        // 256 everywhere: one plan then fits every device.
        offset_alignment_bytes: u64::from(alignment).max(256),
        software,
        subgroup_lanes: if subgroups { info.subgroup_min_size } else { 0 },
        few_registers: !software && !MANY_REGISTERS.contains(&info.vendor),
        f16: adapter.features().contains(wgpu::Features::SHADER_F16),
        matrix: if software { MatrixUnits::None } else { matrix_units(adapter) },
        workgroup_bytes: limits.max_compute_workgroup_storage_size,
        submission_operations: match info.device_type {
            wgpu::DeviceType::Cpu => u64::MAX,
            wgpu::DeviceType::DiscreteGpu | wgpu::DeviceType::VirtualGpu => DISCRETE_OPERATIONS,
            wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::Other => INTEGRATED_OPERATIONS,
        },
    }
}

/// A fifth of a second on the slowest integrated GPUs, which do some 0.25 * 10^12 operations a second in our kernels; a fast one takes
/// a hundredth, and does not notice.
const INTEGRATED_OPERATIONS: u64 = 50_000_000_000;
/// A second on the slowest of those that are cards; on the fastest a step is a few submissions all the same.
const DISCRETE_OPERATIONS: u64 = 1_000_000_000_000;

/// What [`super::wide`] needs, where it is of use: on a Vulkan driver that runs on the processor.
fn wide_storage(adapter: &wgpu::Adapter) -> wgpu::Features {
    let info = adapter.get_info();
    match (info.device_type, info.backend) {
        (wgpu::DeviceType::Cpu, wgpu::Backend::Vulkan) => wgpu::Features::SHADER_INT64,
        _ => wgpu::Features::empty(),
    }
}

/// The largest matrices of f16 whose products the adapter adds up in f32.
fn matrix_units(adapter: &wgpu::Adapter) -> MatrixUnits {
    let wanted = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16;
    if !adapter.features().contains(wanted | wgpu::Features::SUBGROUP) {
        return MatrixUnits::None;
    }
    let offered = adapter.cooperative_matrix_properties();
    let has = |side: u32| {
        offered.iter().any(|offer| {
            [offer.m_size, offer.n_size, offer.k_size] == [side; 3]
                && offer.ab_type == wgpu::CooperativeScalarType::F16
                && offer.cr_type == wgpu::CooperativeScalarType::F32
        })
    };
    match (has(16), has(8)) {
        (true, _) => MatrixUnits::Sixteen,
        (_, true) => MatrixUnits::Eight,
        _ => MatrixUnits::None,
    }
}

const LOST: &str = "the device was lost";
const REFUSED: &str = "the driver refused a device";

/// The failure of a device that answers no more.
pub fn device_lost(why: impl fmt::Display) -> Error {
    Error::failure(format!("{LOST}: {why}"))
}

/// Whether an error, of another process too, says that a device was lost or cannot be had.
pub fn is_device_gone(message: &str) -> bool {
    message.contains(LOST) || message.contains(REFUSED)
}

impl Gpu {
    /// Opens the adapter that `choice` names: its number in [`list_adapters`], or a part of its name, any case; the
    /// first (a real GPU before the software one) where it is `None`.
    ///
    /// # Errors
    /// No adapter at all (with what to install), none that matches (with those there are), or a driver that refuses.
    pub fn open(choice: Option<&str>) -> Result<Self> {
        Self::open_with(choice, None)
    }

    /// The same for tests: what its kernels do wrong is counted, and from then on whatever is read back panics with their names.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn open_watched(choice: Option<&str>, watched: Watched) -> Result<Self> {
        Self::open_with(choice, Some(watched))
    }

    fn open_with(choice: Option<&str>, watched: Option<Watched>) -> Result<Self> {
        let adapters = adapters();
        let all: Vec<AdapterSummary> =
            adapters.iter().enumerate().map(|(index, adapter)| summarise(index, adapter)).collect();
        let index = choose(&all, choice)?;
        let (adapter, summary) = (&adapters[index], all[index].clone());
        let features = wanted_features(adapter);
        let checked = watched.is_some();
        // Matrix units are behind an experimental feature: a driver that refuses it still gives a plain device.
        let matrix = adapter.features() & wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        let (device, queue) = request(adapter, features | matrix, checked)
            .or_else(|e| if matrix.is_empty() { Err(e) } else { request(adapter, features, checked) })
            .map_err(|e| Error::failure(format!("{summary}: {REFUSED}: {e}")))?;
        let mut limits = summary.limits;
        if !device.features().contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            limits.matrix = MatrixUnits::None;
        }
        if watched == Some(Watched::BoundsAndRaces) && !limits.software {
            // What is seen of an element takes no more than the element. A software adapter takes more than it says.
            limits.workgroup_bytes /= 2;
        }
        // Tests compile everything, so that a cache hides nothing from them.
        let cache = if checked { None } else { PipelineCache::open(&device, &adapter.get_info()) };
        let watch = watched.map(|watched| Watch::new(&device, watched));
        let pipelines = Mutex::default();
        Ok(Self { device, queue, summary, limits, watch, cache, pipelines })
    }

    /// What was opened.
    pub fn summary(&self) -> &AdapterSummary {
        &self.summary
    }

    /// The limits that recordings keep to.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The same device under tighter limits, as a smaller one would have: for tests of slicing.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    pub(super) fn pipeline_cache(&self) -> Option<&wgpu::PipelineCache> {
        self.cache.as_ref().map(PipelineCache::inner)
    }

    /// Its shaders access storage in fewer pieces: see [`super::wide`].
    pub(super) fn widens(&self) -> bool {
        self.device.features().contains(wgpu::Features::SHADER_INT64)
    }
}

/// What there is of the features that are of use, except for matrix units.
pub(super) fn wanted_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    let wanted = wgpu::Features::SHADER_F16
        | wgpu::Features::SUBGROUP
        | wgpu::Features::PIPELINE_CACHE
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS
        | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES;
    adapter.features() & (wanted | wide_storage(adapter))
}

/// Where this is 1, a Vulkan driver checks bounds all the same: to find out whether an access beyond them is why a device is lost.
const BOUNDS_CHECKS: &str = "ROSETTE_BOUNDS_CHECKS";

/// Whether the environment asks for that.
pub fn checks_bounds() -> bool {
    std::env::var(BOUNDS_CHECKS).as_deref() == Ok("1")
}

fn request(
    adapter: &wgpu::Adapter,
    features: wgpu::Features,
    checked: bool,
) -> std::result::Result<(wgpu::Device, wgpu::Queue), wgpu::RequestDeviceError> {
    let descriptor = descriptor(adapter, features);
    #[cfg(not(target_vendor = "apple"))]
    if !checked
        && !checks_bounds()
        && let Some(opened) = super::vulkan::request_unchecked(adapter, &descriptor)
    {
        return Ok(opened);
    }
    #[cfg(target_vendor = "apple")]
    let _ = checked;
    pollster::block_on(adapter.request_device(&descriptor))
}

pub(super) fn descriptor(
    adapter: &wgpu::Adapter,
    features: wgpu::Features,
) -> wgpu::DeviceDescriptor<'static> {
    let experimental_features = if features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
        // SAFETY: the feature may have bugs that reach outside a shader; kernels that use it are checked against
        // the reference on the device before they are chosen.
        #[allow(unsafe_code)]
        unsafe {
            wgpu::ExperimentalFeatures::enabled()
        }
    } else {
        wgpu::ExperimentalFeatures::disabled()
    };
    wgpu::DeviceDescriptor {
        label: Some("rosette"),
        required_features: features,
        required_limits: adapter.limits(),
        experimental_features,
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    }
}

fn choose(all: &[AdapterSummary], choice: Option<&str>) -> Result<usize> {
    if all.is_empty() {
        return Err(Error::user(
            "adapter",
            "a GPU or a software adapter that speaks Vulkan, Metal or DX12",
            "none",
            "install the GPU's driver, or on Debian and Ubuntu the software adapter: \
             apt-get install mesa-vulkan-drivers libvulkan1",
        ));
    }
    let Some(choice) = choice.filter(|choice| !choice.is_empty()) else { return Ok(0) };
    let by_number = choice.parse::<usize>().ok().filter(|number| *number < all.len());
    // As it is listed, with backend and kind: one GPU may be there by Vulkan and by DX12.
    let by_name = || all.iter().position(|a| a.to_string().to_lowercase().contains(&choice.to_lowercase()));
    by_number.or_else(by_name).ok_or_else(|| {
        let known: Vec<String> = all.iter().map(|a| format!("{}: {a}", a.index)).collect();
        Error::user(
            "--adapter",
            "the number or a part of the name of an adapter",
            format!("'{choice}'"),
            format!("choose one of: {}", known.join("; ")),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On Windows one GPU is listed twice, and only the backend tells which.
    #[test]
    fn an_adapter_is_chosen_by_number_name_or_backend() {
        let listed = |index: usize, name: &str, backend: &str| AdapterSummary {
            index,
            name: name.into(),
            backend: backend.into(),
            kind: "discrete GPU",
            driver: String::new(),
            software: false,
            f16: false,
            subgroup: None,
            timestamps: false,
            matrix_units: MatrixUnits::None,
            limits: Limits::WEBGPU,
        };
        let all =
            [listed(0, "Some GPU", "vulkan"), listed(1, "Some GPU", "dx12"), listed(2, "Other", "vulkan")];
        for (choice, expected) in [
            (None, 0),
            (Some(""), 0),
            (Some("1"), 1),
            (Some("some"), 0),
            (Some("DX12"), 1),
            (Some("other"), 2),
        ] {
            assert_eq!(choose(&all, choice).expect("there is one"), expected, "{choice:?}");
        }
        let refused = choose(&all, Some("metal")).expect_err("there is none").to_string();
        assert!(
            refused.contains("'metal'") && refused.contains("1: Some GPU (dx12, discrete GPU)"),
            "{refused}"
        );
    }
}
