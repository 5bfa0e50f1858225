//! A Vulkan device whose driver checks no bounds.
//!
//! wgpu has every driver check every access to storage (`robustBufferAccess`), for the sake of shaders that a web page brings.
//! Where a GPU has no such test in hardware, NVIDIA's above all, the compiler adds a comparison to every access, and some then
//! load component by component: Mesa's makes 1.8 times the instructions of this program's kernels. They need none, since they
//! stay within their buffers: every test on a device watches them do so ([`super::bounds`]).

use ash::{ext, vk};
use wgpu::hal::api::Vulkan;

/// The device that `descriptor` asks for, without the driver's checks of bounds; none where the adapter speaks no Vulkan or
/// refuses.
pub(super) fn request_unchecked(
    adapter: &wgpu::Adapter,
    descriptor: &wgpu::DeviceDescriptor<'_>,
) -> Option<(wgpu::Device, wgpu::Queue)> {
    // wgpu takes the first family too.
    const FAMILY: u32 = 0;
    // SAFETY: the adapter is only read, and outlives what is made of it.
    #[allow(unsafe_code)]
    let hal = unsafe { adapter.as_hal::<Vulkan>() }?;
    let wanted = descriptor.required_features;
    let mut extensions = hal.required_device_extensions(wanted);
    extensions.retain(|name| *name != ext::robustness2::NAME);
    let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
    let mut features = hal.physical_device_features(&extensions, wanted);
    let core = vk::PhysicalDeviceFeatures { robust_buffer_access: vk::FALSE, ..features.get_core() };
    let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(FAMILY).queue_priorities(&[1.0])];
    let info = vk::DeviceCreateInfo::default().queue_create_infos(&queues).enabled_extension_names(&names);
    let info = features.add_to_device_create(info).enabled_features(&core);
    // SAFETY: made of this adapter as wgpu makes its own, but without the extension and the features that check bounds, against
    // the contract of `device_from_raw`: all that wgpu concludes from them is whether shaders that it does not trust need checks
    // in their text, and it is given none of these.
    #[allow(unsafe_code)]
    let opened = unsafe {
        let raw = hal.shared_instance().raw_instance().create_device(hal.raw_physical_device(), &info, None);
        raw.map_err(|e| e.to_string()).and_then(|raw| {
            let (limits, hints) = (&descriptor.required_limits, &descriptor.memory_hints);
            hal.device_from_raw(raw, None, &extensions, wanted, limits, hints, FAMILY, 0)
                .map_err(|e| e.to_string())
                .and_then(|open| adapter.create_device_from_hal(open, descriptor).map_err(|e| e.to_string()))
        })
    };
    opened.inspect_err(|why| tracing::debug!("the driver checks bounds: {why}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::device::{adapters, descriptor, wanted_features};

    #[test]
    fn every_vulkan_adapter_opens_without_its_checks_of_bounds() {
        for adapter in adapters() {
            let is_vulkan = adapter.get_info().backend == wgpu::Backend::Vulkan;
            let features = wanted_features(&adapter);
            let opened = request_unchecked(&adapter, &descriptor(&adapter, features));
            assert_eq!(opened.is_some(), is_vulkan, "{:?}", adapter.get_info());
        }
    }
}
