// The direct form of 1x1 convolutions, and of transposed ones as 1x1 convolutions to squares:  y = W x  for each pixel.
//
//   x       [N, H, W, CX]               X; or [N, 2 H, 2 W, CX / 4] seen as squares
//   weight  [blocks][weight_groups][4][8]   f32
//   y       [N, H, W, CO]               Y; or [N, 2 H, 2 W, CO / 4] seen as squares
//
// A lane owns PIXELS pixels x BLOCKS x 8 outputs, and reads the channels of V at once. The lanes of a subgroup (8 at least) load
// weights in turn and pass them round. conv2d_direct has no room for as many: with a window a software adapter's driver unrolls no
// loop of that size.
#import grid
#import depth_to_space

// How four channels of x are stored, and the channels of V of y: V, or vec4<f16>. Arithmetic is in f32.
alias X = vec4<f32>;
alias Y = V;
const PIXELS: u32 = 8u;
const BLOCKS: u32 = 4u;
// What the sums are added to: 0: the bias, 1: what y holds, 2: zero. A constant, so that there is no code for the others.
const START: u32 = 0u;
const X_SQUARES: bool = false;
const Y_SQUARES: bool = false;
// Groups of four channels in V, and V of eight outputs.
const FOURS: u32 = V_FLOATS / 4u;
const V_OF_BLOCK: u32 = 8u / V_FLOATS;

struct Params {
    pixels: u32,
    width: u32,
    x_groups: u32,
    weight_groups: u32,
    weight_first: u32,
    blocks: u32,
    out_groups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Channels>;
@group(0) @binding(1) var<storage, read> weight: array<V>;
@group(0) @binding(2) var<storage, read> bias: array<V>;
@group(0) @binding(3) var<storage, read_write> y: array<Y>;
@group(0) @binding(4) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> coefficients: array<vec4<f32>>;

#import normalised_read
#import weights_round

// `pixel` counts those of the small side, groups the channels of V.
fn x_index(pixel: u32, group: u32, groups: u32) -> u32 {
    if (X_SQUARES) {
        return depth_to_space(pixel / params.width, pixel % params.width, params.width, group, groups);
    }
    return pixel * groups + group;
}

fn y_index(pixel: u32, group: u32, groups: u32) -> u32 {
    if (Y_SQUARES) {
        return depth_to_space(pixel / params.width, pixel % params.width, params.width, group, groups);
    }
    return pixel * groups + group;
}

// A square's pixels share the bias.
fn bias_group(group: u32, groups: u32) -> u32 {
    return select(group, group % (groups / 4u), Y_SQUARES);
}

fn started(at: u32, from_bias: V) -> V {
    if (START == 1u) {
        return V(y[at]);
    }
    return from_bias;
}

// The weights of an input for one half of a block's outputs, of those that went round.
fn weight_of(w: array<array<vec4<f32>, 8>, FOURS>, input: u32, half: u32) -> vec4<f32> {
    if (V_FLOATS == 4u) {
        return w[0][input * 2u + half];
    }
    return w[half % FOURS][input];
}

@compute @workgroup_size(8)
fn forward(id: Invocation, @builtin(subgroup_invocation_id) subgroup_lane: u32) {
    let index = linear_group(id);
    let pixel_groups = (params.pixels + PIXELS * 8u - 1u) / (PIXELS * 8u);
    let block = index / pixel_groups * BLOCKS;
    if (block >= params.blocks) {
        return;
    }
    // Lanes beyond the last pixel work on it too, since they carry weights.
    let first = (index % pixel_groups) * PIXELS * 8u + id.lane * PIXELS;
    // Blocks beyond the last one are the last one again.
    var from_block: array<u32, BLOCKS>;
    var sum: array<array<array<vec4<f32>, 2>, PIXELS>, BLOCKS>;
    for (var b = 0u; b < BLOCKS; b++) {
        let row = min(block + b, params.blocks - 1u) * params.weight_groups + params.weight_first;
        from_block[b] = row * (32u / V_FLOATS) + subgroup_lane % 8u;
        for (var t = 0u; t < PIXELS; t++) {
            sum[b][t] = array<vec4<f32>, 2>(vec4<f32>(0.0), vec4<f32>(0.0));
        }
    }
    let groups = params.x_groups / FOURS;
    for (var c = 0u; c < groups; c++) {
        let norms = norms_of(c, groups);
        var value: array<V, PIXELS>;
        for (var t = 0u; t < PIXELS; t++) {
            value[t] = channels_of(x[x_index(min(first + t, params.pixels - 1u), c, groups)], norms);
        }
        for (var b = 0u; b < BLOCKS; b++) {
            let mine = weight[from_block[b] + c * 8u];
            var w: array<array<vec4<f32>, 8>, FOURS>;
            for (var k = 0u; k < FOURS; k++) {
                w[k] = passed_round(four_of(mine, k));
            }
            #unroll
            for (var half = 0u; half < 2u; half++) {
                for (var t = 0u; t < PIXELS; t++) {
                    var total = sum[b][t][half];
                    #unroll
                    for (var i = 0u; i < V_FLOATS; i++) {
                        total = fma(vec4<f32>(channel(value[t], i)), weight_of(w, i, half), total);
                    }
                    sum[b][t][half] = total;
                }
            }
        }
    }
    let outs = params.out_groups / FOURS;
    var start: array<array<V, V_OF_BLOCK>, BLOCKS>;
    if (START == 0u) {
        for (var b = 0u; b < BLOCKS; b++) {
            for (var k = 0u; k < V_OF_BLOCK; k++) {
                start[b][k] = bias[bias_group(min((block + b) * V_OF_BLOCK + k, outs - 1u), outs)];
            }
        }
    }
    for (var t = 0u; t < PIXELS; t++) {
        for (var b = 0u; b < BLOCKS; b++) {
            for (var k = 0u; k < V_OF_BLOCK; k++) {
                let o = (block + b) * V_OF_BLOCK + k;
                if (first + t < params.pixels && o < outs) {
                    let at = y_index(first + t, o, outs);
                    y[at] = Y(started(at, start[b][k]) + of_fours(sum[b][t], k));
                }
            }
        }
    }
}
