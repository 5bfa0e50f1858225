// Batch normalisation by channel: y = gamma * (x - mean) * inv_std + beta, then ReLU where RELU.
// Training takes mean and variance over N, H, W; evaluation takes the running ones.
//
//   x, y           [P, C]            Stored, P = N * H * W pixels
//   part           [splits][2][C]    f32: (mean, sum of squared deviations) of a split
//   stats          [4][C]            f32: mean, scale = gamma / sqrt(variance + eps), beta, 1 / sqrt(variance + eps)
//   affine         [C] each          f32: gamma, beta
//
// V is vec4<f32>, or f32 for a single channel; Stored is V or vec4<f16>, and arithmetic is in f32. `moments` gives the
// channels of a Group (stored4, stored8) of one split of the pixels to an invocation; `finish_moments` gives a channel group
// to a workgroup, which merges splits in a fixed order (Chan, Golub, LeVeque 1979), so that nothing cancels and the same
// bits come out on every run. `normalise` gives PIXELS pixels to an invocation.
#import grid

alias V = vec4<f32>;
alias Stored = V;
const RELU: bool = false;
const PIXELS: u32 = 8u;

@group(0) @binding(0) var<storage, read> x: array<Group>;
@group(0) @binding(1) var<storage, read_write> part: array<V>;
@group(0) @binding(2) var<storage, read_write> running_mean: array<V>;
@group(0) @binding(3) var<storage, read_write> running_var: array<V>;
@group(0) @binding(4) var<storage, read_write> stats_out: array<V>;
@group(0) @binding(5) var<storage, read> stats: array<V>;
@group(0) @binding(6) var<storage, read> gamma: array<V>;
@group(0) @binding(7) var<storage, read> beta: array<V>;
@group(0) @binding(8) var<storage, read_write> y: array<Group>;
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
    var mean: array<V, FOURS>;
    var squares: array<V, FOURS>;
    if (start < end) {
        let shift = x[start * params.groups + at.group];
        var total: array<V, FOURS>;
        for (var p = start; p < end; p++) {
            let value = x[p * params.groups + at.group];
            #unroll
            for (var i = 0u; i < FOURS; i++) {
                let d = V(part_of(value, i)) - V(part_of(shift, i));
                total[i] += d;
                squares[i] = fma(d, d, squares[i]);
            }
        }
        let count = f32(end - start);
        #unroll
        for (var i = 0u; i < FOURS; i++) {
            mean[i] = V(part_of(shift, i)) + total[i] / count;
            squares[i] = max(squares[i] - total[i] * total[i] / count, V(0.0));
        }
    }
    write_part(at, mean, squares);
}

fn write_stats(group: u32, mean: V, variance: V) {
    let inv_std = inverseSqrt(variance + V(params.eps));
    stats_out[group] = mean;
    stats_out[params.groups + group] = gamma[group] * inv_std;
    stats_out[2u * params.groups + group] = beta[group];
    stats_out[3u * params.groups + group] = inv_std;
}

struct Moments {
    count: f32,
    mean: V,
    squares: V,
}

fn merged(a: Moments, b: Moments) -> Moments {
    let count = max(a.count + b.count, 1.0);
    let share = b.count / count;
    let delta = b.mean - a.mean;
    return Moments(a.count + b.count, a.mean + delta * share, a.squares + b.squares + delta * delta * (a.count * share));
}

const LANES: u32 = 64u;
var<workgroup> merging: array<Moments, LANES>;

// Merges the splits of every slice: LANES runs of neighbours side by side, then those by pairs. Updates the running
// statistics (variance unbiased), and writes `stats`.
@compute @workgroup_size(LANES)
fn finish_moments(id: Invocation) {
    let group = linear_group(id);
    if (group >= params.groups) {
        return;
    }
    let parts = params.slices * params.splits;
    let each = (parts + LANES - 1u) / LANES;
    var total = Moments(0.0, V(0.0), V(0.0));
    for (var s = id.lane * each; s < min((id.lane + 1u) * each, parts); s++) {
        // `pixels` are those of a full slice; the last one may have fewer.
        let pixels = min(params.pixels, params.total_pixels - (s / params.splits) * params.pixels);
        let start = min((s % params.splits) * params.pixels_per_split, pixels);
        let count = f32(min(start + params.pixels_per_split, pixels) - start);
        if (count > 0.0) {
            let at = s * 2u * params.groups + group;
            total = merged(total, Moments(count, part[at], part[at + params.groups]));
        }
    }
    merging[id.lane] = total;
    workgroupBarrier();
    for (var apart = 1u; apart < LANES; apart *= 2u) {
        if (id.lane % (2u * apart) == 0u) {
            merging[id.lane] = merged(merging[id.lane], merging[id.lane + apart]);
        }
        workgroupBarrier();
    }
    if (id.lane > 0u) {
        return;
    }
    total = merging[0];
    let m = params.momentum;
    running_mean[group] = running_mean[group] * (1.0 - m) + total.mean * m;
    running_var[group] = running_var[group] * (1.0 - m) + total.squares * (m / max(total.count - 1.0, 1.0));
    write_stats(group, total.mean, total.squares / total.count);
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
    let c = channels(at.group);
    for (var k = 0u; k < PIXELS; k++) {
        let pixel = at.split + k * pixel_stride();
        if (at.split < pixel_stride() && pixel < params.pixels) {
            let index = pixel * params.groups + at.group;
            let read = x[index];
            var written: array<Stored, FOURS>;
            #unroll
            for (var i = 0u; i < FOURS; i++) {
                var value = affine(V(part_of(read, i)) - c[i].mean, c[i]);
                if (RELU) {
                    // Not max(): a number that is none must stay so, or a training that diverged goes unseen.
                    value = select(value, V(0.0), value < V(0.0));
                }
                written[i] = Stored(value);
            }
            y[index] = whole_of(written);
        }
    }
}
