//! A device of the tests finds accesses beyond the end of storage, which one opened for training lets through: there neither
//! wgpu nor the driver checks them. One that looks at a workgroup's memory finds what a software adapter hides: a missing barrier.

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
    let command = Command { kernel, bindings, params: Vec::new(), groups: 2, operations: 0 };
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

/// Each invocation hands its number to the one `SHIFT` further on.
const PASS_ON: ShaderSource = ShaderSource {
    name: "pass_on",
    text: "
#import grid
@group(0) @binding(0) var<storage, read_write> y: array<u32>;
const SHIFT: u32 = 0u;
const MEET: bool = true;
const SETTERS: u32 = 64u;
const SET: u32 = 64u;
var<workgroup> numbers: array<u32, 64>;

@compute @workgroup_size(64)
fn pass_on(id: Invocation) {
    if (id.lane < SET) {
        numbers[id.lane % SETTERS] = id.lane;
    }
    if (MEET) {
        workgroupBarrier();
    }
    y[invocation_index(id)] = numbers[(id.lane + SHIFT) % SETTERS];
}
",
};

/// What every invocation got, of two workgroups, or what the device says is wrong.
fn pass_on(variant: Variant) -> Option<std::result::Result<Vec<u32>, String>> {
    run(PASS_ON, variant)
}

fn run(source: ShaderSource, variant: Variant) -> Option<std::result::Result<Vec<u32>, String>> {
    let gpu = common::device_for_races()?;
    let kernel = Kernel::new(source, "pass_on", variant);
    let buffer = gpu.buffer("y", 512).expect("memory enough");
    let bindings = vec![Binding { buffer: 0, offset_bytes: 0, size_bytes: 512 }];
    let command = Command { kernel, bindings, params: Vec::new(), groups: 2, operations: 0 };
    let loaded = gpu.load(&[command], std::slice::from_ref(&buffer)).expect("a kernel it takes");
    gpu.run(&loaded);
    let read = catch_unwind(AssertUnwindSafe(|| gpu.read(&buffer, 0..512).expect("the device works")));
    let told = |panic: Box<dyn std::any::Any + Send>| *panic.downcast::<String>().expect("words");
    Some(read.map(|bytes| bytemuck::pod_collect_to_vec(&bytes)).map_err(told))
}

#[test]
fn what_is_passed_on_over_a_barrier_is_no_race() {
    let Some(found) = pass_on(Variant::new().with("SHIFT", "9u")) else { return };
    let expected: Vec<u32> = (0..128).map(|i| (i + 9) % 64).collect();
    assert_eq!(found, Ok(expected));
}

#[test]
fn a_missing_barrier_is_found_within_and_beyond_a_subgroup() {
    for shift in ["1u", "9u", "32u"] {
        let missing = Variant::new().with("MEET", false).with("SHIFT", shift);
        let Some(found) = pass_on(missing) else { return };
        let told = found.expect_err("a race");
        assert!(
            told.starts_with("races in a workgroup's memory: pass_on/pass_on[MEET=false,SHIFT="),
            "{told}"
        );
    }
    let Some(found) = pass_on(Variant::new().with("MEET", false)) else { return };
    assert_eq!(found, Ok((0..128).map(|i| i % 64).collect()), "who reads only its own needs no barrier");
}

#[test]
fn an_element_that_several_set_at_once_is_found_where_it_is_read() {
    let Some(found) = pass_on(Variant::new().with("SETTERS", "32u")) else { return };
    let told = found.expect_err("nobody knows whose number is there");
    assert_eq!(told, "races in a workgroup's memory: pass_on/pass_on[SETTERS=32u]: 128");
}

#[test]
fn an_element_that_nothing_set_is_found_where_it_is_read() {
    let Some(found) = pass_on(Variant::new().with("SET", "60u")) else { return };
    let told = found.expect_err("four are whatever was there");
    assert_eq!(told, "reads of a workgroup's memory before anything set it: pass_on/pass_on[SET=60u]: 8");
}

#[test]
fn an_element_beyond_the_end_of_a_workgroups_array_is_found() {
    let Some(found) = pass_on(Variant::new().with("SETTERS", "128u").with("SHIFT", "9u")) else { return };
    let told = found.expect_err("nine of each workgroup's");
    let beyond = "accesses beyond the end of an array: pass_on/pass_on[SETTERS=128u,SHIFT=9u]: 18";
    assert!(told == beyond || told.starts_with(&format!("{beyond};")), "{told}");
}

/// All read the first element before the invocation `SETTER` sets it.
const READ_THEN_SET: ShaderSource = ShaderSource {
    name: "read_then_set",
    text: "
#import grid
@group(0) @binding(0) var<storage, read_write> y: array<u32>;
const SETTER: u32 = 0u;
const MEET: bool = true;
const READERS: u32 = 64u;
var<workgroup> numbers: array<u32, 64>;

@compute @workgroup_size(64)
fn pass_on(id: Invocation) {
    numbers[id.lane] = id.lane + 5u;
    workgroupBarrier();
    var found = 5u;
    if (id.lane < READERS) {
        found = numbers[0];
    }
    if (MEET) {
        workgroupBarrier();
    }
    if (id.lane == SETTER) {
        numbers[0] = 7u;
    }
    y[invocation_index(id)] = found;
}
",
};

#[test]
fn what_is_set_while_others_read_it_is_found() {
    let with = |meet: bool, setter: u32, readers: u32| {
        let variant = Variant::new().with("MEET", meet).with("SETTER", format!("{setter}u"));
        run(READ_THEN_SET, variant.with("READERS", format!("{readers}u")))
    };
    let Some(found) = with(true, 40, 64) else { return };
    assert_eq!(found, Ok(vec![5; 128]));
    for (setter, readers) in [(40, 8), (0, 64), (63, 1)] {
        let told = with(false, setter, readers).expect("a device").expect_err("a race");
        assert!(told.starts_with("races in a workgroup's memory: read_then_set/pass_on["), "{told}");
    }
    let alone = with(false, 0, 1).expect("a device");
    assert_eq!(alone, Ok(vec![5; 128]), "who alone reads may set");
}
