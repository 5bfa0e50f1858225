// Gradient of a convolution's weights on matrix units: dw[t,c,o] = sum over pixels of x[pixel + t, c] * dy[pixel, o].
//
//   x     [N, H, W, CX]                             f16, CX a multiple of 8
//   dy    [N, H, W, CO]                             f16, CO a multiple of 8
//   coefficients [3 or more][CX]       f32: mean, scale, beta, where x is normalised as it is read
//   part  [splits * SHARES_K][K*K][CX rounded up][CO rounded up]  f32, to whole tiles
//
// A workgroup owns CHANNELS x OUTS of one tap and one split of the pixels, and steps through DEPTH pixels at a
// time, held in workgroup memory while the next are on their way to registers. Its parts go to as many subgroups; where
// there are fewer, they take turns. conv2d_matrix_gather adds the splits up. One of the shared matrix files has to be
// imported before this one.
#import grid
#import depth_to_space
#import matrix_shares

alias X = vec4<f16>;
const K: u32 = 3u;
// dy is the 2x2 transposed convolution's large side: its pixels in squares are the channels here.
const Y_SQUARES: bool = false;
const DEPTH_OF_SHARE: u32 = DEPTH / SHARES_K;
const A_CELLS: u32 = DEPTH * X_STRIDE;
const B_CELLS: u32 = DEPTH * Y_STRIDE;
const X_EACH: u32 = DEPTH / X_ROWS;
const Y_EACH: u32 = DEPTH / Y_ROWS;

struct Params {
    pixels: u32,
    height: u32,
    width: u32,
    x_groups: u32,
    out_groups: u32,
    channel_tiles: u32,
    out_tiles: u32,
    // Pixels.
    per_split: u32,
    splits: u32,
    split_first: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Eight>;
@group(0) @binding(1) var<storage, read> dy: array<Eight>;
@group(0) @binding(2) var<storage, read_write> part_out: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> coefficients: array<vec4<f32>>;

#import matrix_parts
#import normalised_read
#import normalised_eight
#import pixel_place

fn dy_at(pixel: u32, end: u32, eight: u32) -> Eight {
    let eights = params.out_groups / 2u;
    if (pixel >= end || eight >= eights) {
        return Eight();
    }
    if (Y_SQUARES) {
        return dy[depth_to_space(pixel / params.width, pixel % params.width, params.width, eight, eights)];
    }
    return dy[pixel * eights + eight];
}

@compute @workgroup_size(LANES)
fn multiply(id: Invocation, within: Within) {
    // Taps go side by side, since they read nearly the same pixels.
    let index = linear_group(id);
    let tap = index % (K * K);
    let channel_tile = index / (K * K) % params.channel_tiles;
    let out_tile = index / (K * K) / params.channel_tiles % params.out_tiles;
    let split = index / (K * K) / params.channel_tiles / params.out_tiles;
    let begin = split * params.per_split;
    let end = min(begin + params.per_split, params.pixels);
    let steps = (params.per_split + DEPTH - 1u) / DEPTH;
    let x_eights = params.x_groups / 2u;
    let x_row = id.lane / X_EIGHTS;
    let x_eight = channel_tile * X_EIGHTS + id.lane % X_EIGHTS;
    let y_row = id.lane / Y_EIGHTS;
    let y_eight = out_tile * Y_EIGHTS + id.lane % Y_EIGHTS;
    let stride = pixel_place(DEPTH);
    let tap_h = tap / K - K / 2u;
    let tap_w = tap % K - K / 2u;
    start(within.lane);
    let together = count_of_subgroups(id, within);
    for (var first = 0u; first < SHARES; first += together) {
        let share = first + within.subgroup;
        let row0 = share % SHARES_M * ROWS_OF_SHARE;
        let column0 = share / SHARES_M % SHARES_N * OUTS_OF_SHARE;
        let part_of_split = share / SHARES_M / SHARES_N % SHARES_K;
        let k0 = part_of_split * DEPTH_OF_SHARE;
        // In registers, as all that comes: loops over them are unrolled.
        var sum: array<MatrixC, TILES>;
        #unroll
        for (var i = 0u; i < TILES; i++) {
            sum[i] = MatrixC();
        }
        var places: array<PixelPlace, X_EACH>;
        #unroll
        for (var i = 0u; i < X_EACH; i++) {
            places[i] = pixel_place(begin + i * X_ROWS + x_row);
        }
        var x_next: array<Eight, X_EACH>;
        var y_next: array<Eight, Y_EACH>;
        // Which of x_next lie within the image.
        var inside = 0u;
        for (var step = 0u; step <= steps; step++) {
            // Not before the loop: there are no registers left to hold them.
            let norm = norm_of_eight(min(x_eight, x_eights - 1u), params.x_groups);
            workgroupBarrier();
            if (step > 0u) {
                #unroll
                for (var i = 0u; i < X_EACH; i++) {
                    let value = eight_as_read_before(x_next[i], norm, ((inside >> i) & 1u) != 0u);
                    put_a((i * X_ROWS + x_row) * X_STRIDE + id.lane % X_EIGHTS * 2u, value.low, value.high);
                }
                #unroll
                for (var i = 0u; i < Y_EACH; i++) {
                    let to = (i * Y_ROWS + y_row) * Y_STRIDE + id.lane % Y_EIGHTS * 2u;
                    put_b(to, y_next[i].low, y_next[i].high);
                }
            }
            workgroupBarrier();
            if (step < steps) {
                let pixel0 = begin + step * DEPTH;
                inside = 0u;
                #unroll
                for (var i = 0u; i < X_EACH; i++) {
                    let pixel = pixel0 + i * X_ROWS + x_row;
                    let is_inside = places[i].h + tap_h < params.height && places[i].w + tap_w < params.width;
                    x_next[i] = Eight();
                    if (is_inside && pixel < end && x_eight < x_eights) {
                        x_next[i] = x[(pixel + tap_h * params.width + tap_w) * x_eights + x_eight];
                        inside |= 1u << i;
                    }
                    places[i] = advance(places[i], stride);
                }
                #unroll
                for (var i = 0u; i < Y_EACH; i++) {
                    y_next[i] = dy_at(pixel0 + i * Y_ROWS + y_row, end, y_eight);
                }
            }
            if (step > 0u) {
                for (var k = 0u; k < DEPTH_OF_SHARE; k += SIDE) {
                    var b: array<MatrixB, TILES_N>;
                    #unroll
                    for (var n = 0u; n < TILES_N; n++) {
                        b[n] = load_b((k0 + k) * Y_STRIDE + (column0 + n * SIDE) / 4u, Y_STRIDE);
                    }
                    #unroll
                    for (var m = 0u; m < TILES_M; m++) {
                        let a = load_a_columns((k0 + k) * X_STRIDE + (row0 + m * SIDE) / 4u, X_STRIDE);
                        #unroll
                        for (var n = 0u; n < TILES_N; n++) {
                            sum[m * TILES_N + n] = multiply_add(a, b[n], sum[m * TILES_N + n]);
                        }
                    }
                }
            }
        }
        let rows = params.channel_tiles * CHANNELS;
        let part_at = (params.split_first + split) * SHARES_K + part_of_split;
        let to = (part_at * (K * K) + tap) * rows + channel_tile * CHANNELS + row0;
        #unroll
        for (var m = 0u; m < TILES_M; m++) {
            #unroll
            for (var n0 = 0u; n0 < TILES_N; n0 += WRITTEN) {
                #unroll
                for (var n = 0u; n < WRITTEN; n++) {
                    store_c(sum[m * TILES_N + n0 + n], scratch_of(share) + n * SIDE, SCRATCH_STRIDE);
                }
                write_sums(within, split < params.splits, share, to + m * SIDE, (out_tile * OUTS + column0 + n0 * SIDE) / 4u);
            }
        }
    }
}
