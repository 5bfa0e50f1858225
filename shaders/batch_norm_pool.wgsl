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
// `pixels` are those of pooled: squares of four of x. `gradient_sums` gives a channel group of one split of the squares to
// an invocation, and the splits are added in order; the others give it a channel group of PIXELS squares.
#import grid

alias V = vec4<f32>;
alias Stored = V;
const PIXELS: u32 = 2u;
// y has a gradient of its own.
const WHOLE: bool = true;

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> dy: array<Stored>;
@group(0) @binding(2) var<storage, read> dpooled: array<Stored>;
@group(0) @binding(3) var<storage, read_write> part: array<V>;
@group(0) @binding(4) var<storage, read> stats: array<V>;
@group(0) @binding(5) var<storage, read> sums: array<V>;
// y, or dx
@group(0) @binding(6) var<storage, read_write> y: array<Stored>;
@group(0) @binding(7) var<storage, read_write> pooled: array<Stored>;
@group(0) @binding(8) var<uniform> params: Params;

#import normalise

// Four numbers of a square in reading order.
struct Square {
    a: V,
    b: V,
    c: V,
    d: V,
}

// Where they lie. Images have even heights, so that rows of all images count through.
fn corners(square: u32, group: u32) -> vec4<u32> {
    let row = params.width * 2u * params.groups;
    let first = (square / params.width) * 2u * row + (square % params.width) * 2u * params.groups + group;
    return vec4<u32>(first, first + params.groups, first + row, first + row + params.groups);
}

// x - mean
fn centred_at(at: vec4<u32>, c: Channel) -> Square {
    return Square(V(x[at.x]) - c.mean, V(x[at.y]) - c.mean, V(x[at.z]) - c.mean, V(x[at.w]) - c.mean);
}

fn activated(centred: V, c: Channel) -> V {
    let value = affine(centred, c);
    // Not max(): a number that is none must stay so, or a training that diverged goes unseen.
    return select(value, V(0.0), value < V(0.0));
}

fn activated_square(v: Square, c: Channel) -> Square {
    return Square(activated(v.a, c), activated(v.b, c), activated(v.c, c), activated(v.d, c));
}

fn largest(v: Square) -> V {
    return max(max(v.a, v.b), max(v.c, v.d));
}

fn is_square(at: Place, square: u32) -> bool {
    return at.split < pixel_stride() && square < params.pixels;
}

@compute @workgroup_size(64)
fn forward(id: Invocation) {
    let at = place(id);
    let c = channel(at.group);
    for (var k = 0u; k < PIXELS; k++) {
        let square = at.split + k * pixel_stride();
        if (is_square(at, square)) {
            let to = corners(square, at.group);
            let v = activated_square(centred_at(to, c), c);
            y[to.x] = Stored(v.a);
            y[to.y] = Stored(v.b);
            y[to.z] = Stored(v.c);
            y[to.w] = Stored(v.d);
            pooled[square * params.groups + at.group] = Stored(largest(v));
        }
    }
}

// Where nobody reads y.
@compute @workgroup_size(64)
fn forward_pooled(id: Invocation) {
    let at = place(id);
    let c = channel(at.group);
    for (var k = 0u; k < PIXELS; k++) {
        let square = at.split + k * pixel_stride();
        if (is_square(at, square)) {
            let v = activated_square(centred_at(corners(square, at.group), c), c);
            pooled[square * params.groups + at.group] = Stored(largest(v));
        }
    }
}

fn dz_at(index: u32, gradient: V, receives: vec4<bool>, value: V) -> V {
    var total = select(V(0.0), gradient, receives);
    if (WHOLE) {
        total += V(dy[index]);
    }
    return select(V(0.0), total, value > V(0.0));
}

fn dz_of(at: vec4<u32>, gradient: V, centred: Square, c: Channel) -> Square {
    let v = activated_square(centred, c);
    let most = largest(v);
    let is_a = v.a == most;
    let is_b = !is_a & (v.b == most);
    let is_c = !is_a & !is_b & (v.c == most);
    let is_d = !is_a & !is_b & !is_c;
    return Square(
        dz_at(at.x, gradient, is_a, v.a), dz_at(at.y, gradient, is_b, v.b),
        dz_at(at.z, gradient, is_c, v.c), dz_at(at.w, gradient, is_d, v.d),
    );
}

@compute @workgroup_size(64)
fn gradient_sums(id: Invocation) {
    let at = place(id);
    if (at.split >= params.splits) {
        return;
    }
    let c = channel(at.group);
    let start = at.split * params.pixels_per_split;
    let end = min(start + params.pixels_per_split, params.pixels);
    var total = V(0.0);
    var total_centred = V(0.0);
    for (var square = start; square < end; square++) {
        let from_x = corners(square, at.group);
        let v = centred_at(from_x, c);
        let dz = dz_of(from_x, V(dpooled[square * params.groups + at.group]), v, c);
        total += (dz.a + dz.b) + (dz.c + dz.d);
        total_centred += fma(dz.a, v.a, dz.b * v.b) + fma(dz.c, v.c, dz.d * v.d);
    }
    let to = (params.split_first + at.split) * 2u * params.groups + at.group;
    part[to] = total;
    part[to + params.groups] = total_centred * c.inv_std;
}

@compute @workgroup_size(64)
fn input_gradient(id: Invocation) {
    let at = place(id);
    let c = channel(at.group);
    // In evaluation the statistics do not depend on x.
    let weight = select(0.0, 1.0 / f32(params.total_pixels), params.training != 0u);
    let mean_dz = sums[at.group] * weight;
    let slope = sums[params.groups + at.group] * weight * c.inv_std;
    for (var k = 0u; k < PIXELS; k++) {
        let square = at.split + k * pixel_stride();
        if (is_square(at, square)) {
            let to = corners(square, at.group);
            let v = centred_at(to, c);
            let dz = dz_of(to, V(dpooled[square * params.groups + at.group]), v, c);
            y[to.x] = Stored((dz.a - (mean_dz + v.a * slope)) * c.scale);
            y[to.y] = Stored((dz.b - (mean_dz + v.b * slope)) * c.scale);
            y[to.z] = Stored((dz.c - (mean_dz + v.c * slope)) * c.scale);
            y[to.w] = Stored((dz.d - (mean_dz + v.d * slope)) * c.scale);
        }
    }
}
