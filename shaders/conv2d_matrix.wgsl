// Convolution on matrix units, stride 1, same size: the implicit matrix product of conv2d_tiled, in f16 with f32 sums.
//
//   x       [N, H, W, CX]               f16, CX a multiple of 8
//   w       [K*K][CO][CG * 4]           f16, made by conv2d_matrix_pack
//   bias    [CO]                        f32
//   moments [tiles][2][CO]              f32: mean and sum of squared deviations of a tile's pixels
//   coefficients [3 or more][CX]        f32: mean, scale, beta, where x is normalised as it is read
//   y       [N, H, W, CO]               f16, CO a multiple of 8
//
// A workgroup owns PIXELS x OUTS of y and steps through DEPTH channels of one tap at a time, held in workgroup memory
// while the next are on their way to registers: tap after tap of the same channels, which read nearly the same pixels. Both tiles have the channels innermost, as matrix units like them best.
// What a pixel's address needs is worked out once: integer divisions in the loop would cost as much as the products. Its
// SHARES_M x SHARES_N parts go to as many subgroups; where there are fewer, they take turns.
// One of the shared matrix files has to be imported before this one.
#import grid
#import depth_to_space
#import matrix_shares

const K: u32 = 3u;
// x or y is the 2x2 transposed convolution's large side: its pixels in squares are the channels here.
const X_SQUARES: bool = false;
const Y_SQUARES: bool = false;
const DEPTH: u32 = 32u;
// A row of a tile, in cells of four halves: two more than there are, so that rows lie in different banks.
const STRIDE: u32 = DEPTH / 4u + 2u;
const A_CELLS: u32 = PIXELS * STRIDE;
const B_CELLS: u32 = OUTS * STRIDE;
// Invocations side by side carry a row, eight channels each; then come the rows that others carry meanwhile.
const EIGHTS: u32 = DEPTH / 8u;
const ROWS: u32 = LANES / EIGHTS;
const X_EACH: u32 = PIXELS / ROWS;
const W_EACH: u32 = OUTS / ROWS;

#import matrix_pixels
#import normalised_read
#import normalised_eight
#import source_pixels
#import tile_moments

fn in_tile(place: u32) -> u32 {
    return place;
}

fn write_tile(id: Invocation, within: Within) {
    let tile = linear_group(id);
    let pixel0 = tile % params.pixel_tiles * PIXELS;
    let out0 = tile / params.pixel_tiles * OUTS;
    start(within.lane);
    let together = count_of_subgroups(id, within);
    let x_eights = params.x_groups / 2u;
    let w_eights = params.weight_groups / 2u;
    let outs = params.out_groups * 4u;
    let my_row = id.lane / EIGHTS;
    let my_eight = id.lane % EIGHTS;
    let depths = (x_eights + EIGHTS - 1u) / EIGHTS;
    var pixels: array<Pixel, X_EACH>;
    #unroll
    for (var i = 0u; i < X_EACH; i++) {
        pixels[i] = pixel_of(pixel0 + i * ROWS + my_row);
    }
    var w_at: array<u32, W_EACH>;
    #unroll
    for (var i = 0u; i < W_EACH; i++) {
        w_at[i] = min(out0 + i * ROWS + my_row, outs - 1u) * w_eights + params.weight_first / 2u;
    }
    for (var first = 0u; first < SHARES; first += together) {
        let share = first + within.subgroup;
        let row0 = share % SHARES_M * ROWS_OF_SHARE;
        let column0 = share / SHARES_M % SHARES_N * OUTS_OF_SHARE;
        // In registers, as all that comes: loops over them are unrolled.
        var sum: array<MatrixC, TILES>;
        #unroll
        for (var i = 0u; i < TILES; i++) {
            sum[i] = MatrixC();
        }
        var x_next: array<Eight, X_EACH>;
        var w_next: array<Eight, W_EACH>;
        // The tap that x_next were read for, none where there were no channels any more, and their eight of channels.
        var wanted = 0u;
        var known = 0u;
        var tap = 0u;
        var depth = 0u;
        for (var step = 0u; step <= depths * K * K; step++) {
            let norm = norm_of_eight(known, params.x_groups);
            workgroupBarrier();
            if (step > 0u) {
                #unroll
                for (var i = 0u; i < X_EACH; i++) {
                    let value = eight_as_read_before(x_next[i], norm, reads_within(pixels[i], wanted));
                    put_a((i * ROWS + my_row) * STRIDE + my_eight * 2u, value.low, value.high);
                }
                #unroll
                for (var i = 0u; i < W_EACH; i++) {
                    put_b((i * ROWS + my_row) * STRIDE + my_eight * 2u, w_next[i].low, w_next[i].high);
                }
            }
            workgroupBarrier();
            if (step < depths * K * K) {
                // Channels beyond the source are zeros of x: any weight will do there, but it must be a number.
                let eight = depth * EIGHTS + my_eight;
                known = min(eight, x_eights - 1u);
                let offset = offset_of(tap, known);
                wanted = tap_wanted(tap, eight < x_eights);
                #unroll
                for (var i = 0u; i < X_EACH; i++) {
                    x_next[i] = Eight();
                    if (reads_within(pixels[i], wanted)) {
                        x_next[i] = x[pixels[i].at + offset];
                    }
                }
                #unroll
                for (var i = 0u; i < W_EACH; i++) {
                    w_next[i] = w[w_at[i] + tap * outs * w_eights + known];
                }
                tap++;
                if (tap == K * K) {
                    tap = 0u;
                    depth++;
                }
            }
            if (step > 0u) {
                for (var k = 0u; k < DEPTH; k += SIDE) {
                    var b: array<MatrixB, TILES_N>;
                    #unroll
                    for (var n = 0u; n < TILES_N; n++) {
                        b[n] = load_b_columns((column0 + n * SIDE) * STRIDE + k / 4u, STRIDE);
                    }
                    #unroll
                    for (var m = 0u; m < TILES_M; m++) {
                        let a = load_a((row0 + m * SIDE) * STRIDE + k / 4u, STRIDE);
                        #unroll
                        for (var n = 0u; n < TILES_N; n++) {
                            sum[m * TILES_N + n] = multiply_add(a, b[n], sum[m * TILES_N + n]);
                        }
                    }
                }
            }
        }
        #unroll
        for (var m = 0u; m < TILES_M; m++) {
            #unroll
            for (var n0 = 0u; n0 < TILES_N; n0 += WRITTEN) {
                #unroll
                for (var n = 0u; n < WRITTEN; n++) {
                    store_c(sum[m * TILES_N + n0 + n], scratch_of(share) + n * SIDE, SCRATCH_STRIDE);
                }
                write_rows(within, share, pixel0 + row0 + m * SIDE, SIDE, (out0 + column0 + n0 * SIDE) / 8u);
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
    let group0 = linear_group(id) / params.pixel_tiles * TILE_CELLS;
    gather_moments(id.lane, params.moments_first + tile, tile * PIXELS, group0, params.pixels, params.out_groups);
}
