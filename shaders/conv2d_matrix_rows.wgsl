// 3x3 convolution on matrix units, stride 1, same size, as conv2d_matrix computes it, whose taps share what is read of x: a patch of
// the image and the pixels around it come to workgroup memory once for all nine, and are normalised once.
//
//   x       [N, H, W, CX]               f16, CX a multiple of 8
//   second  [N, H, W, CX2]              f16 likewise, a second source where there is one (TWO), whose sums are added to those of the first
//   w       [9][CO][CG * 4]             f16, made by conv2d_matrix_pack
//   bias    [CO]                        f32
//   moments [tiles][2][CO]              f32, as there, of patches that are all whole
//   coefficients, y                     as there
//
// A workgroup owns PIXELS x OUTS of y, PIXELS being rows of PATCH_COLUMNS, and steps through DEPTH channels of a row of taps at a time,
// while what comes next is on its way to registers. Its parts go to subgroups as in conv2d_matrix.
#import grid
#import depth_to_space
#import matrix_shares

const K: u32 = 3u;
const Y_SQUARES: bool = false;
const TWO: bool = false;
// Neither of two sources is normalised as it is read.
const_assert !(TWO && NORMALISED);
const DEPTH: u32 = 16u;
const PATCH_COLUMNS: u32 = 16u;
const PATCH_ROWS: u32 = PIXELS / PATCH_COLUMNS;
// The patch, and a pixel more on every side.
const AROUND_COLUMNS: u32 = PATCH_COLUMNS + K - 1u;
const AROUND: u32 = (PATCH_ROWS + K - 1u) * AROUND_COLUMNS;
// A pixel, or an output of a tap, in cells of four halves: two more than there are, so that eight in a row lie in different banks.
const STRIDE: u32 = DEPTH / 4u + 2u;
const A_CELLS: u32 = AROUND * STRIDE;
const B_CELLS: u32 = K * OUTS * STRIDE;
// Invocations side by side carry a pixel, eight channels each; then come those that others carry meanwhile.
const EIGHTS: u32 = DEPTH / 8u;
const ROWS: u32 = LANES / EIGHTS;
const X_EACH: u32 = (AROUND + ROWS - 1u) / ROWS;
const W_EACH: u32 = (K * OUTS + ROWS - 1u) / ROWS;

@group(0) @binding(7) var<storage, read> second: array<Eight>;

#import matrix_pixels
#import normalised_read
#import normalised_eight
#import tile_moments

fn in_tile(place: u32) -> u32 {
    return place / PATCH_COLUMNS * params.width + place % PATCH_COLUMNS;
}

// The pixel where a patch begins, and the rows and columns of its image from there on.
struct Patch { pixel: u32, rows: u32, columns: u32 }

fn patch_of(tile: u32) -> Patch {
    let across = (params.width + PATCH_COLUMNS - 1u) / PATCH_COLUMNS;
    let down = (params.height + PATCH_ROWS - 1u) / PATCH_ROWS;
    let row = tile / across % down * PATCH_ROWS;
    let column = tile % across * PATCH_COLUMNS;
    let pixel = (tile / across / down * params.height + row) * params.width + column;
    return Patch(pixel, params.height - row, params.width - column);
}

fn write_tile(id: Invocation, within: Within) {
    let corner = patch_of(linear_group(id) % params.pixel_tiles);
    let out0 = linear_group(id) / params.pixel_tiles * OUTS;
    start(within.lane);
    let together = count_of_subgroups(id, within);
    let x_eights = params.x_groups / 2u;
    let w_eights = params.weight_groups / 2u;
    let outs = params.out_groups * 4u;
    let my_row = id.lane / EIGHTS;
    let my_eight = id.lane % EIGHTS;
    let x_depths = (x_eights + EIGHTS - 1u) / EIGHTS;
    let second_eights = select(0u, params.second_groups / 2u, TWO);
    let depths = x_depths + (second_eights + EIGHTS - 1u) / EIGHTS;
    var inside = 0u;
    var x_at: array<u32, X_EACH>;
    #unroll
    for (var i = 0u; i < X_EACH; i++) {
        let place = i * ROWS + my_row;
        // Before the first row and column the difference wraps round, beyond every image.
        let row = place / AROUND_COLUMNS - 1u;
        let column = place % AROUND_COLUMNS - 1u;
        x_at[i] = corner.pixel + row * params.width + column;
        let above = params.height - corner.rows + row < params.height;
        let beside = params.width - corner.columns + column < params.width;
        inside |= select(0u, 1u << i, place < AROUND && above && beside);
    }
    var w_at: array<u32, W_EACH>;
    #unroll
    for (var i = 0u; i < W_EACH; i++) {
        let place = i * ROWS + my_row;
        let tap = min(place / OUTS, K - 1u);
        w_at[i] = (tap * outs + min(out0 + place % OUTS, outs - 1u)) * w_eights;
    }
    for (var first = 0u; first < SHARES; first += together) {
        let share = first + within.subgroup;
        let row0 = share % SHARES_M * ROWS_OF_SHARE;
        let column0 = share / SHARES_M % SHARES_N * OUTS_OF_SHARE;
        let around0 = row0 / PATCH_COLUMNS * AROUND_COLUMNS;
        // In registers, as all that comes: loops over them are unrolled.
        var sum: array<MatrixC, TILES>;
        #unroll
        for (var i = 0u; i < TILES; i++) {
            sum[i] = MatrixC();
        }
        var x_next: array<Eight, X_EACH>;
        var w_next: array<Eight, W_EACH>;
        // The row of taps that is multiplied (none at first), and the one that is loaded for the next step, of which channels.
        var tap_row = K;
        var next_row = 0u;
        var depth = 0u;
        // Of x_next: which lie within, and their eight of channels.
        var held = 0u;
        var held_eight = 0u;
        for (var step = 0u; step <= depths * K; step++) {
            workgroupBarrier();
            if (tap_row == 0u) {
                let norm = norm_of_eight(held_eight, params.x_groups);
                #unroll
                for (var i = 0u; i < X_EACH; i++) {
                    let place = i * ROWS + my_row;
                    let value = eight_as_read_before(x_next[i], norm, ((held >> i) & 1u) != 0u);
                    if (place < AROUND) {
                        put_a(place * STRIDE + my_eight * 2u, value.low, value.high);
                    }
                }
            }
            #unroll
            for (var i = 0u; i < W_EACH; i++) {
                let place = i * ROWS + my_row;
                if (place < K * OUTS) {
                    put_b(place * STRIDE + my_eight * 2u, w_next[i].low, w_next[i].high);
                }
            }
            workgroupBarrier();
            if (depth < depths) {
                let is_second = TWO && depth >= x_depths;
                let eights = select(x_eights, second_eights, is_second);
                let eight = (depth - select(0u, x_depths, is_second)) * EIGHTS + my_eight;
                // Channels beyond the source are zeros: any weight will do there, but it must be a number.
                let known = min(eight, eights - 1u);
                if (next_row == 0u) {
                    held = select(0u, inside, eight < eights);
                    held_eight = known;
                    #unroll
                    for (var i = 0u; i < X_EACH; i++) {
                        x_next[i] = Eight();
                        if (((held >> i) & 1u) != 0u) {
                            if (is_second) {
                                x_next[i] = second[x_at[i] * eights + eight];
                            } else {
                                x_next[i] = x[x_at[i] * eights + eight];
                            }
                        }
                    }
                }
                let w_first = select(params.weight_first, params.second_first, is_second) / 2u;
                let w_from = next_row * K * outs * w_eights + w_first + known;
                #unroll
                for (var i = 0u; i < W_EACH; i++) {
                    w_next[i] = w[w_at[i] + w_from];
                }
            }
            if (step > 0u) {
                for (var k = 0u; k < DEPTH; k += SIDE) {
                    #unroll
                    for (var tap = 0u; tap < K; tap++) {
                        var b: array<MatrixB, TILES_N>;
                        #unroll
                        for (var n = 0u; n < TILES_N; n++) {
                            b[n] = load_b_columns((tap * OUTS + column0 + n * SIDE) * STRIDE + k / 4u, STRIDE);
                        }
                        let a0 = around0 + tap_row * AROUND_COLUMNS + tap;
                        #unroll
                        for (var m = 0u; m < TILES_M; m++) {
                            let place = m * SIDE / PATCH_COLUMNS * AROUND_COLUMNS + m * SIDE % PATCH_COLUMNS;
                            let a = load_a((a0 + place) * STRIDE + k / 4u, STRIDE);
                            #unroll
                            for (var n = 0u; n < TILES_N; n++) {
                                sum[m * TILES_N + n] = multiply_add(a, b[n], sum[m * TILES_N + n]);
                            }
                        }
                    }
                }
            }
            tap_row = next_row;
            next_row = select(next_row + 1u, 0u, next_row == K - 1u);
            depth += select(0u, 1u, next_row == 0u);
        }
        #unroll
        for (var m = 0u; m < TILES_M; m++) {
            let place = row0 + m * SIDE;
            let column = place % PATCH_COLUMNS;
            let left = select(0u, max(corner.columns, column) - column, place / PATCH_COLUMNS < corner.rows);
            #unroll
            for (var n0 = 0u; n0 < TILES_N; n0 += WRITTEN) {
                #unroll
                for (var n = 0u; n < WRITTEN; n++) {
                    store_c(sum[m * TILES_N + n0 + n], scratch_of(share) + n * SIDE, SCRATCH_STRIDE);
                }
                write_rows(within, share, corner.pixel + in_tile(place), left, (out0 + column0 + n0 * SIDE) / 8u);
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
    gather_moments(id.lane, params.moments_first + tile, patch_of(tile).pixel, group0, params.pixels, params.out_groups);
}
