// Convolution 3x3, stride 1, same size: y[n,h,w,o] = b[o] + sum over (i,j,c) of x[n,h+i-1,w+j-1,c] * weight[o,c,i,j].
// The direct form for devices whose loads cost more than arithmetic (software adapters): large register tiles, and
// each lane of a subgroup loads one of the eight vec4 of a tap's weights, which then go round by broadcast.
//
//   x       [N, H, W, CX]              X, CX a multiple of 4
//   weight  [blocks][CG][9][4][8]      f32, packed: 8 output channels a block, groups of 4 input channels
//   bias    [CO]                       f32
//   coefficients [3 or more][CX]       f32: mean, scale, beta, where x is normalised as it is read
//   y       [N, H, W, CO]              Y, CO a multiple of 4
//
// A workgroup owns 64 tiles of a block of 8 output channels; an invocation owns one tile of ROWS x COLS pixels.
// Subgroups have at least 8 lanes, all of the same block. f32 throughout; channels are added in order. A second source
// starts from what y holds instead of the bias.
#import grid

// How four channels of x and of y are stored: vec4<f32>, or vec4<f16>. Arithmetic is in f32.
alias X = vec4<f32>;
alias Y = vec4<f32>;
const ROWS: u32 = 2u;
const COLS: u32 = 4u;
// What the sums are added to: 0: the bias, 1: what y holds, 2: zero. A constant, so that there is no code for the others.
const START: u32 = 0u;
const WINDOW_ROWS: u32 = ROWS + 2u;
const WINDOW_COLS: u32 = COLS + 2u;

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
}

@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<Y>;
@group(0) @binding(4) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> coefficients: array<vec4<f32>>;

#import normalised_read
#import weights_round

@compute @workgroup_size(64)
fn forward(id: Invocation, @builtin(subgroup_invocation_id) subgroup_lane: u32) {
    let group = linear_group(id);
    let block = group / params.groups_per_block;
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

    var sum: array<array<vec4<f32>, 2>, ROWS * COLS>;
    for (var t = 0u; t < ROWS * COLS; t++) {
        sum[t] = array<vec4<f32>, 2>(vec4<f32>(0.0), vec4<f32>(0.0));
    }
    for (var c = 0u; c < params.x_groups; c++) {
        let norm = norm_of(c, params.x_groups);
        var window: array<array<vec4<f32>, WINDOW_COLS>, WINDOW_ROWS>;
        for (var i = 0u; i < WINDOW_ROWS; i++) {
            // Unsigned wrap-around makes -1 large: one comparison does for both borders.
            let h = h0 + i - 1u;
            let row = (image * params.height + min(h, params.height - 1u)) * params.width;
            for (var j = 0u; j < WINDOW_COLS; j++) {
                let w = w0 + j - 1u;
                let value = vec4<f32>(as_read(x[(row + min(w, params.width - 1u)) * params.x_groups + c], norm));
                window[i][j] = select(vec4<f32>(0.0), value, h < params.height && w < params.width);
            }
        }
        let from_tap = (block * params.weight_groups + params.weight_first + c) * 9u;
        for (var i = 0u; i < 3u; i++) {
            for (var j = 0u; j < 3u; j++) {
                let weights = passed_round(weight[(from_tap + i * 3u + j) * 8u + subgroup_lane % 8u]);
                for (var r = 0u; r < ROWS; r++) {
                    for (var s = 0u; s < COLS; s++) {
                        let t = r * COLS + s;
                        sum[t][0] = add_product(sum[t][0], window[r + i][s + j], weights, 0u);
                        sum[t][1] = add_product(sum[t][1], window[r + i][s + j], weights, 1u);
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
            for (var half = 0u; half < 2u; half++) {
                let o = block * 2u + half;
                if (h0 + r < params.height && w0 + s < params.width && o < out_groups) {
                    let at = ((image * params.height + h0 + r) * params.width + w0 + s) * out_groups + o;
                    if (START == 0u) {
                        y[at] = Y(bias[o] + sum[r * COLS + s][half]);
                    } else if (START == 1u) {
                        y[at] = Y(vec4<f32>(y[at]) + sum[r * COLS + s][half]);
                    } else {
                        y[at] = Y(sum[r * COLS + s][half]);
                    }
                }
            }
        }
    }
}
