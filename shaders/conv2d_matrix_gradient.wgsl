// Gradient of a convolution's weights on matrix units: dw[t,c,o] = sum over pixels of x[pixel + t, c] * dy[pixel, o].
//
//   x     [N, H, W, CX]                             f16, CX a multiple of 4
//   dy    [N, H, W, CO]                             f16, CO a multiple of 4
//   coefficients [3 or more][CX]       f32: mean, scale, beta, where x is normalised as it is read
//   part  [splits][K*K][CX rounded up][CO rounded up]  f32, to whole tiles
//   dw    [blocks][CG][K*K][4][8]                   f32, packed as everywhere
//
// `multiply`: a workgroup owns CHANNELS x OUTS of one tap and one split of the pixels, and steps through DEPTH pixels at a
// time, held in workgroup memory while the next are on their way to registers. Its parts go to as many subgroups; where
// there are fewer, they take turns. `gather` adds the splits up in order. One of the shared matrix files has to be
// imported before this one.
#import grid
#import depth_to_space

alias X = vec4<f16>;
const K: u32 = 3u;
// dy is the 2x2 transposed convolution's large side: its pixels in squares are the channels here.
const Y_SQUARES: bool = false;
const LANES: u32 = 128u;
const CHANNELS: u32 = 128u;
const OUTS: u32 = 128u;
const SHARES_M: u32 = 2u;
const SHARES_N: u32 = 2u;
const SHARES: u32 = SHARES_M * SHARES_N;
const DEPTH: u32 = 32u;
// Cells are four halves. Two more in each row keep rows in different banks.
const X_CELLS: u32 = CHANNELS / 4u;
const Y_CELLS: u32 = OUTS / 4u;
const X_STRIDE: u32 = X_CELLS + 2u;
const Y_STRIDE: u32 = Y_CELLS + 2u;
const A_CELLS: u32 = DEPTH * X_STRIDE;
const B_CELLS: u32 = DEPTH * Y_STRIDE;
// Cells that an invocation carries, and matrices of a share.
const X_EACH: u32 = DEPTH * X_CELLS / LANES;
const Y_EACH: u32 = DEPTH * Y_CELLS / LANES;
const TILES_M: u32 = CHANNELS / SHARES_M / SIDE;
const TILES_N: u32 = OUTS / SHARES_N / SIDE;

struct Params {
    pixels: u32,
    height: u32,
    width: u32,
    x_groups: u32,
    out_groups: u32,
    channel_tiles: u32,
    out_tiles: u32,
    pixels_per_split: u32,
    splits: u32,
    split_first: u32,
    weight_groups: u32,
    weight_first: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read> dy: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read_write> part_out: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> part: array<f32>;
@group(0) @binding(4) var<storage, read_write> dw: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;
@group(0) @binding(6) var<storage, read> coefficients: array<vec4<f32>>;

#import normalised_read

// A matrix for each share, and one for subgroups that have none.
var<workgroup> scratch: array<f32, (SHARES + 1u) * SIDE * SIDE>;
var<workgroup> subgroup_count: u32;

fn x_at(pixel: u32, end: u32, tap: u32, group: u32, norm: Norm) -> X {
    let w = pixel % params.width + tap % K - K / 2u;
    let h = pixel / params.width % params.height + tap / K - K / 2u;
    if (pixel >= end || h >= params.height || w >= params.width || group >= params.x_groups) {
        return X();
    }
    let row = pixel / (params.width * params.height) * params.height + h;
    return as_read(x[(row * params.width + w) * params.x_groups + group], norm);
}

fn dy_at(pixel: u32, end: u32, group: u32) -> vec4<f16> {
    if (pixel >= end || group >= params.out_groups) {
        return vec4<f16>();
    }
    if (Y_SQUARES) {
        return dy[depth_to_space(pixel / params.width, pixel % params.width, params.width, group, params.out_groups)];
    }
    return dy[pixel * params.out_groups + group];
}

@compute @workgroup_size(LANES)
fn multiply(
    id: Invocation,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
) {
    // Taps go side by side, since they read nearly the same pixels.
    let index = linear_group(id);
    let tap = index % (K * K);
    let channel_tile = index / (K * K) % params.channel_tiles;
    let out_tile = index / (K * K) / params.channel_tiles % params.out_tiles;
    let split = index / (K * K) / params.channel_tiles / params.out_tiles;
    let begin = split * params.pixels_per_split;
    let end = min(begin + params.pixels_per_split, params.pixels);
    let steps = (params.pixels_per_split + DEPTH - 1u) / DEPTH;
    // LANES is a multiple of X_CELLS: an invocation's cells are of one group.
    let group = channel_tile * X_CELLS + id.lane % X_CELLS;
    let norm = norm_of(min(group, params.x_groups - 1u), params.x_groups);
    start(lane);
    subgroup_count = subgroups;
    let together = workgroupUniformLoad(&subgroup_count);
    for (var first = 0u; first < SHARES; first += together) {
        let share = first + subgroup;
        let row0 = share % SHARES_M * TILES_M * SIDE;
        let column0 = share / SHARES_M % SHARES_N * TILES_N * SIDE;
        var sum: array<array<MatrixC, TILES_N>, TILES_M>;
        for (var m = 0u; m < TILES_M; m++) {
            for (var n = 0u; n < TILES_N; n++) {
                sum[m][n] = MatrixC();
            }
        }
        var x_next: array<vec4<f16>, X_EACH>;
        var y_next: array<vec4<f16>, Y_EACH>;
        for (var step = 0u; step <= steps; step++) {
            workgroupBarrier();
            if (step > 0u) {
                for (var i = 0u; i < X_EACH; i++) {
                    let at = i * LANES + id.lane;
                    put_a(at / X_CELLS * X_STRIDE + at % X_CELLS, x_next[i]);
                }
                for (var i = 0u; i < Y_EACH; i++) {
                    let at = i * LANES + id.lane;
                    put_b(at / Y_CELLS * Y_STRIDE + at % Y_CELLS, y_next[i]);
                }
            }
            workgroupBarrier();
            if (step < steps) {
                let pixel0 = begin + step * DEPTH;
                for (var i = 0u; i < X_EACH; i++) {
                    x_next[i] = x_at(pixel0 + (i * LANES + id.lane) / X_CELLS, end, tap, group, norm);
                }
                for (var i = 0u; i < Y_EACH; i++) {
                    let at = i * LANES + id.lane;
                    y_next[i] = dy_at(pixel0 + at / Y_CELLS, end, out_tile * Y_CELLS + at % Y_CELLS);
                }
            }
            if (step > 0u) {
                for (var k = 0u; k < DEPTH; k += SIDE) {
                    var b: array<MatrixB, TILES_N>;
                    for (var n = 0u; n < TILES_N; n++) {
                        b[n] = load_b(k * Y_STRIDE + (column0 + n * SIDE) / 4u, Y_STRIDE);
                    }
                    for (var m = 0u; m < TILES_M; m++) {
                        let a = load_a_columns(k * X_STRIDE + (row0 + m * SIDE) / 4u, X_STRIDE);
                        for (var n = 0u; n < TILES_N; n++) {
                            sum[m][n] = multiply_add(a, b[n], sum[m][n]);
                        }
                    }
                }
            }
        }
        let mine = min(share, SHARES) * SIDE * SIDE;
        let rows = params.channel_tiles * CHANNELS;
        let to = ((params.split_first + split) * (K * K) + tap) * rows + channel_tile * CHANNELS + row0;
        for (var m = 0u; m < TILES_M; m++) {
            for (var n = 0u; n < TILES_N; n++) {
                store_c(sum[m][n], mine);
                workgroupBarrier();
                for (var e = lane; e < SIDE * SIDE / 4u && share < SHARES; e += lanes) {
                    let at = mine + e * 4u;
                    let value = vec4<f32>(scratch[at], scratch[at + 1u], scratch[at + 2u], scratch[at + 3u]);
                    let row = to + m * SIDE + e / (SIDE / 4u);
                    let column = out_tile * Y_CELLS + (column0 + n * SIDE) / 4u + e % (SIDE / 4u);
                    part_out[row * params.out_tiles * Y_CELLS + column] = value;
                }
                workgroupBarrier();
            }
        }
    }
}

// One number of the source's share of the weight an invocation, in the order of part: neighbours read neighbours.
@compute @workgroup_size(64)
fn gather(id: Invocation) {
    let index = invocation_index(id);
    let o = index % (params.out_groups * 4u);
    let c = index / (params.out_groups * 4u) % (params.x_groups * 4u);
    let tap = index / (params.out_groups * 4u) / (params.x_groups * 4u);
    if (tap >= K * K) {
        return;
    }
    let rows = params.channel_tiles * CHANNELS;
    let columns = params.out_tiles * OUTS;
    var sum = 0.0;
    for (var split = 0u; split < params.splits; split++) {
        sum += part[((split * (K * K) + tap) * rows + c) * columns + o];
    }
    let group = params.weight_first + c / 4u;
    let at = (((o / 8u * params.weight_groups + group) * (K * K) + tap) * 4u + c % 4u) * 8u + o % 8u;
    if (params.accumulate != 0u) {
        sum += dw[at];
    }
    dw[at] = sum;
}
