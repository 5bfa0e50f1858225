// Gradient of a convolution's weights: dw[o,c,i,j] = sum over n,h,w of x[n,h+i-P,w+j-P,c] * dy[n,h,w,o].
//
//   x     [N, H, W, CX]                        X
//   dy    [N, H, W, CO]                        Y
//   coefficients [3 or more][CX]       f32: mean, scale, beta, where x is normalised as it is read
//   part  [splits][blocks][CG][K*K][4][8]      f32, one partial sum of the packed weights a split of the image rows
//
// An invocation owns 4 input channels x HALVES x 4 output channels x TAP_ROWS rows of taps, and walks the rows (n, h) of its
// split, keeping the K columns of x around the pixel in registers.
// Partial sums are added by `split_sum` in order: the same bits on every run.
#import grid
#import depth_to_space

// How four channels of x and of dy are stored: vec4<f32>, or vec4<f16>. Arithmetic is in f32.
alias X = vec4<f32>;
alias Y = vec4<f32>;
const K: u32 = 3u;
const TAP_ROWS: u32 = 3u;
// Of a block of 8 outputs: both, or one where registers are few.
const HALVES: u32 = 2u;
// dy is the 2x2 transposed convolution's large side: its pixels in squares are the channels here.
const Y_SQUARES: bool = false;
// Taps of an invocation, and columns of the window that a pixel leaves to the next.
const TAPS: u32 = TAP_ROWS * K;
const KEPT: u32 = K - 1u;

struct Params {
    height: u32,
    width: u32,
    x_groups: u32,
    out_groups: u32,
    rows: u32,
    rows_per_split: u32,
    splits: u32,
    split_first: u32,
    blocks: u32,
}

@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read> dy: array<Y>;
@group(0) @binding(2) var<storage, read_write> part: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> coefficients: array<vec4<f32>>;

#import normalised_read

fn x_at(row: u32, w: u32, group: u32, inside: bool, norm: Norm) -> vec4<f32> {
    let value = vec4<f32>(as_read(x[(row * params.width + min(w, params.width - 1u)) * params.x_groups + group], norm));
    return select(vec4<f32>(0.0), value, inside && w < params.width);
}

fn dy_index(row: u32, w: u32, group: u32) -> u32 {
    if (Y_SQUARES) {
        return depth_to_space(row, w, params.width, group, params.out_groups);
    }
    return (row * params.width + w) * params.out_groups + group;
}

@compute @workgroup_size(64)
fn weight_gradient(id: Invocation) {
    let index = invocation_index(id);
    let group = index % params.x_groups;
    let out_tiles = params.blocks * 2u / HALVES;
    let out0 = (index / params.x_groups) % out_tiles * HALVES;
    let i0 = ((index / (params.x_groups * out_tiles)) % (K / TAP_ROWS)) * TAP_ROWS;
    let split = index / (params.x_groups * out_tiles * (K / TAP_ROWS));
    if (split >= params.splits) {
        return;
    }
    let norm = norm_of(group, params.x_groups);
    // The last block may have no second half: it is the last group again, and zero in the end.
    var out: array<u32, HALVES>;
    #unroll
    for (var h = 0u; h < HALVES; h++) {
        out[h] = min(out0 + h, params.out_groups - 1u);
    }
    var sum: array<array<array<vec4<f32>, 4>, HALVES>, TAPS>;
    let end = min((split + 1u) * params.rows_per_split, params.rows);
    for (var row = split * params.rows_per_split; row < end; row++) {
        let h = row % params.height;
        var inside: array<bool, TAP_ROWS>;
        var source: array<u32, TAP_ROWS>;
        var window: array<array<vec4<f32>, K>, TAP_ROWS>;
        #unroll
        for (var i = 0u; i < TAP_ROWS; i++) {
            let hx = h + i0 + i - K / 2u;
            inside[i] = hx < params.height;
            source[i] = row - h + min(hx, params.height - 1u);
            #unroll
            for (var j = 0u; j < KEPT; j++) {
                // The window moves one column before each pixel: it starts one column to the left.
                window[i][j + 1u] = x_at(source[i], j - K / 2u, group, inside[i], norm);
            }
        }
        for (var w = 0u; w < params.width; w++) {
            var d: array<vec4<f32>, HALVES>;
            #unroll
            for (var h = 0u; h < HALVES; h++) {
                d[h] = vec4<f32>(dy[dy_index(row, w, out[h])]);
            }
            #unroll
            for (var i = 0u; i < TAP_ROWS; i++) {
                #unroll
                for (var j = 0u; j < KEPT; j++) {
                    window[i][j] = window[i][j + 1u];
                }
                window[i][K - 1u] = x_at(source[i], w + K / 2u, group, inside[i], norm);
                #unroll
                for (var j = 0u; j < K; j++) {
                    let v = window[i][j];
                    let t = i * K + j;
                    #unroll
                    for (var h = 0u; h < HALVES; h++) {
                        sum[t][h][0] = fma(vec4<f32>(v.x), d[h], sum[t][h][0]);
                        sum[t][h][1] = fma(vec4<f32>(v.y), d[h], sum[t][h][1]);
                        sum[t][h][2] = fma(vec4<f32>(v.z), d[h], sum[t][h][2]);
                        sum[t][h][3] = fma(vec4<f32>(v.w), d[h], sum[t][h][3]);
                    }
                }
            }
        }
    }
    let place = ((params.split_first + split) * params.blocks + out0 / 2u) * params.x_groups + group;
    #unroll
    for (var t = 0u; t < TAPS; t++) {
        #unroll
        for (var h = 0u; h < HALVES; h++) {
            let to = (place * K * K + i0 * K + t) * 8u + out0 % 2u + h;
            #unroll
            for (var k = 0u; k < 4u; k++) {
                part[to + k * 2u] = select(vec4<f32>(0.0), sum[t][h][k], out0 + h < params.out_groups);
            }
        }
    }
}
