// The products of conv2d_winograd as PRODUCTS matrix products through workgroup memory, for GPUs.
//
//   v      [PRODUCTS][tiles][CG][4]               f32, transformed inputs of a range of tiles
//   u      [PRODUCTS][blocks][CG][4][8]           f32, transformed weights
//   m      [PRODUCTS][tiles][blocks][8]           f32, products, or transformed gradients of the outputs
//   part   [splits][PRODUCTS][blocks][CG][4][8]   f32, a split of the tiles each
//
// `multiply` makes m of v and u; `multiply_gradient` makes part of v and m, or adds to it. A workgroup owns 128 x 64 numbers of one
// product (one beyond the last: of no split), and may bring what comes next to registers while it adds. f32, in a fixed order.
#import grid
#import tile_product

// Whether part holds what an earlier range of tiles has left. A constant, so that there is no code for what is not done.
const ADD_TO: bool = false;
const PRODUCTS: u32 = 36u;
// Groups of a row of `left` where rows are channels, and how many tiles go together.
const ROW_GROUPS: u32 = PRODUCT_ROWS / 4u;
const TILE_ROWS: u32 = PRODUCT_LANES / ROW_GROUPS;
const TILES_EACH: u32 = PRODUCT_CHANNELS / TILE_ROWS;

struct Params {
    tiles: u32,
    groups: u32,
    blocks: u32,
    // Workgroups side by side along the rows, and along the outputs.
    row_tiles: u32,
    out_tiles: u32,
    tiles_per_split: u32,
    splits: u32,
}

@group(0) @binding(0) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> u: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> m_out: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> m: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> part: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> params: Params;

// What a workgroup owns.
struct Part {
    row0: u32,
    block0: u32,
    product: u32,
    split: u32,
}

fn part_of(index: u32) -> Part {
    let row0 = index % params.row_tiles * PRODUCT_ROWS;
    let block0 = index / params.row_tiles % params.out_tiles * (PRODUCT_OUTS / 8u);
    let product = index / params.row_tiles / params.out_tiles;
    return Part(row0, block0, product % PRODUCTS, product / PRODUCTS);
}

// What an invocation brings of v and u: where its rows and its block begin, its group and cell of the step's, its channel.
struct Share {
    v_at: array<u32, LEFT_EACH>,
    u_at: u32,
    group: u32,
    channel: u32,
}

fn bring(step: u32, mine: Share, left_next: ptr<function, array<vec4<f32>, LEFT_EACH>>, right_next: ptr<function, array<vec4<f32>, RIGHT_EACH>>) {
    let last = params.groups - 1u;
    let group = min(step * STEP_GROUPS + mine.group, last);
    #unroll
    for (var i = 0u; i < LEFT_EACH; i++) {
        (*left_next)[i] = v[mine.v_at[i] + group];
    }
    #unroll
    for (var i = 0u; i < RIGHT_EACH; i++) {
        let source = min(step * STEP_GROUPS + (i * RIGHT_ROWS + mine.channel) / 4u, last);
        (*right_next)[i] = u[mine.u_at + source * 8u];
    }
}

@compute @workgroup_size(PRODUCT_LANES)
fn multiply(id: Invocation) {
    let mine = part_of(linear_group(id));
    let my_row = id.lane / STEP_GROUPS;
    let cell = id.lane % RIGHT_STRIDE;
    let channel = id.lane / RIGHT_STRIDE;
    // Tiles and blocks beyond the last are the last again; their products are not written.
    let block = mine.product * params.blocks + min(mine.block0 + cell / 2u, params.blocks - 1u);
    let u_at = block * params.groups * 8u + channel % 4u * 2u + cell % 2u;
    var share = Share(array<u32, LEFT_EACH>(), u_at, id.lane % STEP_GROUPS, channel);
    #unroll
    for (var i = 0u; i < LEFT_EACH; i++) {
        let tile = min(mine.row0 + i * LEFT_ROWS + my_row, params.tiles - 1u);
        share.v_at[i] = (mine.product * params.tiles + tile) * params.groups;
    }
    var sums: Sums;
    var left_next: array<vec4<f32>, LEFT_EACH>;
    var right_next: array<vec4<f32>, RIGHT_EACH>;
    let steps = (params.groups + STEP_GROUPS - 1u) / STEP_GROUPS;
    if (PRODUCT_AHEAD) {
        bring(0u, share, &left_next, &right_next);
    }
    for (var step = 0u; step < steps; step++) {
        if (!PRODUCT_AHEAD) {
            bring(step, share, &left_next, &right_next);
        }
        workgroupBarrier();
        // Not when they are loaded: that would wait for them.
        let is_known = step * STEP_GROUPS + share.group < params.groups;
        #unroll
        for (var i = 0u; i < LEFT_EACH; i++) {
            put_left(my_row, i, share.group, select(vec4<f32>(0.0), left_next[i], is_known));
        }
        #unroll
        for (var i = 0u; i < RIGHT_EACH; i++) {
            right[i * PRODUCT_LANES + id.lane] = right_next[i];
        }
        workgroupBarrier();
        if (PRODUCT_AHEAD && step + 1u < steps) {
            bring(step + 1u, share, &left_next, &right_next);
        }
        add_products(&sums, id.lane);
    }
    #unroll
    for (var half = 0u; half < 2u; half++) {
        let out = mine.block0 * 2u + out_group(id.lane, half);
        #unroll
        for (var p = 0u; p < 8u; p++) {
            let tile = mine.row0 + first_row(id.lane) + p;
            if (tile < params.tiles && out < params.blocks * 2u && mine.split < params.splits) {
                m_out[(mine.product * params.tiles + tile) * params.blocks * 2u + out] = sums[p * 2u + half];
            }
        }
    }
}

// The same of v and m: its group of rows, its block and half of that, and the tiles that it brings of each step.
struct GradientShare {
    row_group: u32,
    row_tile: u32,
    out: u32,
    out_tile: u32,
    // Of the product, and the tiles of the split.
    first: u32,
    begin: u32,
    end: u32,
}

fn bring_tiles(step: u32, mine: GradientShare, left_next: ptr<function, array<vec4<f32>, TILES_EACH>>, right_next: ptr<function, array<vec4<f32>, RIGHT_EACH>>) {
    // Tiles beyond the split are zeros of v: any gradient will do there, but it must be a number.
    let tile0 = mine.begin + step * PRODUCT_CHANNELS;
    #unroll
    for (var i = 0u; i < TILES_EACH; i++) {
        let tile = tile0 + i * TILE_ROWS + mine.row_tile;
        (*left_next)[i] = vec4<f32>(0.0);
        if (tile < mine.end && mine.row_group < params.groups) {
            (*left_next)[i] = v[(mine.first + tile) * params.groups + mine.row_group];
        }
    }
    #unroll
    for (var i = 0u; i < RIGHT_EACH; i++) {
        let tile = min(tile0 + i * RIGHT_ROWS + mine.out_tile, params.tiles - 1u);
        (*right_next)[i] = m[(mine.first + tile) * params.blocks * 2u + mine.out];
    }
}

@compute @workgroup_size(PRODUCT_LANES)
fn multiply_gradient(id: Invocation) {
    let mine = part_of(linear_group(id));
    let cell = id.lane % RIGHT_STRIDE;
    var share: GradientShare;
    share.row_group = mine.row0 / 4u + id.lane % ROW_GROUPS;
    share.row_tile = id.lane / ROW_GROUPS;
    share.out = min(mine.block0 + cell / 2u, params.blocks - 1u) * 2u + cell % 2u;
    share.out_tile = id.lane / RIGHT_STRIDE;
    share.first = mine.product * params.tiles;
    share.begin = mine.split * params.tiles_per_split;
    share.end = min(share.begin + params.tiles_per_split, params.tiles);
    var sums: Sums;
    var left_next: array<vec4<f32>, TILES_EACH>;
    var right_next: array<vec4<f32>, RIGHT_EACH>;
    if (PRODUCT_AHEAD) {
        bring_tiles(0u, share, &left_next, &right_next);
    }
    let steps = (params.tiles_per_split + PRODUCT_CHANNELS - 1u) / PRODUCT_CHANNELS;
    for (var step = 0u; step < steps; step++) {
        if (!PRODUCT_AHEAD) {
            bring_tiles(step, share, &left_next, &right_next);
        }
        workgroupBarrier();
        #unroll
        for (var i = 0u; i < TILES_EACH; i++) {
            let at = left_at(i * TILE_ROWS + share.row_tile, id.lane % ROW_GROUPS * 4u);
            #unroll
            for (var k = 0u; k < 4u; k++) {
                left[at + k] = left_next[i][k];
            }
        }
        #unroll
        for (var i = 0u; i < RIGHT_EACH; i++) {
            right[i * PRODUCT_LANES + id.lane] = right_next[i];
        }
        workgroupBarrier();
        if (PRODUCT_AHEAD && step + 1u < steps) {
            bring_tiles(step + 1u, share, &left_next, &right_next);
        }
        add_products(&sums, id.lane);
    }
    #unroll
    for (var half = 0u; half < 2u; half++) {
        let out = mine.block0 * 2u + out_group(id.lane, half);
        let row = ((mine.split * PRODUCTS + mine.product) * params.blocks + out / 2u) * params.groups * 4u;
        #unroll
        for (var p = 0u; p < 8u; p++) {
            let channel = mine.row0 + first_row(id.lane) + p;
            if (channel < params.groups * 4u && out < params.blocks * 2u && mine.split < params.splits) {
                let to = (row + channel) * 2u + out % 2u;
                if (ADD_TO) {
                    sums[p * 2u + half] += part[to];
                }
                part[to] = sums[p * 2u + half];
            }
        }
    }
}
