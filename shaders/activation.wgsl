// Point by point: ReLU y = max(x, 0), sigmoid y = 1 / (1 + exp(-x)), sum y = a + b; and the gradients of the first two,
// from y alone. An invocation owns one V (vec4<f32>, or f32 where the length is no multiple of 4).
//
//   a, b, y, dy, dx   [len]   Stored: V itself, or vec4<f16>; arithmetic is in f32
#import grid

alias V = vec4<f32>;
alias Stored = V;

struct Params {
    len: u32,
}

@group(0) @binding(0) var<storage, read> a: array<Stored>;
@group(0) @binding(1) var<storage, read> b: array<Stored>;
@group(0) @binding(2) var<storage, read_write> y: array<Stored>;
@group(0) @binding(3) var<uniform> params: Params;

fn place(id: Invocation) -> u32 {
    return invocation_index(id);
}

@compute @workgroup_size(64)
fn relu(id: Invocation) {
    let index = place(id);
    if (index < params.len) {
        // Not max(): a number that is none must stay so, or a training that diverged goes unseen.
        let value = V(a[index]);
        y[index] = Stored(select(value, V(0.0), value < V(0.0)));
    }
}

// a: y of the forward pass, b: dy
@compute @workgroup_size(64)
fn relu_gradient(id: Invocation) {
    let index = place(id);
    if (index < params.len) {
        y[index] = Stored(select(V(0.0), V(b[index]), V(a[index]) > V(0.0)));
    }
}

@compute @workgroup_size(64)
fn sigmoid(id: Invocation) {
    let index = place(id);
    if (index < params.len) {
        // exp of a negative number only: nothing overflows.
        let value = V(a[index]);
        let e = exp(-abs(value));
        let small = e / (V(1.0) + e);
        y[index] = Stored(select(small, V(1.0) - small, value >= V(0.0)));
    }
}

// a: y of the forward pass, b: dy
@compute @workgroup_size(64)
fn sigmoid_gradient(id: Invocation) {
    let index = place(id);
    if (index < params.len) {
        let value = V(a[index]);
        y[index] = Stored(V(b[index]) * value * (V(1.0) - value));
    }
}

@compute @workgroup_size(64)
fn add(id: Invocation) {
    let index = place(id);
    if (index < params.len) {
        y[index] = Stored(V(a[index]) + V(b[index]));
    }
}
