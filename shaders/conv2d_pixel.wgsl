// The direct form of 1x1 convolutions, and of transposed ones as 1x1 convolutions to squares:  y = W x  for each pixel.
//
//   x       [N, H, W, CX]               X; or [N, 2 H, 2 W, CX / 4] seen as squares
//   weight  [blocks][weight_groups][4][8]   f32
//   y       [N, H, W, CO]               Y; or [N, 2 H, 2 W, CO / 4] seen as squares
//
// A lane owns PIXELS pixels x BLOCKS x 8 outputs. The lanes of a subgroup (8 at least) load weights in turn and pass them
// round. conv2d_direct has no room for as many: with a window a software adapter's driver unrolls no loop of that size.
#import grid
#import depth_to_space

// How four channels of x and of y are stored. Arithmetic is in f32.
alias X = vec4<f32>;
alias Y = vec4<f32>;
const PIXELS: u32 = 8u;
const BLOCKS: u32 = 4u;
// What the sums are added to: 0: the bias, 1: what y holds, 2: zero. A constant, so that there is no code for the others.
const START: u32 = 0u;
const X_SQUARES: bool = false;
const Y_SQUARES: bool = false;

struct Params {
    pixels: u32,
    width: u32,
    x_groups: u32,
    weight_groups: u32,
    weight_first: u32,
    blocks: u32,
    out_groups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<Y>;
@group(0) @binding(4) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> coefficients: array<vec4<f32>>;

#import normalised_read
#import weights_round

// `pixel` counts those of the small side.
fn x_index(pixel: u32, group: u32) -> u32 {
    if (X_SQUARES) {
        return depth_to_space(pixel / params.width, pixel % params.width, params.width, group, params.x_groups);
    }
    return pixel * params.x_groups + group;
}

fn y_index(pixel: u32, group: u32) -> u32 {
    if (Y_SQUARES) {
        return depth_to_space(pixel / params.width, pixel % params.width, params.width, group, params.out_groups);
    }
    return pixel * params.out_groups + group;
}

// A square's pixels share the bias.
fn bias_group(group: u32) -> u32 {
    return select(group, group % (params.out_groups / 4u), Y_SQUARES);
}

fn started(at: u32, from_bias: vec4<f32>) -> vec4<f32> {
    if (START == 1u) {
        return vec4<f32>(y[at]);
    }
    return from_bias;
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
        from_block[b] = row * 8u + subgroup_lane % 8u;
        for (var t = 0u; t < PIXELS; t++) {
            sum[b][t] = array<vec4<f32>, 2>(vec4<f32>(0.0), vec4<f32>(0.0));
        }
    }
    for (var c = 0u; c < params.x_groups; c++) {
        let norm = norm_of(c, params.x_groups);
        var value: array<vec4<f32>, PIXELS>;
        for (var t = 0u; t < PIXELS; t++) {
            value[t] = vec4<f32>(as_read(x[x_index(min(first + t, params.pixels - 1u), c)], norm));
        }
        for (var b = 0u; b < BLOCKS; b++) {
            let w = passed_round(weight[from_block[b] + c * 8u]);
            for (var t = 0u; t < PIXELS; t++) {
                sum[b][t][0] = add_product(sum[b][t][0], value[t], w, 0u);
                sum[b][t][1] = add_product(sum[b][t][1], value[t], w, 1u);
            }
        }
    }
    var start: array<array<vec4<f32>, 2>, BLOCKS>;
    if (START == 0u) {
        for (var b = 0u; b < BLOCKS; b++) {
            for (var half = 0u; half < 2u; half++) {
                start[b][half] = bias[bias_group(min((block + b) * 2u + half, params.out_groups - 1u))];
            }
        }
    }
    for (var t = 0u; t < PIXELS; t++) {
        for (var b = 0u; b < BLOCKS; b++) {
            for (var half = 0u; half < 2u; half++) {
                let o = (block + b) * 2u + half;
                if (first + t < params.pixels && o < params.out_groups) {
                    let at = y_index(first + t, o);
                    y[at] = Y(started(at, start[b][half]) + sum[b][t][half]);
                }
            }
        }
    }
}
