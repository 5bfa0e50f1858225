// The products of conv2d_winograd as PRODUCTS matrix products through workgroup memory, for GPUs.
//
//   v      [PRODUCTS][tiles][CG][4]               f32, transformed inputs of a range of tiles
//   u      [PRODUCTS][blocks][CG][4][8]           f32, transformed weights
//   m      [PRODUCTS][tiles][blocks][8]           f32, products, or transformed gradients of the outputs
//   part   [splits][PRODUCTS][blocks][CG][4][8]   f32, a split of the tiles each
//
// `multiply` makes m of v and u; `multiply_gradient` makes part of v and m, or adds to it. A workgroup owns 128 x 64 numbers
// of one product, and brings the next channels, or tiles, to registers while it adds. f32 throughout, in a fixed order.
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

@compute @workgroup_size(PRODUCT_LANES)
fn multiply(id: Invocation) {
    let mine = part_of(linear_group(id));
    let my_row = id.lane / STEP_GROUPS;
    let my_group = id.lane % STEP_GROUPS;
    // Tiles and blocks beyond the last are the last again; their products are not written.
    var v_at: array<u32, LEFT_EACH>;
    #unroll
    for (var i = 0u; i < LEFT_EACH; i++) {
        let tile = min(mine.row0 + i * LEFT_ROWS + my_row, params.tiles - 1u);
        v_at[i] = (mine.product * params.tiles + tile) * params.groups;
    }
    let cell = id.lane % RIGHT_STRIDE;
    let channel = id.lane / RIGHT_STRIDE;
    let block = mine.product * params.blocks + min(mine.block0 + cell / 2u, params.blocks - 1u);
    let within = channel % 4u * 2u + cell % 2u;
    let last = params.groups - 1u;
    var sums: Sums;
    var left_next: array<vec4<f32>, LEFT_EACH>;
    var right_next: array<vec4<f32>, RIGHT_EACH>;
    let steps = (params.groups + STEP_GROUPS - 1u) / STEP_GROUPS;
    for (var step = 0u; step <= steps; step++) {
        workgroupBarrier();
        if (step > 0u) {
            // Not when they are loaded: that would wait for them.
            let is_known = (step - 1u) * STEP_GROUPS + my_group <= last;
            #unroll
            for (var i = 0u; i < LEFT_EACH; i++) {
                put_left(my_row, i, my_group, select(vec4<f32>(0.0), left_next[i], is_known));
            }
            #unroll
            for (var i = 0u; i < RIGHT_EACH; i++) {
                right[i * PRODUCT_LANES + id.lane] = right_next[i];
            }
        }
        workgroupBarrier();
        if (step < steps) {
            let group = min(step * STEP_GROUPS + my_group, last);
            #unroll
            for (var i = 0u; i < LEFT_EACH; i++) {
                left_next[i] = v[v_at[i] + group];
            }
            #unroll
            for (var i = 0u; i < RIGHT_EACH; i++) {
                let source = min(step * STEP_GROUPS + (i * RIGHT_ROWS + channel) / 4u, last);
                right_next[i] = u[(block * params.groups + source) * 8u + within];
            }
        }
        if (step > 0u) {
            add_products(&sums, id.lane);
        }
    }
    #unroll
    for (var half = 0u; half < 2u; half++) {
        let out = mine.block0 * 2u + out_group(id.lane, half);
        #unroll
        for (var p = 0u; p < 8u; p++) {
            let tile = mine.row0 + first_row(id.lane) + p;
            if (tile < params.tiles && out < params.blocks * 2u) {
                m_out[(mine.product * params.tiles + tile) * params.blocks * 2u + out] = sums[p * 2u + half];
            }
        }
    }
}

@compute @workgroup_size(PRODUCT_LANES)
fn multiply_gradient(id: Invocation) {
    let mine = part_of(linear_group(id));
    let row_tile = id.lane / ROW_GROUPS;
    let row_group = mine.row0 / 4u + id.lane % ROW_GROUPS;
    let cell = id.lane % RIGHT_STRIDE;
    let out_tile = id.lane / RIGHT_STRIDE;
    let block = min(mine.block0 + cell / 2u, params.blocks - 1u);
    let begin = mine.split * params.tiles_per_split;
    let end = min(begin + params.tiles_per_split, params.tiles);
    var sums: Sums;
    var left_next: array<vec4<f32>, TILES_EACH>;
    var right_next: array<vec4<f32>, RIGHT_EACH>;
    let steps = (params.tiles_per_split + PRODUCT_CHANNELS - 1u) / PRODUCT_CHANNELS;
    for (var step = 0u; step <= steps; step++) {
        workgroupBarrier();
        if (step > 0u) {
            #unroll
            for (var i = 0u; i < TILES_EACH; i++) {
                let at = left_at(i * TILE_ROWS + row_tile, id.lane % ROW_GROUPS * 4u);
                #unroll
                for (var k = 0u; k < 4u; k++) {
                    left[at + k] = left_next[i][k];
                }
            }
            #unroll
            for (var i = 0u; i < RIGHT_EACH; i++) {
                right[i * PRODUCT_LANES + id.lane] = right_next[i];
            }
        }
        workgroupBarrier();
        if (step < steps) {
            // Tiles beyond the split are zeros of v: any gradient will do there, but it must be a number.
            let first = mine.product * params.tiles;
            #unroll
            for (var i = 0u; i < TILES_EACH; i++) {
                let tile = begin + step * PRODUCT_CHANNELS + i * TILE_ROWS + row_tile;
                left_next[i] = vec4<f32>(0.0);
                if (tile < end && row_group < params.groups) {
                    left_next[i] = v[(first + tile) * params.groups + row_group];
                }
            }
            #unroll
            for (var i = 0u; i < RIGHT_EACH; i++) {
                let tile = min(begin + step * PRODUCT_CHANNELS + i * RIGHT_ROWS + out_tile, params.tiles - 1u);
                right_next[i] = m[((first + tile) * params.blocks + block) * 2u + cell % 2u];
            }
        }
        if (step > 0u) {
            add_products(&sums, id.lane);
        }
    }
    #unroll
    for (var half = 0u; half < 2u; half++) {
        let out = mine.block0 * 2u + out_group(id.lane, half);
        let row = ((mine.split * PRODUCTS + mine.product) * params.blocks + out / 2u) * params.groups * 4u;
        #unroll
        for (var p = 0u; p < 8u; p++) {
            let channel = mine.row0 + first_row(id.lane) + p;
            if (channel < params.groups * 4u && out < params.blocks * 2u) {
                let to = (row + channel) * 2u + out % 2u;
                var sum = sums[p * 2u + half];
                if (ADD_TO) {
                    sum += part[to];
                }
                part[to] = sum;
            }
        }
    }
}
