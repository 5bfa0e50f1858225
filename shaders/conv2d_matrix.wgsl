// Convolution on matrix units, stride 1, same size: the implicit matrix product of conv2d_tiled, in f16 with f32 sums.
//
//   x       [N, H, W, CX]               f16, CX a multiple of 4
//   w       [K*K][CG * 4][CO / 4][4]    f16, made by conv2d_matrix_pack
//   bias    [CO]                        f32
//   moments [tiles][2][CO]             f32: mean and sum of squared deviations of a tile's pixels
//   coefficients [3 or more][CX]       f32: mean, scale, beta, where x is normalised as it is read
//   y       [N, H, W, CO]               f16, CO a multiple of 4
//
// A workgroup owns PIXELS x OUTS of y and steps through DEPTH channels of one tap at a time, held in workgroup memory
// while the next are on their way to registers. Its SHARES_M x SHARES_N parts go to as many subgroups; where there are
// fewer, they take turns.
// One of the shared matrix files has to be imported before this one.
#import grid
#import depth_to_space

alias X = vec4<f16>;
const K: u32 = 3u;
// x or y is the 2x2 transposed convolution's large side: its pixels in squares are the channels here.
const X_SQUARES: bool = false;
const Y_SQUARES: bool = false;
const LANES: u32 = 128u;
const PIXELS: u32 = 128u;
const OUTS: u32 = 128u;
const SHARES_M: u32 = 2u;
const SHARES_N: u32 = 2u;
const SHARES: u32 = SHARES_M * SHARES_N;
const DEPTH: u32 = 32u;
// Cells are four halves. Two more in each row keep rows in different banks.
const X_CELLS: u32 = DEPTH / 4u;
const W_CELLS: u32 = OUTS / 4u;
const X_STRIDE: u32 = X_CELLS + 2u;
const W_STRIDE: u32 = W_CELLS + 2u;
const A_CELLS: u32 = PIXELS * X_STRIDE;
const B_CELLS: u32 = DEPTH * W_STRIDE;
// Cells that an invocation carries, and matrices of a share.
const X_EACH: u32 = PIXELS * X_CELLS / LANES;
const W_EACH: u32 = DEPTH * W_CELLS / LANES;
const TILES_M: u32 = PIXELS / SHARES_M / SIDE;
const TILES_N: u32 = OUTS / SHARES_N / SIDE;
// The tile as gather_moments sees it.
const TILE_PIXELS: u32 = PIXELS;
const TILE_CELLS: u32 = W_CELLS;
const TILE_LANES: u32 = LANES;

struct Params {
    pixels: u32,
    height: u32,
    width: u32,
    x_groups: u32,
    weight_groups: u32,
    weight_first: u32,
    out_groups: u32,
    pixel_tiles: u32,
    // 0: the bias, 1: what y holds, 2: zero
    start_from: u32,
    moments_first: u32,
}

@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read> w: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f16>>;
@group(0) @binding(4) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> coefficients: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> moments: array<vec4<f32>>;

#import normalised_read
#import tile_moments

// A matrix for each share, and one for subgroups that have none.
var<workgroup> scratch: array<f32, (SHARES + 1u) * SIDE * SIDE>;
var<workgroup> subgroup_count: u32;

fn x_at(pixel: u32, tap: u32, group: u32, norm: Norm) -> X {
    let w = pixel % params.width + tap % K - K / 2u;
    let h = pixel / params.width % params.height + tap / K - K / 2u;
    if (pixel >= params.pixels || h >= params.height || w >= params.width || group >= params.x_groups) {
        return X();
    }
    let row = pixel / (params.width * params.height) * params.height + h;
    if (X_SQUARES) {
        return as_read(x[depth_to_space(row, w, params.width, group, params.x_groups)], norm);
    }
    return as_read(x[(row * params.width + w) * params.x_groups + group], norm);
}

fn finish(pixel: u32, group: u32, sum: vec4<f32>) {
    if (pixel >= params.pixels || group >= params.out_groups) {
        return;
    }
    var at = pixel * params.out_groups + group;
    if (Y_SQUARES) {
        at = depth_to_space(pixel / params.width, pixel % params.width, params.width, group, params.out_groups);
    }
    var value = sum;
    if (params.start_from == 0u) {
        // A square's pixels share the bias.
        value += bias[select(group, group % (params.out_groups / 4u), Y_SQUARES)];
    } else if (params.start_from == 1u) {
        value += vec4<f32>(y[at]);
    }
    y[at] = vec4<f16>(value);
}

// Where in the workgroup an invocation is.
struct Within {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
}

fn write_tile(id: Invocation, within: Within) {
    let tile = linear_group(id);
    let pixel0 = tile % params.pixel_tiles * PIXELS;
    let group0 = tile / params.pixel_tiles * W_CELLS;
    start(within.lane);
    subgroup_count = within.subgroups;
    let together = workgroupUniformLoad(&subgroup_count);
    let depths = (params.x_groups + X_CELLS - 1u) / X_CELLS;
    for (var first = 0u; first < SHARES; first += together) {
        let share = first + within.subgroup;
        let row0 = share % SHARES_M * TILES_M * SIDE;
        let column0 = share / SHARES_M % SHARES_N * TILES_N * SIDE;
        var sum: array<array<MatrixC, TILES_N>, TILES_M>;
        for (var m = 0u; m < TILES_M; m++) {
            for (var n = 0u; n < TILES_N; n++) {
                sum[m][n] = MatrixC();
            }
        }
        var x_next: array<vec4<f16>, X_EACH>;
        var w_next: array<vec4<f16>, W_EACH>;
        for (var step = 0u; step <= depths * K * K; step++) {
            workgroupBarrier();
            if (step > 0u) {
                for (var i = 0u; i < X_EACH; i++) {
                    let at = i * LANES + id.lane;
                    put_a(at / X_CELLS * X_STRIDE + at % X_CELLS, x_next[i]);
                }
                for (var i = 0u; i < W_EACH; i++) {
                    let at = i * LANES + id.lane;
                    put_b(at / W_CELLS * W_STRIDE + at % W_CELLS, w_next[i]);
                }
            }
            workgroupBarrier();
            if (step < depths * K * K) {
                let tap = step / depths;
                let channels = step % depths * X_CELLS;
                // LANES is a multiple of X_CELLS: an invocation's cells are of one group.
                let group = channels + id.lane % X_CELLS;
                let norm = norm_of(min(group, params.x_groups - 1u), params.x_groups);
                for (var i = 0u; i < X_EACH; i++) {
                    x_next[i] = x_at(pixel0 + (i * LANES + id.lane) / X_CELLS, tap, group, norm);
                }
                for (var i = 0u; i < W_EACH; i++) {
                    let at = i * LANES + id.lane;
                    // Channels beyond the source meet zeros of x: any weight will do there, but it must be a number.
                    let channel = min(channels * 4u + at / W_CELLS, params.x_groups * 4u - 1u);
                    let row = (tap * params.weight_groups + params.weight_first) * 4u + channel;
                    let group = min(group0 + at % W_CELLS, params.out_groups - 1u);
                    w_next[i] = w[row * params.out_groups + group];
                }
            }
            if (step > 0u) {
                for (var k = 0u; k < DEPTH; k += SIDE) {
                    var b: array<MatrixB, TILES_N>;
                    for (var n = 0u; n < TILES_N; n++) {
                        b[n] = load_b(k * W_STRIDE + (column0 + n * SIDE) / 4u, W_STRIDE);
                    }
                    for (var m = 0u; m < TILES_M; m++) {
                        let a = load_a((row0 + m * SIDE) * X_STRIDE + k / 4u, X_STRIDE);
                        for (var n = 0u; n < TILES_N; n++) {
                            sum[m][n] = multiply_add(a, b[n], sum[m][n]);
                        }
                    }
                }
            }
        }
        let mine = min(share, SHARES) * SIDE * SIDE;
        for (var m = 0u; m < TILES_M; m++) {
            for (var n = 0u; n < TILES_N; n++) {
                store_c(sum[m][n], mine);
                workgroupBarrier();
                for (var e = within.lane; e < SIDE * SIDE / 4u && share < SHARES; e += within.lanes) {
                    let at = mine + e * 4u;
                    let value = vec4<f32>(scratch[at], scratch[at + 1u], scratch[at + 2u], scratch[at + 3u]);
                    let pixel = pixel0 + row0 + m * SIDE + e / (SIDE / 4u);
                    finish(pixel, group0 + (column0 + n * SIDE) / 4u + e % (SIDE / 4u), value);
                }
                workgroupBarrier();
            }
        }
    }
}

@compute @workgroup_size(LANES)
fn forward(id: Invocation, within: Within) {
    write_tile(id, within);
}

// The same, and the moments of what it wrote.
@compute @workgroup_size(LANES)
fn forward_moments(id: Invocation, within: Within) {
    write_tile(id, within);
    let tile = linear_group(id) % params.pixel_tiles;
    let group0 = linear_group(id) / params.pixel_tiles * W_CELLS;
    gather_moments(id.lane, params.moments_first + tile, tile * PIXELS, group0, params.pixels, params.out_groups);
}
