// Batch normalisation, ReLU and 2x2 max pooling in one pass:
//   y = relu(gamma * (x - mean) * inv_std + beta),  pooled[n,h,w,c] = max of y[n,2h..2h+2,2w..2w+2,c]
// Gradient, dz = (dy + that of pooled, where y is the first of the largest in reading order) where y > 0:
//   dbeta = sum dz,  dgamma = sum dz * xhat,  dx = gamma * inv_std * (dz - (dbeta + xhat * dgamma) / P)
// In evaluation the statistics do not depend on x, and dx = gamma * inv_std * dz.
//
//   x, y, dy, dx       [N, H, W, C]        Stored (vec4<f32> or vec4<f16>; arithmetic is in f32), P = N * H * W
//   pooled, dpooled    [N, H/2, W/2, C]    Stored
//   part               [splits][2][C]      f32: (sum dz, sum dz * xhat) of a split
//   stats              [4][C]              f32: mean, scale = gamma * inv_std, beta, inv_std
//   sums               [2][C]              f32: sum dz, sum dz * xhat
//
// `pixels` are those of pooled: squares of four of x. `gradient_sums` gives the channels of a Group (stored4, stored8) of one split of the
// squares to an invocation, and the splits are added in order; the others give it a Group of PIXELS squares.
#import grid

alias V = vec4<f32>;
alias Stored = V;
const PIXELS: u32 = 2u;
// y has a gradient of its own.
const WHOLE: bool = true;

@group(0) @binding(0) var<storage, read> x: array<Group>;
@group(0) @binding(1) var<storage, read> dy: array<Group>;
@group(0) @binding(2) var<storage, read> dpooled: array<Group>;
@group(0) @binding(3) var<storage, read_write> part: array<V>;
@group(0) @binding(4) var<storage, read> stats: array<V>;
@group(0) @binding(5) var<storage, read> sums: array<V>;
// y, or dx
@group(0) @binding(6) var<storage, read_write> y: array<Group>;
@group(0) @binding(7) var<storage, read_write> pooled: array<Group>;
@group(0) @binding(8) var<uniform> params: Params;

#import normalise
#import pooled_square

fn is_square(at: Place, square: u32) -> bool {
    return at.split < pixel_stride() && square < params.pixels;
}

@compute @workgroup_size(64)
fn forward(id: Invocation) {
    let at = place(id);
    let c = channels(at.group);
    for (var k = 0u; k < PIXELS; k++) {
        let square = at.split + k * pixel_stride();
        if (is_square(at, square)) {
            let to = corners(square, at.group);
            let v = activated_squares(to, c);
            write_square(to, v);
            pooled[square * params.groups + at.group] = pooled_of(v);
        }
    }
}

// Where nobody reads y.
@compute @workgroup_size(64)
fn forward_pooled(id: Invocation) {
    let at = place(id);
    let c = channels(at.group);
    for (var k = 0u; k < PIXELS; k++) {
        let square = at.split + k * pixel_stride();
        if (is_square(at, square)) {
            pooled[square * params.groups + at.group] = pooled_of(activated_squares(corners(square, at.group), c));
        }
    }
}

// `own`: y's gradient.
fn dz_at(own: Stored, gradient: V, receives: vec4<bool>, value: V) -> V {
    var total = select(V(0.0), gradient, receives);
    if (WHOLE) {
        total += V(own);
    }
    return select(V(0.0), total, value > V(0.0));
}

// Of the index-th four channels; `gradient` is that of pooled.
fn dz_of(own: Groups, gradient: Group, index: u32, d: Square, c: Channel) -> Square {
    let v = activated_square(d, c);
    let most = largest(v);
    let is_a = v.a == most;
    let is_b = !is_a & (v.b == most);
    let is_c = !is_a & !is_b & (v.c == most);
    let is_d = !is_a & !is_b & !is_c;
    let from_pooled = V(part_of(gradient, index));
    return Square(
        dz_at(part_of(own.a, index), from_pooled, is_a, v.a), dz_at(part_of(own.b, index), from_pooled, is_b, v.b),
        dz_at(part_of(own.c, index), from_pooled, is_c, v.c), dz_at(part_of(own.d, index), from_pooled, is_d, v.d),
    );
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
    var total_centred: array<V, FOURS>;
    for (var square = start; square < end; square++) {
        let from_x = corners(square, at.group);
        let read = x_at(from_x);
        let own = dy_at(from_x);
        let gradient = dpooled[square * params.groups + at.group];
        #unroll
        for (var i = 0u; i < FOURS; i++) {
            let v = centred(read, i, c[i]);
            let dz = dz_of(own, gradient, i, v, c[i]);
            total[i] += (dz.a + dz.b) + (dz.c + dz.d);
            total_centred[i] += fma(dz.a, v.a, dz.b * v.b) + fma(dz.c, v.c, dz.d * v.d);
        }
    }
    #unroll
    for (var i = 0u; i < FOURS; i++) {
        total_centred[i] *= c[i].inv_std;
    }
    write_part(at, total, total_centred);
}

@compute @workgroup_size(64)
fn input_gradient(id: Invocation) {
    let at = place(id);
    let c = channels(at.group);
    // In evaluation the statistics do not depend on x.
    let weight = select(0.0, 1.0 / f32(params.total_pixels), params.training != 0u);
    var mean: array<V, FOURS>;
    var slope: array<V, FOURS>;
    #unroll
    for (var i = 0u; i < FOURS; i++) {
        mean[i] = sums[at.group * FOURS + i] * weight;
        slope[i] = sums[(params.groups + at.group) * FOURS + i] * weight * c[i].inv_std;
    }
    for (var k = 0u; k < PIXELS; k++) {
        let square = at.split + k * pixel_stride();
        if (is_square(at, square)) {
            let to = corners(square, at.group);
            let read = x_at(to);
            let own = dy_at(to);
            let gradient = dpooled[square * params.groups + at.group];
            var dx: array<Square, FOURS>;
            #unroll
            for (var i = 0u; i < FOURS; i++) {
                let v = centred(read, i, c[i]);
                let dz = dz_of(own, gradient, i, v, c[i]);
                let scale = c[i].scale;
                dx[i] = Square(
                    (dz.a - (mean[i] + v.a * slope[i])) * scale, (dz.b - (mean[i] + v.b * slope[i])) * scale,
                    (dz.c - (mean[i] + v.c * slope[i])) * scale, (dz.d - (mean[i] + v.d * slope[i])) * scale,
                );
            }
            write_square(to, dx);
        }
    }
}
