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
// A workgroup owns 128 pixels x 64 output channels and steps through 16 channels of one tap at a time, held in workgroup
// memory while the next are on their way to registers (PRODUCT_AHEAD): tap after tap of the same channels, which read nearly the same
// pixels. f32 throughout, added in a fixed order.
#import grid
#import depth_to_space
#import tile_product

// How four channels of x and of y are stored: vec4<f32>, or vec4<f16>. Arithmetic is in f32.
alias X = vec4<f32>;
alias Y = vec4<f32>;
const K: u32 = 3u;
// x or y is the 2x2 transposed convolution's large side: its pixels in squares are the channels here.
const X_SQUARES: bool = false;
const Y_SQUARES: bool = false;
// The tile as gather_moments sees it.
const TILE_PIXELS: u32 = PRODUCT_ROWS;
const TILE_CELLS: u32 = PRODUCT_OUTS / 4u;
const TILE_LANES: u32 = PRODUCT_LANES;

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

fn x_units() -> u32 {
    return params.x_groups;
}

#import normalised_read
#import source_pixels
#import tile_moments

fn in_tile(place: u32) -> u32 {
    return place;
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

// What an invocation brings: the pixels of its rows and its group of a step's channels, where its weights begin and of which of the
// step's rows they are; then the step that is next, and what it reads.
struct Share {
    pixels: array<Pixel, LEFT_EACH>,
    group: u32,
    w_block: u32,
    w_row: u32,
    w_within: u32,
    tap: u32,
    first: u32,
}

struct Next {
    x: array<X, LEFT_EACH>,
    w: array<vec4<f32>, RIGHT_EACH>,
    // The tap that x were read for, none where there were no channels any more, and their group of channels.
    wanted: u32,
    known: u32,
}

fn bring(share: ptr<function, Share>, next: ptr<function, Next>) {
    // Channels beyond the source are zeros of x: any weight will do there, but it must be a number.
    let last = params.x_groups - 1u;
    let group = (*share).first + (*share).group;
    (*next).known = min(group, last);
    let offset = offset_of((*share).tap, (*next).known);
    (*next).wanted = tap_wanted((*share).tap, group <= last);
    #unroll
    for (var i = 0u; i < LEFT_EACH; i++) {
        (*next).x[i] = X();
        if (reads_within((*share).pixels[i], (*next).wanted)) {
            (*next).x[i] = x[(*share).pixels[i].at + offset];
        }
    }
    #unroll
    for (var i = 0u; i < RIGHT_EACH; i++) {
        let source = min((*share).first + (i * RIGHT_ROWS + (*share).w_row) / 4u, last);
        (*next).w[i] = weight[(((*share).w_block + source) * (K * K) + (*share).tap) * 8u + (*share).w_within];
    }
    (*share).tap++;
    if ((*share).tap == K * K) {
        (*share).tap = 0u;
        (*share).first += STEP_GROUPS;
    }
}

fn write_tile(id: Invocation) {
    let group = linear_group(id);
    let pixel0 = (group % params.pixel_tiles) * PRODUCT_ROWS;
    let block0 = (group / params.pixel_tiles) * (PRODUCT_OUTS / 8u);
    let my_row = id.lane / STEP_GROUPS;
    // Weights of a group of four inputs, eight outputs and a tap are two cells for each input.
    let w_cell = id.lane % RIGHT_STRIDE;
    let w_row = id.lane / RIGHT_STRIDE;
    var share: Share;
    share.group = id.lane % STEP_GROUPS;
    share.w_block = min(block0 + w_cell / 2u, params.blocks - 1u) * params.weight_groups + params.weight_first;
    share.w_row = w_row;
    share.w_within = w_row % 4u * 2u + w_cell % 2u;
    #unroll
    for (var i = 0u; i < LEFT_EACH; i++) {
        share.pixels[i] = pixel_of(pixel0 + i * LEFT_ROWS + my_row);
    }
    var sums: Sums;
    var next: Next;
    if (PRODUCT_AHEAD) {
        bring(&share, &next);
    }
    let steps = (params.x_groups + STEP_GROUPS - 1u) / STEP_GROUPS * K * K;
    for (var step = 0u; step < steps; step++) {
        if (!PRODUCT_AHEAD) {
            bring(&share, &next);
        }
        workgroupBarrier();
        let norm = norm_of(next.known, params.x_groups);
        #unroll
        for (var i = 0u; i < LEFT_EACH; i++) {
            let value = as_read_before(next.x[i], norm, reads_within(share.pixels[i], next.wanted));
            put_left(my_row, i, share.group, vec4<f32>(value));
        }
        #unroll
        for (var i = 0u; i < RIGHT_EACH; i++) {
            right[i * PRODUCT_LANES + id.lane] = next.w[i];
        }
        workgroupBarrier();
        if (PRODUCT_AHEAD && step + 1u < steps) {
            bring(&share, &next);
        }
        add_products(&sums, id.lane);
    }
    #unroll
    for (var p = 0u; p < 8u; p++) {
        #unroll
        for (var half = 0u; half < 2u; half++) {
            let pixel = pixel0 + first_row(id.lane) + p;
            let o = block0 * 2u + out_group(id.lane, half);
            if (pixel < params.pixels && o < params.out_groups) {
                let at = y_index(pixel, o);
                if (params.start_from == 0u) {
                    y[at] = Y(bias[bias_group(o)] + sums[p * 2u + half]);
                } else if (params.start_from == 1u) {
                    y[at] = Y(vec4<f32>(y[at]) + sums[p * 2u + half]);
                } else {
                    y[at] = Y(sums[p * 2u + half]);
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
