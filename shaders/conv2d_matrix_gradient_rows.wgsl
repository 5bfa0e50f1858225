// Gradient of a 3x3 convolution's weights on matrix units, as conv2d_matrix_gradient computes it, a row of three taps at a time: what
// the taps of a row read differs by a pixel, so that all three take it from the same workgroup memory.
//
//   x     [N, H, W, CX]                             f16, CX a multiple of 8
//   dy    [N, H, W, CO]                             f16, CO a multiple of 8
//   coefficients [3 or more][CX]       f32: mean, scale, beta, where x is normalised as it is read
//   part  [splits][9][CX rounded up][CO rounded up] f32, to whole tiles
//
// A workgroup owns CHANNELS x OUTS of three taps and one split of the runs of DEPTH pixels that the rows of all images are cut into; what
// is beyond a row's end is zero. Workgroup memory holds two runs: one is multiplied while the next arrives, with one barrier a run. One
// of the shared matrix files has to be imported before this one.
#import grid
#import matrix_shares

alias X = vec4<f16>;
const K: u32 = 3u;
// Pixels of x: those of dy, and one on each side.
const X_DEPTH: u32 = DEPTH + K - 1u;
const X_CELLS: u32 = X_DEPTH * X_STRIDE;
const Y_CELLS: u32 = DEPTH * Y_STRIDE;
const A_CELLS: u32 = 2u * X_CELLS;
const B_CELLS: u32 = 2u * Y_CELLS;
const X_EACH: u32 = (X_DEPTH + X_ROWS - 1u) / X_ROWS;
const Y_EACH: u32 = (DEPTH + Y_ROWS - 1u) / Y_ROWS;
// Matrices of a share of all three taps.
const MATRICES_M: u32 = K * TILES_M;
const MATRICES: u32 = K * TILES;

struct Params {
    pixels: u32,
    height: u32,
    width: u32,
    x_groups: u32,
    out_groups: u32,
    channel_tiles: u32,
    out_tiles: u32,
    // Runs.
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

@compute @workgroup_size(LANES)
fn multiply(id: Invocation, within: Within) {
    // The rows of taps go side by side, since they read nearly the same pixels.
    let index = linear_group(id);
    let tap_row = index % K;
    let channel_tile = index / K % params.channel_tiles;
    let out_tile = index / K / params.channel_tiles % params.out_tiles;
    let split = index / K / params.channel_tiles / params.out_tiles;
    // Of all images; and what each is cut into.
    let rows = params.pixels / params.width;
    let runs = (params.width + DEPTH - 1u) / DEPTH;
    let x_eights = params.x_groups / 2u;
    let x_pixel = id.lane / X_EIGHTS;
    let x_eight = channel_tile * X_EIGHTS + id.lane % X_EIGHTS;
    let y_eights = params.out_groups / 2u;
    let y_pixel = id.lane / Y_EIGHTS;
    let y_eight = out_tile * Y_EIGHTS + id.lane % Y_EIGHTS;
    start(within.lane);
    let together = count_of_subgroups(id, within);
    for (var first = 0u; first < SHARES; first += together) {
        let share = first + within.subgroup;
        let row0 = share % SHARES_M * ROWS_OF_SHARE;
        let column0 = share / SHARES_M % SHARES_N * OUTS_OF_SHARE;
        // In registers, as all that comes: loops over them are unrolled.
        var sum: array<MatrixC, MATRICES>;
        #unroll
        for (var i = 0u; i < MATRICES; i++) {
            sum[i] = MatrixC();
        }
        var row = split * params.per_split / runs;
        var run = split * params.per_split % runs;
        var x_next: array<Eight, X_EACH>;
        var y_next: array<Eight, Y_EACH>;
        // Which of x_next lie within the image.
        var inside = 0u;
        for (var step = 0u; step <= params.per_split; step++) {
            let a0 = (step & 1u) * X_CELLS;
            let b0 = (step & 1u) * Y_CELLS;
            if (step > 0u) {
                // Not before the loop: there are no registers left to hold them.
                let norm = norm_of_eight(min(x_eight, x_eights - 1u), params.x_groups);
                #unroll
                for (var i = 0u; i < X_EACH; i++) {
                    let pixel = i * X_ROWS + x_pixel;
                    let value = eight_as_read_before(x_next[i], norm, ((inside >> i) & 1u) != 0u);
                    if (pixel < X_DEPTH) {
                        put_a(a0 + pixel * X_STRIDE + id.lane % X_EIGHTS * 2u, value.low, value.high);
                    }
                }
                #unroll
                for (var i = 0u; i < Y_EACH; i++) {
                    let pixel = i * Y_ROWS + y_pixel;
                    if (pixel < DEPTH) {
                        put_b(b0 + pixel * Y_STRIDE + id.lane % Y_EIGHTS * 2u, y_next[i].low, y_next[i].high);
                    }
                }
            }
            // Who waits here has multiplied what came before: nobody reads any more what the next step overwrites.
            workgroupBarrier();
            if (step < params.per_split) {
                // The row above the first and the one below the last are zeros, and so are the pixels before and behind a row.
                let x_row = row % params.height + tap_row - 1u;
                let x_column = run * DEPTH + x_pixel - 1u;
                let x_at = ((row + tap_row - 1u) * params.width + x_column) * x_eights + x_eight;
                let x_inside = row < rows && x_row < params.height && x_eight < x_eights;
                inside = 0u;
                #unroll
                for (var i = 0u; i < X_EACH; i++) {
                    x_next[i] = Eight();
                    let is_read = i * X_ROWS + x_pixel < X_DEPTH;
                    if (x_inside && is_read && x_column + i * X_ROWS < params.width) {
                        x_next[i] = x[x_at + i * X_ROWS * x_eights];
                        inside |= 1u << i;
                    }
                }
                let y_column = run * DEPTH + y_pixel;
                let y_at = (row * params.width + y_column) * y_eights + y_eight;
                let y_inside = row < rows && y_eight < y_eights;
                #unroll
                for (var i = 0u; i < Y_EACH; i++) {
                    y_next[i] = Eight();
                    if (y_inside && y_column + i * Y_ROWS < params.width) {
                        y_next[i] = dy[y_at + i * Y_ROWS * y_eights];
                    }
                }
                run++;
                if (run == runs) {
                    run = 0u;
                    row++;
                }
            }
            if (step > 0u) {
                for (var k = 0u; k < DEPTH; k += SIDE) {
                    var b: array<MatrixB, TILES_N>;
                    #unroll
                    for (var n = 0u; n < TILES_N; n++) {
                        b[n] = load_b(b0 + k * Y_STRIDE + (column0 + n * SIDE) / 4u, Y_STRIDE);
                    }
                    #unroll
                    for (var i = 0u; i < MATRICES_M; i++) {
                        let a_at = a0 + (k + i / TILES_M) * X_STRIDE + (row0 + i % TILES_M * SIDE) / 4u;
                        let a = load_a_columns(a_at, X_STRIDE);
                        #unroll
                        for (var n = 0u; n < TILES_N; n++) {
                            sum[i * TILES_N + n] = multiply_add(a, b[n], sum[i * TILES_N + n]);
                        }
                    }
                }
            }
        }
        let channels = params.channel_tiles * CHANNELS;
        let to = ((params.split_first + split) * K + tap_row) * K * channels + channel_tile * CHANNELS + row0;
        #unroll
        for (var i = 0u; i < MATRICES_M; i++) {
            let channel = to + i / TILES_M * channels + i % TILES_M * SIDE;
            #unroll
            for (var n0 = 0u; n0 < TILES_N; n0 += WRITTEN) {
                #unroll
                for (var n = 0u; n < WRITTEN; n++) {
                    store_c(sum[i * TILES_N + n0 + n], scratch_of(share) + n * SIDE, SCRATCH_STRIDE);
                }
                write_sums(within, split < params.splits, share, channel, (out_tile * OUTS + column0 + n0 * SIDE) / 4u);
            }
        }
    }
}
