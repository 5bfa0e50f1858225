// Gradient of the attention gate's signal. With z = norm(a) + norm(b), m = dp where z > 0, and dz = weight * m:
//   dweight = sum m * z,  dbeta = sum dz (of either norm),  dgamma_a = sum dz * xhat_a,
//   da = gamma_a * inv_a * (dz - (dbeta + xhat_a * dgamma_a) / P), where the statistics are those of the batch;
// and the same for b.
//
//   a, b, da, db   [P, C]            Stored (vec4<f32> or vec4<f16>; arithmetic is in f32), P = N * H * W pixels
//   dp             [P]               f32
//   table          [8][C]            f32: the fields of Channel
//   part           [splits][4][C]    f32: sum m, sum m * (a - mean_a), sum m * (b - mean_b), sum m * z of a split
//   sums           [4][C]            f32: the same of all pixels
//
// `gradient_sums` gives a channel group of a split of the pixels to an invocation, and the splits are added in order;
// `input_gradient` gives it a channel group of PIXELS pixels.
#import grid

alias Stored = vec4<f32>;
const PIXELS: u32 = 8u;

@group(0) @binding(0) var<storage, read> a: array<Stored>;
@group(0) @binding(1) var<storage, read> b: array<Stored>;
@group(0) @binding(2) var<storage, read> dp: array<f32>;
@group(0) @binding(3) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> part: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> dgamma_a: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> dbeta_a: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> dgamma_b: array<vec4<f32>>;
@group(0) @binding(9) var<storage, read_write> dbeta_b: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read_write> dweight: array<vec4<f32>>;
@group(0) @binding(11) var<storage, read_write> da: array<Stored>;
@group(0) @binding(12) var<storage, read_write> db: array<Stored>;
@group(0) @binding(13) var<uniform> params: Params;

#import attention

@compute @workgroup_size(64)
fn gradient_sums(id: Invocation) {
    let index = invocation_index(id);
    let n = params.groups;
    let group = index % n;
    let split = index / n;
    if (split >= params.splits) {
        return;
    }
    let c = channel(group);
    let start = split * params.pixels_per_split;
    let end = min(start + params.pixels_per_split, params.pixels);
    var total = vec4<f32>(0.0);
    var total_a = vec4<f32>(0.0);
    var total_b = vec4<f32>(0.0);
    var total_z = vec4<f32>(0.0);
    for (var pixel = start; pixel < end; pixel++) {
        let at = pixel_at(pixel * n + group, c);
        let m = select(vec4<f32>(0.0), vec4<f32>(dp[pixel]), at.z > vec4<f32>(0.0));
        total += m;
        total_a = fma(m, at.a, total_a);
        total_b = fma(m, at.b, total_b);
        total_z = fma(m, at.z, total_z);
    }
    let to = (params.split_first + split) * 4u * n + group;
    part[to] = total;
    part[to + n] = total_a;
    part[to + 2u * n] = total_b;
    part[to + 3u * n] = total_z;
}

@compute @workgroup_size(64)
fn weight_gradients(id: Invocation) {
    let group = invocation_index(id);
    let n = params.groups;
    if (group >= n) {
        return;
    }
    let c = channel(group);
    // 0 times what is there would keep a NaN.
    let keep = vec4<bool>(params.accumulate != 0u);
    let zero = vec4<f32>(0.0);
    let total = c.weight * sums[group];
    dbeta_a[group] = total + select(zero, dbeta_a[group], keep);
    dbeta_b[group] = total + select(zero, dbeta_b[group], keep);
    dgamma_a[group] = c.weight * c.inv_a * sums[n + group] + select(zero, dgamma_a[group], keep);
    dgamma_b[group] = c.weight * c.inv_b * sums[2u * n + group] + select(zero, dgamma_b[group], keep);
    dweight[group] = sums[3u * n + group] + select(zero, dweight[group], keep);
}

@compute @workgroup_size(64)
fn input_gradient(id: Invocation) {
    let n = params.groups;
    let group = invocation_index(id) % n;
    let first = invocation_index(id) / n;
    let c = channel(group);
    // In evaluation the statistics do not depend on a and b.
    let share = c.weight * select(0.0, 1.0 / f32(params.total_pixels), params.training != 0u);
    let mean = sums[group] * share;
    let mean_a = sums[n + group] * c.inv_a * c.inv_a * share;
    let mean_b = sums[2u * n + group] * c.inv_b * c.inv_b * share;
    let stride = (params.pixels + PIXELS - 1u) / PIXELS;
    for (var k = 0u; k < PIXELS; k++) {
        let pixel = first + k * stride;
        if (first < stride && pixel < params.pixels) {
            let index = pixel * n + group;
            let at = pixel_at(index, c);
            let dz = select(vec4<f32>(0.0), c.weight * dp[pixel], at.z > vec4<f32>(0.0)) - mean;
            da[index] = Stored(c.scale_a * (dz - at.a * mean_a));
            db[index] = Stored(c.scale_b * (dz - at.b * mean_b));
        }
    }
}
