// Convolution, stride 1, same size: y[n,h,w,o] = b[o] + sum over (i,j,c) of x[n,h+i-P,w+j-P,c] * weight[o,c,i,j].
// The direct form for devices whose loads cost more than arithmetic: weights come through a uniform binding.
//
//   x       [N, H, W, CX]                   f32, CX a multiple of 4; channels outside this dispatch's share are not read
//   weight  [blocks][CB][K*K][4][8]         f32, a slice of the packed weights: 8 output channels a block, CB groups of 4 inputs
//   bias    [CO]                            f32
//   y       [N, H, W, CO]                   f32, CO a multiple of 4
//
// A workgroup owns 64 tiles of one block of 8 output channels; an invocation owns one tile of ROWS x COLS pixels.
// f32 throughout; channels are added in order. A second source, or a second slice of the channels, starts from what y
// holds instead of the bias.
#import grid
#import depth_to_space

const K: u32 = 3u;
// x or y is the 2x2 transposed convolution's large side: its pixels in squares are the channels here.
const X_SQUARES: bool = false;
const Y_SQUARES: bool = false;
const ROWS: u32 = 2u;
const COLS: u32 = 4u;
// vec4s in the weights' slice; the slice starts weight_skip of them after the binding, which starts on a boundary
const SLICE: u32 = 72u;
const WINDOW_ROWS: u32 = ROWS + K - 1u;
const WINDOW_COLS: u32 = COLS + K - 1u;

struct Params {
    images: u32,
    height: u32,
    width: u32,
    x_groups: u32,
    x_first: u32,
    slice_groups: u32,
    out_channels: u32,
    block_first: u32,
    tile_rows: u32,
    tile_cols: u32,
    groups_per_block: u32,
    blocks: u32,
    weight_skip: u32,
    // 0: the bias, 1: what y holds, 2: zero
    start_from: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<uniform> weight: array<vec4<f32>, SLICE>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

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
fn forward(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(num_workgroups) num_workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = linear_group(workgroup_id, num_workgroups);
    let block = group / params.groups_per_block;
    let tile = (group % params.groups_per_block) * 64u + lane;
    let tiles = params.images * params.tile_rows * params.tile_cols;
    if (block >= params.blocks || tile >= tiles) {
        return;
    }
    let image = tile / (params.tile_rows * params.tile_cols);
    let h0 = ((tile / params.tile_cols) % params.tile_rows) * ROWS;
    let w0 = (tile % params.tile_cols) * COLS;

    var sum: array<array<vec4<f32>, 2>, ROWS * COLS>;
    for (var t = 0u; t < ROWS * COLS; t++) {
        sum[t][0] = vec4<f32>(0.0);
        sum[t][1] = vec4<f32>(0.0);
    }
    for (var c = 0u; c < params.slice_groups; c++) {
        var window: array<array<vec4<f32>, WINDOW_COLS>, WINDOW_ROWS>;
        for (var i = 0u; i < WINDOW_ROWS; i++) {
            // Unsigned wrap-around makes -1 large: one comparison does for both borders.
            let h = h0 + i - K / 2u;
            let row = image * params.height + min(h, params.height - 1u);
            for (var j = 0u; j < WINDOW_COLS; j++) {
                let w = w0 + j - K / 2u;
                let value = x[x_index(row, min(w, params.width - 1u), params.x_first + c)];
                window[i][j] = select(vec4<f32>(0.0), value, h < params.height && w < params.width);
            }
        }
        let start = params.weight_skip + (block * params.slice_groups + c) * (K * K * 8u);
        for (var i = 0u; i < K; i++) {
            for (var j = 0u; j < K; j++) {
                for (var half = 0u; half < 2u; half++) {
                    let at = start + (i * K + j) * 8u + half;
                    let a = weight[at];
                    let b = weight[at + 2u];
                    let d = weight[at + 4u];
                    let e = weight[at + 6u];
                    for (var r = 0u; r < ROWS; r++) {
                        for (var s = 0u; s < COLS; s++) {
                            let v = window[r + i][s + j];
                            var total = sum[r * COLS + s][half];
                            total = fma(vec4<f32>(v.x), a, total);
                            total = fma(vec4<f32>(v.y), b, total);
                            total = fma(vec4<f32>(v.z), d, total);
                            total = fma(vec4<f32>(v.w), e, total);
                            sum[r * COLS + s][half] = total;
                        }
                    }
                }
            }
        }
    }
    let out_groups = params.out_channels / 4u;
    for (var r = 0u; r < ROWS; r++) {
        for (var s = 0u; s < COLS; s++) {
            for (var half = 0u; half < 2u; half++) {
                let o = (params.block_first + block) * 2u + half;
                if (h0 + r < params.height && w0 + s < params.width && o < out_groups) {
                    let at = y_index(image * params.height + h0 + r, w0 + s, o);
                    if (params.start_from == 0u) {
                        y[at] = bias[bias_group(o)] + sum[r * COLS + s][half];
                    } else if (params.start_from == 1u) {
                        y[at] = y[at] + sum[r * COLS + s][half];
                    } else {
                        y[at] = sum[r * COLS + s][half];
                    }
                }
            }
        }
    }
}
