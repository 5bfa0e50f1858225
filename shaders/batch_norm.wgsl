// Batch normalisation by channel: y = gamma * (x - mean) * inv_std + beta, then ReLU where RELU.
// Training takes mean and variance over N, H, W; evaluation takes the running ones.
//
//   x, y           [P, C]            Stored, P = N * H * W pixels
//   part           [splits][2][C]    f32: (mean, sum of squared deviations) of a split
//   stats          [4][C]            f32: mean, scale = gamma / sqrt(variance + eps), beta, 1 / sqrt(variance + eps)
//   affine         [C] each          f32: gamma, beta
//
// V is vec4<f32>, or f32 for a single channel; Stored is V or vec4<f16>, and arithmetic is in f32. `moments` gives one channel group of one split of the pixels to an
// invocation; the splits are merged in order (Chan, Golub, LeVeque 1979), so that nothing cancels and the same bits
// come out on every run. `normalise` gives PIXELS pixels to an invocation.
#import grid

alias V = vec4<f32>;
alias Stored = V;
const RELU: bool = false;
const PIXELS: u32 = 8u;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> part: array<V>;
@group(0) @binding(2) var<storage, read_write> running_mean: array<V>;
@group(0) @binding(3) var<storage, read_write> running_var: array<V>;
@group(0) @binding(4) var<storage, read_write> stats_out: array<V>;
@group(0) @binding(5) var<storage, read> stats: array<V>;
@group(0) @binding(6) var<storage, read> gamma: array<V>;
@group(0) @binding(7) var<storage, read> beta: array<V>;
@group(0) @binding(8) var<storage, read_write> y: array<Stored>;
@group(0) @binding(9) var<uniform> params: Params;

#import normalise

// Mean and sum of squared deviations of a split, about its first value so that large means do not cancel.
@compute @workgroup_size(64)
fn moments(id: Invocation) {
    let at = place(id);
    let start = at.split * params.pixels_per_split;
    if (at.split >= params.splits) {
        return;
    }
    let end = min(start + params.pixels_per_split, params.pixels);
    var mean = V(0.0);
    var squares = V(0.0);
    if (start < end) {
        let shift = V(x[start * params.groups + at.group]);
        var total = V(0.0);
        for (var p = start; p < end; p++) {
            let d = V(x[p * params.groups + at.group]) - shift;
            total += d;
            squares = fma(d, d, squares);
        }
        let count = f32(end - start);
        mean = shift + total / count;
        squares = max(squares - total * total / count, V(0.0));
    }
    let to = (params.split_first + at.split) * 2u * params.groups + at.group;
    part[to] = mean;
    part[to + params.groups] = squares;
}

fn write_stats(group: u32, mean: V, variance: V) {
    let inv_std = inverseSqrt(variance + V(params.eps));
    stats_out[group] = mean;
    stats_out[params.groups + group] = gamma[group] * inv_std;
    stats_out[2u * params.groups + group] = beta[group];
    stats_out[3u * params.groups + group] = inv_std;
}

// Merges the splits of every slice, updates the running statistics (variance unbiased), and writes `stats`.
@compute @workgroup_size(64)
fn finish_moments(id: Invocation) {
    let group = invocation_index(id);
    if (group >= params.groups) {
        return;
    }
    var count = 0.0;
    var mean = V(0.0);
    var squares = V(0.0);
    for (var s = 0u; s < params.slices * params.splits; s++) {
        // `pixels` are those of a full slice; the last one may have fewer.
        let pixels = min(params.pixels, params.total_pixels - (s / params.splits) * params.pixels);
        let start = min((s % params.splits) * params.pixels_per_split, pixels);
        let added = f32(min(start + params.pixels_per_split, pixels) - start);
        if (added > 0.0) {
            let from_part = s * 2u * params.groups + group;
            let delta = part[from_part] - mean;
            let total = count + added;
            mean += delta * (added / total);
            squares += part[from_part + params.groups] + delta * delta * (count * added / total);
            count = total;
        }
    }
    let m = params.momentum;
    running_mean[group] = running_mean[group] * (1.0 - m) + mean * m;
    running_var[group] = running_var[group] * (1.0 - m) + squares * (m / max(count - 1.0, 1.0));
    write_stats(group, mean, squares / count);
}

// `stats` from the running statistics.
@compute @workgroup_size(64)
fn running_stats(id: Invocation) {
    let group = invocation_index(id);
    if (group >= params.groups) {
        return;
    }
    write_stats(group, running_mean[group], running_var[group]);
}

@compute @workgroup_size(64)
fn normalise(id: Invocation) {
    let at = place(id);
    let c = channel(at.group);
    for (var k = 0u; k < PIXELS; k++) {
        let pixel = at.split + k * pixel_stride();
        if (at.split < pixel_stride() && pixel < params.pixels) {
            let index = pixel * params.groups + at.group;
            let value = affine(V(x[index]) - c.mean, c);
            if (RELU) {
                // Not max(): a number that is none must stay so, or a training that diverged goes unseen.
                y[index] = Stored(select(value, V(0.0), value < V(0.0)));
            } else {
                y[index] = Stored(value);
            }
        }
    }
}
