// Smooth random displacement of patches (P. Simard, D. Steinkraus, J. Platt, ICDAR 2003): uniform noise in [-1, 1) for
// each pixel and direction, smoothed by a Gaussian along columns and rows. The field wraps round, so that it is as
// strong at the border as inside.
//
//   patches          [N]            39 words each
//   weights          [radius + 1]   f32, of the Gaussian from its middle outward
//   field, smoothed  [N, P, P, 2]   f32, (down, right) in units of the patch's `displacement`
//
// An invocation owns one pixel. Patches that are not displaced are passed over.
#import grid
#import random
#import patch

struct Params {
    side: u32,
    first: u32,
    len: u32,
    radius: u32,
}

@group(0) @binding(0) var<storage, read> patches: array<Patch>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read> field: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> smoothed: array<vec2<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

fn is_displaced(index: u32) -> bool {
    if (index >= params.len) {
        return false;
    }
    return patches[params.first + index / (params.side * params.side)].displacement > 0.0;
}

@compute @workgroup_size(64)
fn noise(id: Invocation) {
    let index = invocation_index(id);
    if (!is_displaced(index)) {
        return;
    }
    let patch_index = params.first + index / (params.side * params.side);
    let at = index % (params.side * params.side);
    let words = pcg4d(vec4<u32>(at, 0u, patches[patch_index].seed_a, patches[patch_index].seed_b));
    smoothed[index] = vec2<f32>(signed_unit(words.x), signed_unit(words.y));
}

// The mean around `middle` on a line of `side` pixels, `stride` apart, that starts at `start`.
fn smooth_line(start: u32, stride: u32, middle: u32) -> vec2<f32> {
    var sum = field[start + middle * stride] * weights[0];
    for (var k = 1u; k <= params.radius; k += 1u) {
        let after = (middle + k) % params.side;
        let before = (middle + params.side - k) % params.side;
        sum += (field[start + before * stride] + field[start + after * stride]) * weights[k];
    }
    return sum;
}

@compute @workgroup_size(64)
fn rows(id: Invocation) {
    let index = invocation_index(id);
    if (!is_displaced(index)) {
        return;
    }
    let column = index % params.side;
    smoothed[index] = smooth_line(index - column, 1u, column);
}

@compute @workgroup_size(64)
fn columns(id: Invocation) {
    let index = invocation_index(id);
    if (!is_displaced(index)) {
        return;
    }
    let at = index % (params.side * params.side);
    let column = at % params.side;
    smoothed[index] = smooth_line(index - at + column, params.side, at / params.side);
}
