// Convolution, stride 1, same size: y[n,h,w,o] = b[o] + sum over (i,j,c) of x[n,h+i-P,w+j-P,c] * weight[o,c,i,j].
// The tiled form for GPUs: an implicit matrix product, [pixels] x [taps * channels] times [taps * channels] x [outputs].
//
//   x       [N, H, W, CX]               X, CX a multiple of 4
//   weight  [blocks][CG][K*K][4][8]     f32, packed: 8 output channels a block, groups of 4 input channels
//   bias    [CO]                        f32
//   moments [tiles][2][CO]              f32: mean and sum of squared deviations of a tile's pixels
//   coefficients [3 or more][CX]       f32: mean, scale, beta, where x is normalised as it is read
//   y       [N, H, W, CO]               Y, CO a multiple of 4
//
// A workgroup owns 128 pixels x 64 output channels and steps through 16 channels of one tap at a time, held in
// workgroup memory; an invocation owns 8 pixels x 8 channels in registers. f32 throughout, added in a fixed order.
#import grid
#import depth_to_space

// How four channels of x and of y are stored: vec4<f32>, or vec4<f16>. Arithmetic is in f32.
alias X = vec4<f32>;
alias Y = vec4<f32>;
const K: u32 = 3u;
// x or y is the 2x2 transposed convolution's large side: its pixels in squares are the channels here.
const X_SQUARES: bool = false;
const Y_SQUARES: bool = false;
const TILE_PIXELS: u32 = 128u;
const TILE_CELLS: u32 = 16u;
const TILE_LANES: u32 = 128u;
const STEP_GROUPS: u32 = 4u;

struct Params {
    pixels: u32,
    height: u32,
    width: u32,
    x_groups: u32,
    weight_groups: u32,
    weight_first: u32,
    blocks: u32,
    out_groups: u32,
    pixel_tiles: u32,
    // 0: the bias, 1: what y holds, 2: zero
    start_from: u32,
    moments_first: u32,
}

@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<Y>;
@group(0) @binding(4) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> coefficients: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> moments: array<vec4<f32>>;

fn stored_y(at: u32) -> vec4<f32> {
    return vec4<f32>(y[at]);
}

#import normalised_read
#import tile_moments

// [channel][pixels], scalars since each comes from another invocation, and [channel][outputs / 4]
var<workgroup> x_tile: array<f32, 2048>;
var<workgroup> weight_tile: array<vec4<f32>, 256>;

fn x_at(pixel: u32, i: u32, j: u32, group: u32) -> vec4<f32> {
    let w = pixel % params.width + j - K / 2u;
    let h = (pixel / params.width) % params.height + i - K / 2u;
    let inside = pixel < params.pixels && h < params.height && w < params.width && group < params.x_groups;
    if (!inside) {
        return vec4<f32>(0.0);
    }
    let row = pixel / (params.width * params.height) * params.height + h;
    let norm = norm_of(group, params.x_groups);
    if (X_SQUARES) {
        return vec4<f32>(as_read(x[depth_to_space(row, w, params.width, group, params.x_groups)], norm));
    }
    return vec4<f32>(as_read(x[(row * params.width + w) * params.x_groups + group], norm));
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

fn write_tile(id: Invocation) {
    let group = linear_group(id);
    let pixel0 = (group % params.pixel_tiles) * TILE_PIXELS;
    let block0 = (group / params.pixel_tiles) * 8u;
    let my_pixels = id.lane / 8u;
    let my_block = id.lane % 8u;

    var sum: array<array<vec4<f32>, 2>, 8>;
    for (var p = 0u; p < 8u; p++) {
        sum[p][0] = vec4<f32>(0.0);
        sum[p][1] = vec4<f32>(0.0);
    }
    for (var tap = 0u; tap < K * K; tap++) {
        for (var group0 = 0u; group0 < params.x_groups; group0 += STEP_GROUPS) {
            for (var g = 0u; g < STEP_GROUPS; g++) {
                let value = x_at(pixel0 + id.lane, tap / K, tap % K, group0 + g);
                for (var k = 0u; k < 4u; k++) {
                    x_tile[(g * 4u + k) * TILE_PIXELS + id.lane] = value[k];
                }
            }
            for (var part = 0u; part < 2u; part++) {
                let at = part * 128u + id.lane;
                let channel = at / 16u;
                let block = min(block0 + (at % 16u) / 2u, params.blocks - 1u);
                // Channels beyond the source meet zeros of x: any weight will do there, but it must be a number.
                let source = min(group0 + channel / 4u, params.x_groups - 1u) + params.weight_first;
                let row = (block * params.weight_groups + source) * (K * K) + tap;
                weight_tile[at] = weight[row * 8u + (channel % 4u) * 2u + at % 2u];
            }
            workgroupBarrier();
            for (var c = 0u; c < STEP_GROUPS * 4u; c++) {
                let at = c * TILE_PIXELS + my_pixels * 8u;
                let a = vec4<f32>(x_tile[at], x_tile[at + 1u], x_tile[at + 2u], x_tile[at + 3u]);
                let b = vec4<f32>(x_tile[at + 4u], x_tile[at + 5u], x_tile[at + 6u], x_tile[at + 7u]);
                let v = weight_tile[c * 16u + my_block * 2u];
                let w = weight_tile[c * 16u + my_block * 2u + 1u];
                for (var p = 0u; p < 4u; p++) {
                    sum[p][0] = fma(vec4<f32>(a[p]), v, sum[p][0]);
                    sum[p][1] = fma(vec4<f32>(a[p]), w, sum[p][1]);
                    sum[p + 4u][0] = fma(vec4<f32>(b[p]), v, sum[p + 4u][0]);
                    sum[p + 4u][1] = fma(vec4<f32>(b[p]), w, sum[p + 4u][1]);
                }
            }
            workgroupBarrier();
        }
    }
    for (var p = 0u; p < 8u; p++) {
        let pixel = pixel0 + my_pixels * 8u + p;
        for (var half = 0u; half < 2u; half++) {
            let o = (block0 + my_block) * 2u + half;
            if (pixel < params.pixels && o < params.out_groups) {
                let at = y_index(pixel, o);
                if (params.start_from == 0u) {
                    y[at] = Y(bias[bias_group(o)] + sum[p][half]);
                } else if (params.start_from == 1u) {
                    y[at] = Y(vec4<f32>(y[at]) + sum[p][half]);
                } else {
                    y[at] = Y(sum[p][half]);
                }
            }
        }
    }
}

@compute @workgroup_size(TILE_LANES)
fn forward(id: Invocation) {
    write_tile(id);
}

// The same, and the moments of what it wrote.
@compute @workgroup_size(TILE_LANES)
fn forward_moments(id: Invocation) {
    write_tile(id);
    let tile = linear_group(id) % params.pixel_tiles;
    let group0 = linear_group(id) / params.pixel_tiles * TILE_CELLS;
    gather_moments(id.lane, params.moments_first + tile, tile * TILE_PIXELS, group0, params.pixels, params.out_groups);
}
