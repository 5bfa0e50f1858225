// The attention gate's signal: p = bias + sum over c of weight * relu(norm(a) + norm(b)), both batch norms by channel.
//
//   a, b               [P, C]    Stored (vec4<f32> or vec4<f16>; arithmetic is in f32), P = N * H * W pixels
//   stats_a, stats_b   [4][C]    f32: mean, scale = gamma / sqrt(variance + eps), beta, 1 / sqrt(variance + eps)
//   weight, bias       [C], [1]  f32
//   table              [8][C]    f32: the fields of Channel, as `tabulate` makes them of the statistics
//   p                  [P]       f32
//
// In `forward` LANES invocations share a pixel's channels, and take PIXELS pixels. Their shares are added in order.
#import grid

alias Stored = vec4<f32>;
// A power of two, at most 64.
const LANES: u32 = 1u;
const PIXELS: u32 = 8u;

@group(0) @binding(0) var<storage, read> a: array<Stored>;
@group(0) @binding(1) var<storage, read> b: array<Stored>;
@group(0) @binding(2) var<storage, read> stats_a: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> stats_b: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> table_out: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> table: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
@group(0) @binding(8) var<storage, read_write> p: array<f32>;
@group(0) @binding(9) var<uniform> params: Params;

#import attention

var<workgroup> shares: array<f32, 64u * PIXELS>;

@compute @workgroup_size(64)
fn tabulate(id: Invocation) {
    let group = invocation_index(id);
    let n = params.groups;
    if (group >= n) {
        return;
    }
    table_out[group] = stats_a[group];
    table_out[n + group] = stats_a[3u * n + group];
    table_out[2u * n + group] = stats_a[n + group];
    table_out[3u * n + group] = stats_b[group];
    table_out[4u * n + group] = stats_b[3u * n + group];
    table_out[5u * n + group] = stats_b[n + group];
    table_out[6u * n + group] = stats_a[2u * n + group] + stats_b[2u * n + group];
    table_out[7u * n + group] = weight[group];
}

@compute @workgroup_size(64)
fn forward(id: Invocation) {
    // Neighbouring lanes read neighbouring channels, then neighbouring pixels.
    let span = 64u / LANES;
    let lane = id.lane % LANES;
    let column = id.lane / LANES;
    let first = linear_group(id) * span * PIXELS;
    var total: array<f32, PIXELS>;
    for (var group = lane; group < params.groups; group += LANES) {
        let c = channel(group);
        for (var k = 0u; k < PIXELS; k++) {
            // Pixels behind the last one are computed as the last one, and not written.
            let pixel = min(first + k * span + column, params.pixels - 1u);
            let z = pixel_at(pixel * params.groups + group, c).z;
            // Not max(): a number that is none must stay so, or a training that diverged goes unseen.
            total[k] += dot(select(z, vec4<f32>(0.0), z < vec4<f32>(0.0)), c.weight);
        }
    }
    if (LANES == 1u) {
        for (var k = 0u; k < PIXELS; k++) {
            let pixel = first + k * span + column;
            if (pixel < params.pixels) {
                p[pixel] = bias[0] + total[k];
            }
        }
        return;
    }
    for (var k = 0u; k < PIXELS; k++) {
        shares[lane * span * PIXELS + k * span + column] = total[k];
    }
    workgroupBarrier();
    for (var at = id.lane; at < span * PIXELS; at += 64u) {
        var sum = bias[0];
        for (var l = 0u; l < LANES; l++) {
            sum += shares[l * span * PIXELS + at];
        }
        if (first + at < params.pixels) {
            p[first + at] = sum;
        }
    }
}
