//! A device of the tests finds accesses beyond the end of storage, which one opened for training lets through: there neither
//! wgpu nor the driver checks them.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use rosette::gpu::{Binding, Command, Gpu, Kernel, ShaderSource, Variant};

const LEN: u64 = 100;
const COPY: ShaderSource = ShaderSource {
    name: "copy_from_further_on",
    text: "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
const SHIFT: u32 = 0u;

@compute @workgroup_size(64)
fn copy(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < arrayLength(&y)) {
        y[id.x] = x[id.x + SHIFT];
    }
}
",
};

fn copy(gpu: &Gpu, source: ShaderSource, shift: u32) -> Vec<f32> {
    let kernel = Kernel::new(source, "copy", Variant::new().with("SHIFT", format!("{shift}u")));
    let buffers = ["x", "y"].map(|label| gpu.buffer(label, 1024).expect("memory enough"));
    let values: Vec<f32> = (0..256).map(|i| i as f32).collect();
    gpu.write(&buffers[0], 0, bytemuck::cast_slice(&values));
    // What is beyond the end is memory all the same.
    let bindings = [0, 1].map(|buffer| Binding { buffer, offset_bytes: 0, size_bytes: 4 * LEN }).to_vec();
    let command = Command { kernel, bindings, params: Vec::new(), groups: 2 };
    let loaded = gpu.load(&[command], &buffers).expect("a kernel it takes");
    gpu.run(&loaded);
    let bytes = gpu.read(&buffers[1], 0..4 * LEN).expect("the device works");
    bytemuck::pod_collect_to_vec(&bytes)
}

#[test]
fn an_access_beyond_the_end_is_found_and_told_by_its_kernel() {
    let Some(gpu) = common::device() else { return };
    let expected: Vec<f32> = (0..LEN).map(|i| i as f32).collect();
    assert_eq!(copy(&gpu, COPY, 0), expected);
    let found =
        catch_unwind(AssertUnwindSafe(|| copy(&gpu, COPY, 3))).expect_err("three elements beyond the end");
    let told = found.downcast::<String>().expect("words");
    assert!(told.contains("copy_from_further_on/copy[SHIFT=3u]: 3"), "{told}");
}

const COPY_ROUNDS: ShaderSource = ShaderSource {
    name: "copy_in_rounds",
    text: "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
const SHIFT: u32 = 0u;

@compute @workgroup_size(64)
fn copy(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= arrayLength(&y)) {
        return;
    }
    var sum = 0.0;
    #unroll
    for (var i = 0u; i < 2u; i++) {
        sum += x[id.x] * f32(i);
    }
    y[id.x] = sum + x[id.x + SHIFT] - x[id.x];
}
",
};

/// The first round of an unrolled loop was taken for the end of the kernel: what came after it was counted and never told.
#[test]
fn an_access_beyond_the_end_after_an_unrolled_loop_is_found() {
    let Some(gpu) = common::device() else { return };
    let expected: Vec<f32> = (0..LEN).map(|i| i as f32).collect();
    assert_eq!(copy(&gpu, COPY_ROUNDS, 0), expected);
    let found = catch_unwind(AssertUnwindSafe(|| copy(&gpu, COPY_ROUNDS, 3)));
    let told = found.expect_err("three elements beyond the end").downcast::<String>().expect("words");
    assert!(told.contains("copy_in_rounds/copy[SHIFT=3u]: 3"), "{told}");
}
