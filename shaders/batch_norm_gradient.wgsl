// Gradient of batch normalisation (and of the ReLU after it), xhat = (x - mean) * inv_std, dz = dy where y passed:
//   dbeta = sum dz,  dgamma = sum dz * xhat,  dx = gamma * inv_std * (dz - (dbeta + xhat * dgamma) / P)
// In evaluation the statistics do not depend on x, and dx = gamma * inv_std * dz.
//
//   x, dy, dx      [P, C]            Stored, P = N * H * W pixels
//   part           [splits][2][C]    f32: (sum dz, sum dz * xhat) of a split
//   stats          [4][C]            f32: mean, scale = gamma / sqrt(variance + eps), beta, 1 / sqrt(variance + eps)
//   sums, sums_out [2][C]            f32: sum dz, sum dz * xhat
//
// V is vec4<f32>, or f32 for a single channel; Stored is V or vec4<f16>, and arithmetic is in f32. `gradient_sums` gives the
// channels of a Group (stored4, stored8) of one split of the pixels to an invocation; `affine_gradient`, which adds the
// splits in order, one of the sums of a channel group to SUM_LANES; `input_gradient` PIXELS pixels of one.
#import grid

alias V = vec4<f32>;
alias Stored = V;
const RELU: bool = false;
const PIXELS: u32 = 8u;

@group(0) @binding(0) var<storage, read> x: array<Group>;
@group(0) @binding(1) var<storage, read> dy: array<Group>;
@group(0) @binding(2) var<storage, read_write> part: array<V>;
@group(0) @binding(3) var<storage, read> stats: array<V>;
@group(0) @binding(6) var<storage, read> sums: array<V>;
@group(0) @binding(7) var<storage, read_write> x_gradient: array<Group>;
@group(0) @binding(8) var<storage, read_write> dgamma: array<V>;
@group(0) @binding(9) var<storage, read_write> dbeta: array<V>;
@group(0) @binding(10) var<storage, read_write> sums_out: array<V>;
@group(0) @binding(11) var<uniform> params: Params;

#import normalise
#import ordered_sum

fn through_relu(gradient: V, centred: V, c: Channel) -> V {
    if (RELU) {
        return select(V(0.0), gradient, affine(centred, c) > V(0.0));
    }
    return gradient;
}

@compute @workgroup_size(64)
fn gradient_sums(id: Invocation) {
    let at = place(id);
    if (at.split >= params.splits) {
        return;
    }
    let c = channels(at.group);
    let start = at.split * params.pixels_per_split;
    let end = min(start + params.pixels_per_split, params.pixels);
    var total: array<V, FOURS>;
    var total_xhat: array<V, FOURS>;
    for (var p = start; p < end; p++) {
        let index = p * params.groups + at.group;
        let value = x[index];
        let gradient = dy[index];
        #unroll
        for (var i = 0u; i < FOURS; i++) {
            let centred = V(part_of(value, i)) - c[i].mean;
            let dz = through_relu(V(part_of(gradient, i)), centred, c[i]);
            total[i] += dz;
            total_xhat[i] = fma(dz, centred * c[i].inv_std, total_xhat[i]);
        }
    }
    write_part(at, total, total_xhat);
}

// Adds the splits up; dbeta = sum dz, dgamma = sum dz * xhat.
@compute @workgroup_size(SUM_GROUP)
fn affine_gradient(id: Invocation) {
    let at = sum_place(id);
    let index = at.index;
    let count = 2u * params.groups;
    var total = ordered_sum(id, min(index, count - 1u), count, params.splits);
    if (at.lane > 0u || index >= count) {
        return;
    }
    sums_out[index] = total;
    if (index < params.groups) {
        if (params.accumulate != 0u) {
            total += dbeta[index];
        }
        dbeta[index] = total;
    } else {
        let group = index - params.groups;
        if (params.accumulate != 0u) {
            total += dgamma[group];
        }
        dgamma[group] = total;
    }
}

@compute @workgroup_size(64)
fn input_gradient(id: Invocation) {
    let at = place(id);
    let c = channels(at.group);
    // In evaluation the statistics do not depend on x.
    let weight = select(0.0, 1.0 / f32(params.total_pixels), params.training != 0u);
    var mean_dz: array<V, FOURS>;
    var mean_dz_xhat: array<V, FOURS>;
    #unroll
    for (var i = 0u; i < FOURS; i++) {
        mean_dz[i] = sums[at.group * FOURS + i] * weight;
        mean_dz_xhat[i] = sums[(params.groups + at.group) * FOURS + i] * weight;
    }
    for (var k = 0u; k < PIXELS; k++) {
        let pixel = at.split + k * pixel_stride();
        if (at.split < pixel_stride() && pixel < params.pixels) {
            let index = pixel * params.groups + at.group;
            let value = x[index];
            let gradient = dy[index];
            var written: array<Stored, FOURS>;
            #unroll
            for (var i = 0u; i < FOURS; i++) {
                let centred = V(part_of(value, i)) - c[i].mean;
                let passed = through_relu(V(part_of(gradient, i)), centred, c[i]);
                let dz = passed - (mean_dz[i] + centred * c[i].inv_std * mean_dz_xhat[i]);
                written[i] = Stored(dz * c[i].scale);
            }
            x_gradient[index] = whole_of(written);
        }
    }
}
