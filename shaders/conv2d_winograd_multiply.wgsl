// The products of conv2d_winograd, on processors:  m = v u  for each of 36 or 16 matrices.
//
//   v       [products][tiles][CG][4]          f32, transformed inputs of a range of tiles
//   u       [products][blocks][CG][4][8]      f32, transformed weights
//   m       [products][tiles][blocks][8]      f32, products
//
// CG is even: groups go by twos. A workgroup of one subgroup (8 lanes at least) owns 8 x TILES tiles by BLOCKS x 8 outputs of one product;
// its lanes load the weights of eight inputs in turn and pass them round, since a load costs a software adapter as much as
// two dozen multiply-adds.
#import grid

const TILES: u32 = 8u;
const BLOCKS: u32 = 2u;

struct Params {
    tiles: u32,
    // Pairs of groups of four channels.
    pairs: u32,
    blocks: u32,
    products: u32,
}

@group(0) @binding(0) var<storage, read> v: array<V>;
@group(0) @binding(1) var<storage, read> u: array<V>;
@group(0) @binding(2) var<storage, read_write> m: array<V>;
@group(0) @binding(3) var<uniform> params: Params;

#import lane8
#import weights_round
#import add_inputs

@compute @workgroup_size(8)
fn multiply(id: Invocation, @builtin(subgroup_invocation_id) subgroup_lane: u32) {
    let index = linear_group(id);
    let tile_groups = (params.tiles + TILES * 8u - 1u) / (TILES * 8u);
    let block_groups = (params.blocks + BLOCKS - 1u) / BLOCKS;
    let block = (index / tile_groups % block_groups) * BLOCKS;
    let product = index / (tile_groups * block_groups);
    if (product >= params.products) {
        return;
    }
    // Lanes beyond the last tile work on it too, since they carry weights.
    let first = (index % tile_groups) * TILES * 8u + id.lane * TILES;
    var from_tile: array<u32, TILES>;
    for (var t = 0u; t < TILES; t++) {
        from_tile[t] = (product * params.tiles + min(first + t, params.tiles - 1u)) * params.pairs;
    }
    // Blocks beyond the last one are the last one again.
    var from_block: array<u32, BLOCKS>;
    var sum: array<array<array<vec4<f32>, 2>, TILES>, BLOCKS>;
    for (var b = 0u; b < BLOCKS; b++) {
        from_block[b] = (product * params.blocks + min(block + b, params.blocks - 1u)) * params.pairs * 8u + subgroup_lane % 8u;
        for (var t = 0u; t < TILES; t++) {
            sum[b][t] = array<vec4<f32>, 2>(vec4<f32>(0.0), vec4<f32>(0.0));
        }
    }
    for (var c = 0u; c < params.pairs; c++) {
        var value: array<V, TILES>;
        for (var t = 0u; t < TILES; t++) {
            value[t] = v[from_tile[t] + c];
        }
        for (var b = 0u; b < BLOCKS; b++) {
            let mine = u[from_block[b] + c * 8u];
            for (var half = 0u; half < 2u; half++) {
                let w = passed_round(mine[half]);
                for (var t = 0u; t < TILES; t++) {
                    sum[b][t][half] = add_inputs(sum[b][t][half], value[t], w);
                }
            }
        }
    }
    for (var t = 0u; t < TILES; t++) {
        for (var b = 0u; b < BLOCKS; b++) {
            if (first + t < params.tiles && block + b < params.blocks) {
                m[(product * params.tiles + first + t) * params.blocks + block + b] = mat2x4<f32>(sum[b][t][0], sum[b][t][1]);
            }
        }
    }
}
