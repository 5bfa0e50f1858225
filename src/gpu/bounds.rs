//! Accesses beyond the end of an array, found: for tests. A device opened for training has neither wgpu nor its driver check
//! bounds ([`super::vulkan`]), so that a kernel has to stay within its buffers by itself; a check that makes an access harmless
//! would hide that it does not.
//!
//! Every index of an array in storage goes through a function that counts those beyond the end. Each kernel has a count of its
//! own, in a second bind group.

use std::sync::{Mutex, PoisonError};

use super::kernel::Kernel;
use super::wide::{Element, code, declaration, is_member, words};

/// Offsets of bindings are multiples of this on every device.
const SLOT_BYTES: u64 = 256;
const MOST_KERNELS: u64 = 1 << 13;

const COUNT: &str = "
@group(1) @binding(0) var<storage, read_write> beyond_end: atomic<u32>;

fn counted_index(index: u32, length: u32) -> u32 {
    if (index >= length) {
        atomicAdd(&beyond_end, 1u);
        return length - 1u;
    }
    return index;
}
";

/// A shader's text whose accesses beyond the end of an array in storage are counted, and go to its last element.
pub(super) fn watched(text: &str) -> String {
    let code = code(text).join("\n");
    let arrays: Vec<&str> = code.lines().filter_map(|line| declaration(line)).map(|(name, _)| name).collect();
    rewritten(&code, &arrays) + COUNT
}

fn rewritten(code: &str, arrays: &[&str]) -> String {
    let mut text = String::new();
    let mut done = 0;
    for (at, word) in words(code) {
        if at < done || is_member(code, at) || !arrays.contains(&word) {
            continue;
        }
        let Some(element) = Element::at(code, at + word.len()) else { continue };
        let index = rewritten(&code[element.index.clone()], arrays);
        text.push_str(&code[done..element.index.start]);
        text.push_str(&format!("counted_index(u32({index}), arrayLength(&{word}))"));
        done = element.index.end;
    }
    text + &code[done..]
}

/// The counts of a device's kernels.
pub(super) struct Bounds {
    counts: wgpu::Buffer,
    kernels: Mutex<Vec<Kernel>>,
}

impl Bounds {
    pub(super) fn new(device: &wgpu::Device) -> Self {
        let counts = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("accesses beyond the end"),
            size: SLOT_BYTES * MOST_KERNELS,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Self { counts, kernels: Mutex::default() }
    }

    /// The count of a kernel, as its pipeline binds it.
    ///
    /// # Panics
    /// After thousands of kernels.
    pub(super) fn bind_group(
        &self,
        device: &wgpu::Device,
        kernel: &Kernel,
        pipeline: &wgpu::ComputePipeline,
    ) -> wgpu::BindGroup {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = kernels.iter().position(|known| known == kernel).unwrap_or_else(|| {
            kernels.push(kernel.clone());
            kernels.len() - 1
        }) as u64;
        assert!(slot < MOST_KERNELS, "more kernels than counts");
        let binding = wgpu::BufferBinding {
            buffer: &self.counts,
            offset: slot * SLOT_BYTES,
            size: std::num::NonZeroU64::new(4),
        };
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(1),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(binding) }],
        })
    }

    /// The counts, and how many bytes of them are of use; none before the first kernel.
    pub(super) fn counts(&self) -> Option<(wgpu::Buffer, u64)> {
        let kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        (!kernels.is_empty()).then(|| (self.counts.clone(), kernels.len() as u64 * SLOT_BYTES))
    }

    /// # Panics
    /// Where a kernel accessed what is beyond the end of an array.
    pub(super) fn check(&self, counts: &[u8]) {
        let kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let found: Vec<String> = counts
            .chunks(SLOT_BYTES as usize)
            .zip(kernels.iter())
            .map(|(slot, kernel)| (bytemuck::pod_read_unaligned::<u32>(&slot[..4]), kernel))
            .filter(|(count, _)| *count > 0)
            .map(|(count, kernel)| format!("{kernel}: {count}"))
            .collect();
        assert!(found.is_empty(), "accesses beyond the end of an array: {}", found.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(statement: &str) -> String {
        let text = format!("{X}\n{Y}\n@compute @workgroup_size(1)\nfn f() {{\n{statement}\n}}\n");
        let watched = watched(&text);
        if let Err(e) = naga::front::wgsl::parse_str(&watched) {
            panic!("{}", e.emit_to_string(&watched));
        }
        let (_, body) = watched.split_once("fn f() {\n").expect("the function");
        body.split_once("\n}").expect("its end").0.to_owned()
    }

    const X: &str = "@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;";
    const Y: &str = "@group(0) @binding(1) var<storage, read_write> y: array<f32>;";
    #[test]
    fn every_index_is_counted_also_one_within_another() {
        let found = body("y[u32(x[2].y)] = x[1u].x; // y[3u]");
        assert_eq!(
            found,
            "y[counted_index(u32(u32(x[counted_index(u32(2), arrayLength(&x))].y)), arrayLength(&y))] = \
             x[counted_index(u32(1u), arrayLength(&x))].x;"
        );
    }
}
