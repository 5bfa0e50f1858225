// Point by point: ReLU y = max(x, 0), sigmoid y = 1 / (1 + exp(-x)), sum y = a + b; and the gradients of the first two,
// from y alone. An invocation owns one V (vec4<f32>, or f32 where the length is no multiple of 4).
//
//   a, b, y, dy, dx   [len]   f32
#import grid

alias V = vec4<f32>;

struct Params {
    len: u32,
}

@group(0) @binding(0) var<storage, read> a: array<V>;
@group(0) @binding(1) var<storage, read> b: array<V>;
@group(0) @binding(2) var<storage, read_write> y: array<V>;
@group(0) @binding(3) var<uniform> params: Params;

fn place(workgroup_id: vec3<u32>, num_workgroups: vec3<u32>, lane: u32) -> u32 {
    return linear_group(workgroup_id, num_workgroups) * 64u + lane;
}

@compute @workgroup_size(64)
fn relu(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(num_workgroups) num_workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place(workgroup_id, num_workgroups, lane);
    if (index < params.len) {
        y[index] = max(a[index], V(0.0));
    }
}

// a: y of the forward pass, b: dy
@compute @workgroup_size(64)
fn relu_gradient(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(num_workgroups) num_workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place(workgroup_id, num_workgroups, lane);
    if (index < params.len) {
        y[index] = select(V(0.0), b[index], a[index] > V(0.0));
    }
}

@compute @workgroup_size(64)
fn sigmoid(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(num_workgroups) num_workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place(workgroup_id, num_workgroups, lane);
    if (index < params.len) {
        // exp of a negative number only: nothing overflows.
        let e = exp(-abs(a[index]));
        let small = e / (V(1.0) + e);
        y[index] = select(small, V(1.0) - small, a[index] >= V(0.0));
    }
}

// a: y of the forward pass, b: dy
@compute @workgroup_size(64)
fn sigmoid_gradient(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(num_workgroups) num_workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place(workgroup_id, num_workgroups, lane);
    if (index < params.len) {
        y[index] = b[index] * a[index] * (V(1.0) - a[index]);
    }
}

@compute @workgroup_size(64)
fn add(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(num_workgroups) num_workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = place(workgroup_id, num_workgroups, lane);
    if (index < params.len) {
        y[index] = a[index] + b[index];
    }
}
