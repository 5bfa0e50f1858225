//! A Vulkan device whose driver checks no bounds.
//!
//! wgpu has every driver check every access to storage (`robustBufferAccess`), for the sake of shaders that a web page brings.
//! Where a GPU has no such test in hardware, NVIDIA's above all, the compiler adds a comparison to every access, and some then
//! load component by component: Mesa's makes 1.8 times the instructions of this program's kernels. They need none, since they
//! stay within their buffers: `benches/bounds.sh` watches them do so.

use ash::{ext, vk};
use wgpu::hal::api::Vulkan;

/// The device that `descriptor` asks for, without the driver's checks of bounds; none where the adapter speaks no Vulkan or
/// refuses.
pub(super) fn request_unchecked(
    adapter: &wgpu::Adapter,
    descriptor: &wgpu::DeviceDescriptor<'_>,
) -> Option<(wgpu::Device, wgpu::Queue)> {
    const FAMILY: u32 = 0; // as wgpu's
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
    // SAFETY: made of this adapter, as wgpu makes its own, with the extensions and features it asks for, less those that check
    // bounds. Nothing of wgpu relies on these where shaders are trusted.
    #[allow(unsafe_code)]
    unsafe {
        let raw = hal
            .shared_instance()
            .raw_instance()
            .create_device(hal.raw_physical_device(), &info, None)
            .ok()?;
        let open = hal
            .device_from_raw(
                raw,
                None,
                &extensions,
                wanted,
                &descriptor.required_limits,
                &descriptor.memory_hints,
                FAMILY,
                0,
            )
            .ok()?;
        adapter.create_device_from_hal(open, descriptor).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vulkan_adapter_opens_without_its_checks_of_bounds() {
        for adapter in crate::gpu::device::adapters() {
            let is_vulkan = adapter.get_info().backend == wgpu::Backend::Vulkan;
            let opened = request_unchecked(&adapter, &wgpu::DeviceDescriptor::default());
            assert_eq!(opened.is_some(), is_vulkan, "{:?}", adapter.get_info());
        }
    }
}
