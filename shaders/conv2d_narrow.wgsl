// Convolution 3x3, stride 1, same size, of 4 or 8 input channels: conv2d_direct for the widest layers, on
// processors. There the transforms of conv2d_winograd are most of its work, while here all is straight code: a loop's sums would
// be blended by the lanes' mask in each round.
//
//   x       [N, H, W, 4 or 8]           f32
//   weight  [blocks][CG][9][4][8]      f32, packed: 8 output channels a block, groups of 4 input channels
//   bias    [CO]                       f32
//   coefficients [3 or more][CX]       f32: mean, scale, beta, where x is normalised as it is read
//   y       [N, H, W, CO]              f32, CO a multiple of 8
//
// A workgroup owns 64 tiles of a block of 8 output channels; an invocation owns one tile of ROWS x COLS pixels. Subgroups
// have at least 8 lanes, all of the same block: each loads the weights of one input, which then go round by broadcast.
// Channels are added in order. A second source starts from what y holds instead of the bias.
#import grid

alias X = vec4<f32>;
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

@group(0) @binding(0) var<storage, read> x: array<Channels>;
@group(0) @binding(1) var<storage, read> weight: array<mat2x4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<mat2x4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<mat2x4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> coefficients: array<vec4<f32>>;

#import normalised_read
#import weights_round
#import add_inputs

@compute @workgroup_size(64)
fn forward(id: Invocation, @builtin(subgroup_invocation_id) subgroup_lane: u32) {
    let group = linear_group(id);
    let block = min(group / params.groups_per_block, params.blocks - 1u);
    // Lanes beyond the last tile go along with it, since they carry weights; they store nothing.
    let tiles = params.images * params.tile_rows * params.tile_cols;
    let wanted = (group % params.groups_per_block) * 64u + id.lane;
    let tile = min(wanted, tiles - 1u);
    let image = tile / (params.tile_rows * params.tile_cols);
    let h0 = ((tile / params.tile_cols) % params.tile_rows) * ROWS;
    let w0 = (tile % params.tile_cols) * COLS;

    var sum: array<array<array<vec4<f32>, 2>, COLS>, ROWS>;
    let norms = norms_of(0u, 1u);
    var window: array<array<V, WINDOW_COLS>, WINDOW_ROWS>;
    for (var i = 0u; i < WINDOW_ROWS; i++) {
        // Unsigned wrap-around makes -1 large: one comparison does for both borders.
        let h = h0 + i - 1u;
        let row = (image * params.height + min(h, params.height - 1u)) * params.width;
        for (var j = 0u; j < WINDOW_COLS; j++) {
            let w = w0 + j - 1u;
            let value = channels_of(x[(row + min(w, params.width - 1u))], norms);
            window[i][j] = kept(value, h < params.height && w < params.width);
        }
    }
    let mine = subgroup_lane % 8u;
    let from_group = block * params.weight_groups + params.weight_first + mine % V_FLOATS / 4u;
    // By arrays of as many taps: a driver unrolls such loops whatever their size.
    var taps: array<array<mat2x4<f32>, 3>, 3>;
    for (var i = 0u; i < 3u; i++) {
        for (var j = 0u; j < 3u; j++) {
            taps[i][j] = weight[(from_group * 9u + i * 3u + j) * 4u + mine % 4u];
        }
    }
    for (var i = 0u; i < 3u; i++) {
        for (var j = 0u; j < 3u; j++) {
            for (var half = 0u; half < 2u; half++) {
                let weights = passed_round(taps[i][j][half]);
                for (var r = 0u; r < ROWS; r++) {
                    for (var s = 0u; s < COLS; s++) {
                        sum[r][s][half] = add_inputs(sum[r][s][half], window[r + i][s + j], weights);
                    }
                }
            }
        }
    }
    if (wanted >= tiles || group / params.groups_per_block >= params.blocks) {
        return;
    }
    for (var r = 0u; r < ROWS; r++) {
        for (var s = 0u; s < COLS; s++) {
            if (h0 + r < params.height && w0 + s < params.width) {
                let at = ((image * params.height + h0 + r) * params.width + w0 + s) * params.blocks + block;
                let value = mat2x4<f32>(sum[r][s][0], sum[r][s][1]);
                if (START == 0u) {
                    y[at] = bias[block] + value;
                } else if (START == 1u) {
                    y[at] = y[at] + value;
                } else {
                    y[at] = value;
                }
            }
        }
    }
}
