// Convolution, stride 1, same size: y[n,h,w,o] = b[o] + sum over (i,j,c) of x[n,h+i-P,w+j-P,c] * weight[o,c,i,j].
// The direct form for devices whose loads cost more than arithmetic (software adapters): large register tiles, and
// each lane of a subgroup loads one of the eight vec4 of a tap's weights, which then go round by broadcast.
//
//   x       [N, H, W, CX]              X, CX a multiple of 4
//   weight  [blocks][CG][K*K][4][8]    f32, packed: 8 output channels a block, groups of 4 input channels
//   bias    [CO]                       f32
//   coefficients [3 or more][CX]       f32: mean, scale, beta, where x is normalised as it is read
//   y       [N, H, W, CO]              Y, CO a multiple of 4
//
// A workgroup owns 64 tiles of BLOCKS blocks of 8 output channels; an invocation owns one tile of ROWS x COLS pixels.
// Subgroups have at least 8 lanes, all of the same blocks. f32 throughout; channels are added in order. A second source
// starts from what y holds instead of the bias.
#import grid
#import depth_to_space

// How four channels of x and of y are stored: vec4<f32>, or vec4<f16>. Arithmetic is in f32.
alias X = vec4<f32>;
alias Y = vec4<f32>;
const K: u32 = 3u;
// x or y is the 2x2 transposed convolution's large side: its pixels in squares are the channels here.
const X_SQUARES: bool = false;
const Y_SQUARES: bool = false;
const ROWS: u32 = 2u;
const COLS: u32 = 4u;
const BLOCKS: u32 = 1u;
const WINDOW_ROWS: u32 = ROWS + K - 1u;
const WINDOW_COLS: u32 = COLS + K - 1u;

struct Params {
    images: u32,
    height: u32,
    width: u32,
    x_groups: u32,
    weight_groups: u32,
    weight_first: u32,
    blocks: u32,
    out_channels: u32,
    tile_rows: u32,
    tile_cols: u32,
    groups_per_block: u32,
    // 0: the bias, 1: what y holds, 2: zero
    start_from: u32,
}

@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<Y>;
@group(0) @binding(4) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> coefficients: array<vec4<f32>>;

#import normalised_read

fn x_index(row: u32, w: u32, group: u32) -> u32 {
    if (X_SQUARES) {
        return depth_to_space(row, w, params.width, group, params.x_groups);
    }
    return (row * params.width + w) * params.x_groups + group;
}

// A square's pixels share the bias.
fn bias_group(group: u32) -> u32 {
    return select(group, group % (params.out_channels / 16u), Y_SQUARES);
}

fn y_index(row: u32, w: u32, group: u32) -> u32 {
    let groups = params.out_channels / 4u;
    if (Y_SQUARES) {
        return depth_to_space(row, w, params.width, group, groups);
    }
    return (row * params.width + w) * groups + group;
}

@compute @workgroup_size(64)
fn forward(id: Invocation, @builtin(subgroup_invocation_id) subgroup_lane: u32) {
    let group = linear_group(id);
    let block = group / params.groups_per_block * BLOCKS;
    if (block >= params.blocks) {
        return;
    }
    // Lanes beyond the last tile go along with it, since they carry weights; they store nothing.
    let tiles = params.images * params.tile_rows * params.tile_cols;
    let wanted = (group % params.groups_per_block) * 64u + id.lane;
    let tile = min(wanted, tiles - 1u);
    let image = tile / (params.tile_rows * params.tile_cols);
    let h0 = ((tile / params.tile_cols) % params.tile_rows) * ROWS;
    let w0 = (tile % params.tile_cols) * COLS;

    var sum: array<array<vec4<f32>, 2u * BLOCKS>, ROWS * COLS>;
    for (var t = 0u; t < ROWS * COLS; t++) {
        for (var k = 0u; k < 2u * BLOCKS; k++) {
            sum[t][k] = vec4<f32>(0.0);
        }
    }
    for (var c = 0u; c < params.x_groups; c++) {
        let norm = norm_of(c, params.x_groups);
        var window: array<array<vec4<f32>, WINDOW_COLS>, WINDOW_ROWS>;
        for (var i = 0u; i < WINDOW_ROWS; i++) {
            // Unsigned wrap-around makes -1 large: one comparison does for both borders.
            let h = h0 + i - K / 2u;
            let row = image * params.height + min(h, params.height - 1u);
            for (var j = 0u; j < WINDOW_COLS; j++) {
                let w = w0 + j - K / 2u;
                let value = vec4<f32>(as_read(x[x_index(row, min(w, params.width - 1u), c)], norm));
                window[i][j] = select(vec4<f32>(0.0), value, h < params.height && w < params.width);
            }
        }
        for (var b = 0u; b < BLOCKS; b++) {
            let row = min(block + b, params.blocks - 1u) * params.weight_groups + params.weight_first + c;
            for (var i = 0u; i < K; i++) {
                for (var j = 0u; j < K; j++) {
                    let mine = weight[(row * K * K + i * K + j) * 8u + subgroup_lane % 8u];
                    let w0a = subgroupBroadcast(mine, 0u);
                    let w0b = subgroupBroadcast(mine, 1u);
                    let w1a = subgroupBroadcast(mine, 2u);
                    let w1b = subgroupBroadcast(mine, 3u);
                    let w2a = subgroupBroadcast(mine, 4u);
                    let w2b = subgroupBroadcast(mine, 5u);
                    let w3a = subgroupBroadcast(mine, 6u);
                    let w3b = subgroupBroadcast(mine, 7u);
                    for (var r = 0u; r < ROWS; r++) {
                        for (var s = 0u; s < COLS; s++) {
                            let v = window[r + i][s + j];
                            let t = r * COLS + s;
                            let a = fma(vec4<f32>(v.y), w1a, fma(vec4<f32>(v.x), w0a, sum[t][2u * b]));
                            let d = fma(vec4<f32>(v.y), w1b, fma(vec4<f32>(v.x), w0b, sum[t][2u * b + 1u]));
                            sum[t][2u * b] = fma(vec4<f32>(v.w), w3a, fma(vec4<f32>(v.z), w2a, a));
                            sum[t][2u * b + 1u] = fma(vec4<f32>(v.w), w3b, fma(vec4<f32>(v.z), w2b, d));
                        }
                    }
                }
            }
        }
    }
    if (wanted >= tiles) {
        return;
    }
    let out_groups = params.out_channels / 4u;
    for (var r = 0u; r < ROWS; r++) {
        for (var s = 0u; s < COLS; s++) {
            for (var half = 0u; half < 2u * BLOCKS; half++) {
                let o = block * 2u + half;
                if (h0 + r < params.height && w0 + s < params.width && o < out_groups) {
                    let at = y_index(image * params.height + h0 + r, w0 + s, o);
                    if (params.start_from == 0u) {
                        y[at] = Y(bias[bias_group(o)] + sum[r * COLS + s][half]);
                    } else if (params.start_from == 1u) {
                        y[at] = Y(vec4<f32>(y[at]) + sum[r * COLS + s][half]);
                    } else {
                        y[at] = Y(sum[r * COLS + s][half]);
                    }
                }
            }
        }
    }
}
