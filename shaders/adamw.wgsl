// AdamW (Loshchilov and Hutter 2019; `torch.optim.AdamW`), one step over flat buffers, element by element:
//   w -= lr * decay * w;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   w -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)
//
//   w, g, m, v   [len]   f32, a multiple of 4 elements
//   step         [4]     f32: lr, lr / (1 - b1^t), 1 / sqrt(1 - b2^t), what g is multiplied by first
//
// Where that last is 0, nothing changes: the gradients of a scaled loss overflowed, and the step is skipped.
//
// An invocation owns the 4 or 8 elements of a Group (stored4, stored8). Padding between the ranges of the buffers is zero and stays zero.
#import grid

alias Stored = vec4<f32>;

struct Params {
    len: u32,
    decay: f32,
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> w: array<Group>;
@group(0) @binding(1) var<storage, read> g: array<Group>;
@group(0) @binding(2) var<storage, read_write> m: array<Group>;
@group(0) @binding(3) var<storage, read_write> v: array<Group>;
@group(0) @binding(4) var<uniform> step_sizes: vec4<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64)
fn adamw(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.len / (4u * FOURS) || step_sizes.w == 0.0) {
        return;
    }
    let gradients = g[index];
    let firsts = m[index];
    let seconds = v[index];
    let weights = w[index];
    var first: array<Stored, FOURS>;
    var second: array<Stored, FOURS>;
    var weight: array<Stored, FOURS>;
    #unroll
    for (var k = 0u; k < FOURS; k++) {
        let gradient = part_of(gradients, k) * step_sizes.w;
        first[k] = params.beta1 * part_of(firsts, k) + params.rest1 * gradient;
        second[k] = params.beta2 * part_of(seconds, k) + params.rest2 * gradient * gradient;
        let decayed = part_of(weights, k) * (1.0 - step_sizes.x * params.decay);
        weight[k] = decayed - step_sizes.y * first[k] / (sqrt(second[k]) * step_sizes.z + params.eps);
    }
    m[index] = whole_of(first);
    v[index] = whole_of(second);
    w[index] = whole_of(weight);
}
