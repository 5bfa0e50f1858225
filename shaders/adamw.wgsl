// AdamW (Loshchilov and Hutter 2019; `torch.optim.AdamW`), one step over flat buffers, element by element:
//   w -= lr * decay * w;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   w -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)
//
//   w, g, m, v   [len]   f32, a multiple of 4 elements
//   step         [4]     f32: lr, lr / (1 - b1^t), 1 / sqrt(1 - b2^t), what g is multiplied by first
//
// Where that last is 0, nothing changes: the gradients of a scaled loss overflowed, and the step is skipped.
//
// An invocation owns 4 elements. Padding between the ranges of the buffers is zero and stays zero.
#import grid

struct Params {
    len: u32,
    decay: f32,
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> g: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> m: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> v: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> step_sizes: vec4<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64)
fn adamw(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.len / 4u || step_sizes.w == 0.0) {
        return;
    }
    let gradient = g[index] * step_sizes.w;
    let first = params.beta1 * m[index] + params.rest1 * gradient;
    let second = params.beta2 * v[index] + params.rest2 * gradient * gradient;
    m[index] = first;
    v[index] = second;
    let decayed = w[index] * (1.0 - step_sizes.x * params.decay);
    w[index] = decayed - step_sizes.y * first / (sqrt(second) * step_sizes.z + params.eps);
}
