// The product of a weight gradient: of each of the products,  part = V' M  over tiles or pixels.
//
//   v      [products][tiles][CG][4]              X: transformed inputs (conv2d_winograd), or x of a 1x1 convolution
//   m      [products][tiles][blocks][8]          M: transformed dy (conv2d_winograd_gradient), or dy
//   coefficients [3 or more][CX]       f32: mean, scale, beta, where x of a 1x1 convolution is normalised as it is read
//   part   [splits][products][blocks][CG][4][8]  f32, partial sums over the tiles of a split, over all ranges
//
// `multiply`: an invocation owns GROUPS x 4 inputs by BLOCKS x 8 outputs of one product and one split. `multiply_wide`, for
// many channels: the 8 lanes of a subgroup load the channels of a tile once and pass the inputs round, since a load costs a
// software adapter as much as two dozen multiply-adds. Ranges follow one another and splits are added in order: the same
// bits on every run.
#import grid
#import depth_to_space

// How four channels of v (X) and m are stored. Arithmetic is in f32.
alias X = vec4<f32>;
alias M = vec4<f32>;
// Of `multiply`: what an invocation owns.
const GROUPS: u32 = 4u;
const BLOCKS: u32 = 2u;
// Of `multiply_wide`: loads of 8 x 4 inputs and of 8 x 4 outputs.
const V_LOADS: u32 = 1u;
const M_LOADS: u32 = 1u;
// Tiles at a time: sums are more than registers hold, and travel once for all of these.
const TILES: u32 = 2u;
// dy's pixels are squares: of a transposed convolution.
const M_SQUARES: bool = false;
// Add to the partial sums of the ranges before. A constant, so that there is no code for it elsewhere.
const ADD_TO: bool = false;

struct Params {
    width: u32,
    tiles: u32,
    groups: u32,
    blocks: u32,
    splits: u32,
    // 36 or 16, or 1 for a 1x1 convolution.
    products: u32,
}

@group(0) @binding(0) var<storage, read> v: array<X>;
@group(0) @binding(1) var<storage, read> m: array<M>;
@group(0) @binding(2) var<storage, read_write> part: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> coefficients: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

#import normalised_read
#import weights_round

// A row of v and of m. Beyond the end it is the last one, and counts for nothing.
struct Row {
    index: u32,
    counts: bool,
}

fn row_of(product: u32, tile: u32, end: u32) -> Row {
    return Row(product * params.tiles + min(tile, end - 1u), tile < end);
}

fn m_at(row: Row, group: u32) -> vec4<f32> {
    var at = row.index * params.blocks * 2u + group;
    if (M_SQUARES) {
        let width = params.width;
        at = depth_to_space(row.index / width, row.index % width, width, group, params.blocks * 2u);
    }
    return select(vec4<f32>(0.0), vec4<f32>(m[at]), row.counts);
}

@compute @workgroup_size(64)
fn multiply(id: Invocation) {
    let index = invocation_index(id);
    let group_tiles = (params.groups + GROUPS - 1u) / GROUPS;
    let block_tiles = (params.blocks + BLOCKS - 1u) / BLOCKS;
    let group0 = (index % group_tiles) * GROUPS;
    let block0 = (index / group_tiles % block_tiles) * BLOCKS;
    let split = index / (group_tiles * block_tiles) % params.splits;
    let product = index / (group_tiles * block_tiles * params.splits);
    if (product >= params.products) {
        return;
    }
    var sum: array<array<vec4<f32>, 8u * BLOCKS>, GROUPS>;
    var group: array<u32, GROUPS>;
    var norm: array<Norm, GROUPS>;
    for (var g = 0u; g < GROUPS; g++) {
        group[g] = min(group0 + g, params.groups - 1u);
        norm[g] = norm_of(group[g], params.groups);
    }
    var block: array<u32, BLOCKS>;
    for (var b = 0u; b < BLOCKS; b++) {
        block[b] = min(block0 + b, params.blocks - 1u) * 2u;
    }
    let each = (params.tiles + params.splits - 1u) / params.splits;
    let end = min((split + 1u) * each, params.tiles);
    for (var first = split * each; first < end; first += TILES) {
        // By arrays of as many tiles: a driver unrolls such loops whatever their size.
        var d: array<array<vec4<f32>, 2u * BLOCKS>, TILES>;
        var value: array<array<vec4<f32>, GROUPS>, TILES>;
        for (var t = 0u; t < TILES; t++) {
            let row = row_of(product, first + t, end);
            for (var b = 0u; b < BLOCKS; b++) {
                d[t][b * 2u] = m_at(row, block[b]);
                d[t][b * 2u + 1u] = m_at(row, block[b] + 1u);
            }
            for (var g = 0u; g < GROUPS; g++) {
                value[t][g] = vec4<f32>(as_read(v[row.index * params.groups + group[g]], norm[g]));
            }
        }
        for (var g = 0u; g < GROUPS; g++) {
            for (var b = 0u; b < 2u * BLOCKS; b++) {
                for (var t = 0u; t < TILES; t++) {
                    sum[g][b] = fma(vec4<f32>(value[t][g].x), d[t][b], sum[g][b]);
                    sum[g][2u * BLOCKS + b] = fma(vec4<f32>(value[t][g].y), d[t][b], sum[g][2u * BLOCKS + b]);
                    sum[g][4u * BLOCKS + b] = fma(vec4<f32>(value[t][g].z), d[t][b], sum[g][4u * BLOCKS + b]);
                    sum[g][6u * BLOCKS + b] = fma(vec4<f32>(value[t][g].w), d[t][b], sum[g][6u * BLOCKS + b]);
                }
            }
        }
    }
    for (var g = 0u; g < GROUPS; g++) {
        for (var b = 0u; b < BLOCKS; b++) {
            if (group0 + g < params.groups && block0 + b < params.blocks) {
                let to = (((split * params.products + product) * params.blocks + block0 + b) * params.groups + group0 + g) * 8u;
                for (var k = 0u; k < 4u; k++) {
                    var first = sum[g][k * 2u * BLOCKS + b * 2u];
                    var second = sum[g][k * 2u * BLOCKS + b * 2u + 1u];
                    if (ADD_TO) {
                        first += part[to + k * 2u];
                        second += part[to + k * 2u + 1u];
                    }
                    part[to + k * 2u] = first;
                    part[to + k * 2u + 1u] = second;
                }
            }
        }
    }
}

// A lane owns 4 outputs of each load by all inputs.
@compute @workgroup_size(8)
fn multiply_wide(id: Invocation, @builtin(subgroup_invocation_id) subgroup_lane: u32) {
    let index = linear_group(id);
    let outs = params.blocks * 2u;
    let group_tiles = (params.groups + 8u * V_LOADS - 1u) / (8u * V_LOADS);
    let out_tiles = (outs + 8u * M_LOADS - 1u) / (8u * M_LOADS);
    let group0 = (index % group_tiles) * 8u * V_LOADS;
    let out0 = (index / group_tiles % out_tiles) * 8u * M_LOADS + subgroup_lane % 8u;
    let split = index / (group_tiles * out_tiles) % params.splits;
    let product = index / (group_tiles * out_tiles * params.splits);
    if (product >= params.products) {
        return;
    }
    var sum: array<array<array<array<vec4<f32>, 4>, 8>, M_LOADS>, V_LOADS>;
    // Channels beyond the last one are the last one again.
    var group: array<u32, V_LOADS>;
    var norm: array<Norm, V_LOADS>;
    for (var a = 0u; a < V_LOADS; a++) {
        group[a] = min(group0 + a * 8u + subgroup_lane % 8u, params.groups - 1u);
        norm[a] = norm_of(group[a], params.groups);
    }
    var out: array<u32, M_LOADS>;
    for (var b = 0u; b < M_LOADS; b++) {
        out[b] = min(out0 + b * 8u, outs - 1u);
    }
    let each = (params.tiles + params.splits - 1u) / params.splits;
    let end = min((split + 1u) * each, params.tiles);
    for (var first = split * each; first < end; first += TILES) {
        // By arrays of as many tiles: a driver unrolls such loops whatever their size.
        var d: array<array<vec4<f32>, M_LOADS>, TILES>;
        var mine: array<array<vec4<f32>, V_LOADS>, TILES>;
        for (var t = 0u; t < TILES; t++) {
            let row = row_of(product, first + t, end);
            for (var b = 0u; b < M_LOADS; b++) {
                d[t][b] = m_at(row, out[b]);
            }
            for (var a = 0u; a < V_LOADS; a++) {
                mine[t][a] = vec4<f32>(as_read(v[row.index * params.groups + group[a]], norm[a]));
            }
        }
        for (var a = 0u; a < V_LOADS; a++) {
            var value: array<array<vec4<f32>, 8>, TILES>;
            for (var t = 0u; t < TILES; t++) {
                value[t] = passed_round(mine[t][a]);
            }
            for (var g = 0u; g < 8u; g++) {
                for (var b = 0u; b < M_LOADS; b++) {
                    for (var t = 0u; t < TILES; t++) {
                        sum[a][b][g][0] = fma(vec4<f32>(value[t][g].x), d[t][b], sum[a][b][g][0]);
                        sum[a][b][g][1] = fma(vec4<f32>(value[t][g].y), d[t][b], sum[a][b][g][1]);
                        sum[a][b][g][2] = fma(vec4<f32>(value[t][g].z), d[t][b], sum[a][b][g][2]);
                        sum[a][b][g][3] = fma(vec4<f32>(value[t][g].w), d[t][b], sum[a][b][g][3]);
                    }
                }
            }
        }
    }
    for (var a = 0u; a < V_LOADS; a++) {
        for (var b = 0u; b < M_LOADS; b++) {
            for (var g = 0u; g < 8u; g++) {
                let o = out0 + b * 8u;
                let group = group0 + a * 8u + g;
                if (group < params.groups && o < outs) {
                    let first = (((split * params.products + product) * params.blocks + o / 2u) * params.groups + group) * 8u + o % 2u;
                    for (var k = 0u; k < 4u; k++) {
                        var total = sum[a][b][g][k];
                        if (ADD_TO) {
                            total += part[first + k * 2u];
                        }
                        part[first + k * 2u] = total;
                    }
                }
            }
        }
    }
}
