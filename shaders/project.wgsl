// 1x1 convolution onto one channel: y[n,h,w] = b + sum over c of x[n,h,w,c] * weight[c].
// Gradients: dx[p,c] = dy[p] * weight[c], dweight[c] = sum over p of dy[p] * x[p,c].
//
//   x, dx    [P, C]         Stored (vec4<f32> or vec4<f16>; arithmetic is in f32), C a multiple of 4
//   weight   [C]            f32
//   coefficients [3 or more][C]    f32: mean, scale, beta, where x is normalised as it is read
//   y, dy    [P]            f32
//   part     [splits][C]    f32, partial sums of dweight; `split_sum` adds them in order
//
// An invocation owns a pixel (forward), 4 channels of a pixel (input), 4 channels of a split of the pixels (weight).
#import grid

alias Stored = vec4<f32>;
alias X = Stored;

struct Params {
    pixels: u32,
    groups: u32,
    pixels_per_split: u32,
    splits: u32,
    split_first: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read_write> x_gradient: array<Stored>;
@group(0) @binding(6) var<storage, read_write> part: array<vec4<f32>>;
@group(0) @binding(7) var<uniform> params: Params;
@group(0) @binding(8) var<storage, read> coefficients: array<vec4<f32>>;

#import normalised_read

@compute @workgroup_size(64)
fn forward(id: Invocation) {
    let pixel = invocation_index(id);
    if (pixel >= params.pixels) {
        return;
    }
    var total = vec4<f32>(0.0);
    for (var g = 0u; g < params.groups; g++) {
        let value = as_read(x[pixel * params.groups + g], norm_of(g, params.groups));
        total = fma(vec4<f32>(value), weight[g], total);
    }
    y[pixel] = bias[0] + ((total.x + total.y) + (total.z + total.w));
}

@compute @workgroup_size(64)
fn input_gradient(id: Invocation) {
    let index = invocation_index(id);
    if (index < params.pixels * params.groups) {
        x_gradient[index] = Stored(dy[index / params.groups] * weight[index % params.groups]);
    }
}

@compute @workgroup_size(64)
fn weight_gradient(id: Invocation) {
    let index = invocation_index(id);
    let group = index % params.groups;
    let split = index / params.groups;
    if (split >= params.splits) {
        return;
    }
    let end = min((split + 1u) * params.pixels_per_split, params.pixels);
    let norm = norm_of(group, params.groups);
    var total = vec4<f32>(0.0);
    for (var p = split * params.pixels_per_split; p < end; p++) {
        total = fma(vec4<f32>(as_read(x[p * params.groups + group], norm)), vec4<f32>(dy[p]), total);
    }
    part[(params.split_first + split) * params.groups + group] = total;
}
