// Exponential moving average (Polyak and Juditsky 1992), element by element:  a += r (x - a)
//
//   a, x    [len]   f32, a multiple of 4 elements
//   rates   [4]     f32: r, 1 minus the decay, then nothing
//
// An invocation owns 4 elements.
#import grid

struct Params {
    len: u32,
}

@group(0) @binding(0) var<storage, read_write> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> rates: vec4<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn moving_average(id: Invocation) {
    let index = invocation_index(id);
    if (index < params.len / 4u) {
        a[index] += rates.x * (x[index] - a[index]);
    }
}
