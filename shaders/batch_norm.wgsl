// Batch normalisation by channel: y = gamma * (x - mean) * inv_std + beta, then ReLU where RELU.
// Training takes mean and variance over N, H, W; evaluation takes the running ones.
//
//   x, y, dy, dx   [P, C]            f32, P = N * H * W pixels
//   part           [splits][2][C]    f32: (mean, sum of squared deviations) or (sum dz, sum dz * xhat) of a split
//   stats          [2][C]            f32: mean, 1 / sqrt(variance + eps)
//   sums           [2][C]            f32: sum dz, sum dz * xhat
//   affine         [C] each          f32: gamma, beta
//
// V is vec4<f32>, or f32 for a single channel. `moments` and `gradient_sums` give one channel group of one split of the
// pixels to an invocation; the splits are merged in order (Chan, Golub, LeVeque 1979), so that nothing cancels and the
// same bits come out on every run. dz is dy where the ReLU let y through.
#import grid

alias V = vec4<f32>;
const RELU: bool = false;

struct Params {
    pixels: u32,
    groups: u32,
    pixels_per_split: u32,
    splits: u32,
    split_first: u32,
    slices: u32,
    total_pixels: u32,
    training: u32,
    accumulate: u32,
    eps: f32,
    momentum: f32,
}

@group(0) @binding(0) var<storage, read> x: array<V>;
@group(0) @binding(1) var<storage, read> dy: array<V>;
@group(0) @binding(2) var<storage, read_write> part: array<V>;
@group(0) @binding(3) var<storage, read_write> running_mean: array<V>;
@group(0) @binding(4) var<storage, read_write> running_var: array<V>;
@group(0) @binding(5) var<storage, read_write> stats_out: array<V>;
@group(0) @binding(6) var<storage, read> stats: array<V>;
@group(0) @binding(7) var<storage, read> gamma: array<V>;
@group(0) @binding(8) var<storage, read> beta: array<V>;
@group(0) @binding(9) var<storage, read> sums: array<V>;
@group(0) @binding(10) var<storage, read_write> y: array<V>;
@group(0) @binding(11) var<storage, read_write> dgamma: array<V>;
@group(0) @binding(12) var<storage, read_write> dbeta: array<V>;
@group(0) @binding(13) var<uniform> params: Params;

struct Place {
    group: u32,
    split: u32,
}

fn place(id: Invocation) -> Place {
    let index = invocation_index(id);
    return Place(index % params.groups, index / params.groups);
}

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
        let shift = x[start * params.groups + at.group];
        var total = V(0.0);
        for (var p = start; p < end; p++) {
            let d = x[p * params.groups + at.group] - shift;
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
    stats_out[group] = mean;
    stats_out[params.groups + group] = inverseSqrt(squares / count + V(params.eps));
}

// `stats` from the running statistics.
@compute @workgroup_size(64)
fn running_stats(id: Invocation) {
    let group = invocation_index(id);
    if (group >= params.groups) {
        return;
    }
    stats_out[group] = running_mean[group];
    stats_out[params.groups + group] = inverseSqrt(running_var[group] + V(params.eps));
}

fn normalised(value: V, group: u32) -> V {
    return (value - stats[group]) * stats[params.groups + group];
}

// The same expression forward and backward, so that the ReLU's mask is the same to the bit.
fn affine(xhat: V, group: u32) -> V {
    return fma(xhat, gamma[group], beta[group]);
}

@compute @workgroup_size(64)
fn normalise(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.pixels * params.groups) {
        return;
    }
    let group = index % params.groups;
    let value = affine(normalised(x[index], group), group);
    if (RELU) {
        // Not max(): a number that is none must stay so, or a training that diverged goes unseen.
        y[index] = select(value, V(0.0), value < V(0.0));
    } else {
        y[index] = value;
    }
}

fn through_relu(gradient: V, xhat: V, group: u32) -> V {
    if (RELU) {
        return select(V(0.0), gradient, affine(xhat, group) > V(0.0));
    }
    return gradient;
}

@compute @workgroup_size(64)
fn gradient_sums(id: Invocation) {
    let at = place(id);
    if (at.split >= params.splits) {
        return;
    }
    let start = at.split * params.pixels_per_split;
    let end = min(start + params.pixels_per_split, params.pixels);
    var total = V(0.0);
    var total_xhat = V(0.0);
    for (var p = start; p < end; p++) {
        let index = p * params.groups + at.group;
        let xhat = normalised(x[index], at.group);
        let dz = through_relu(dy[index], xhat, at.group);
        total += dz;
        total_xhat = fma(dz, xhat, total_xhat);
    }
    let to = (params.split_first + at.split) * 2u * params.groups + at.group;
    part[to] = total;
    part[to + params.groups] = total_xhat;
}

// dbeta = sum dz, dgamma = sum dz * xhat.
@compute @workgroup_size(64)
fn affine_gradient(id: Invocation) {
    let group = invocation_index(id);
    if (group >= params.groups) {
        return;
    }
    var total = sums[group];
    var total_xhat = sums[params.groups + group];
    if (params.accumulate != 0u) {
        total += dbeta[group];
        total_xhat += dgamma[group];
    }
    dbeta[group] = total;
    dgamma[group] = total_xhat;
}

@compute @workgroup_size(64)
fn input_gradient(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.pixels * params.groups) {
        return;
    }
    let group = index % params.groups;
    let xhat = normalised(x[index], group);
    var dz = through_relu(dy[index], xhat, group);
    if (params.training != 0u) {
        let count = f32(params.total_pixels);
        dz -= (sums[group] + xhat * sums[params.groups + group]) / count;
    }
    y[index] = dz * gamma[group] * stats[params.groups + group];
}
