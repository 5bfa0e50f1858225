// AdamW (Loshchilov and Hutter 2019; `torch.optim.AdamW`), one step over flat buffers, element by element:
//   w -= lr * decay * w;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   w -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)
//
//   w, g, m, v   [len]   f32, a multiple of 4 elements
//   step         [4]     f32: lr, lr / (1 - b1^t), 1 / sqrt(1 - b2^t), what g is multiplied by first
//
// Where that last is 0, nothing changes: the gradients of a scaled loss overflowed, and the step is skipped.
//
// An invocation owns the 4 or 8 elements of V. Padding between the ranges of the buffers is zero and stays zero.
#import grid

// Groups of four elements in V.
const FOURS: u32 = V_FLOATS / 4u;

struct Params {
    len: u32,
    decay: f32,
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> w: array<V>;
@group(0) @binding(1) var<storage, read> g: array<V>;
@group(0) @binding(2) var<storage, read_write> m: array<V>;
@group(0) @binding(3) var<storage, read_write> v: array<V>;
@group(0) @binding(4) var<uniform> step_sizes: vec4<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64)
fn adamw(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.len / V_FLOATS || step_sizes.w == 0.0) {
        return;
    }
    let gradients = g[index];
    let firsts = m[index];
    let seconds = v[index];
    let weights = w[index];
    var first: array<vec4<f32>, 2>;
    var second: array<vec4<f32>, 2>;
    var weight: array<vec4<f32>, 2>;
    #unroll
    for (var k = 0u; k < FOURS; k++) {
        let gradient = four_of(gradients, k) * step_sizes.w;
        first[k] = params.beta1 * four_of(firsts, k) + params.rest1 * gradient;
        second[k] = params.beta2 * four_of(seconds, k) + params.rest2 * gradient * gradient;
        let decayed = four_of(weights, k) * (1.0 - step_sizes.x * params.decay);
        weight[k] = decayed - step_sizes.y * first[k] / (sqrt(second[k]) * step_sizes.z + params.eps);
    }
    m[index] = of_fours(first, 0u);
    v[index] = of_fours(second, 0u);
    w[index] = of_fours(weight, 0u);
}
