// Gradient of a 3x3 convolution's weights through Winograd's F(4x4, 3x3): the transposed passes of conv2d_winograd.
//   dM = A dy A',   dU = sum over tiles of V' dM,   dg = G' dU G
//
//   dy     [N, H, W, CO]                         Y
//   m      [36][tiles][blocks][8]                f32, transformed dy of a range of tiles
//   v      [36][tiles][CG][4]                    f32, transformed inputs of the same tiles (conv2d_winograd)
//   coefficients [3 or more][CX]       f32: mean, scale, beta, where x of a 1x1 convolution is normalised as it is read
//   part   [splits][36][blocks][CG][4][8]        f32, partial sums over the tiles of a split, over all ranges
//
// `transform_gradient`: an invocation owns 4 channels of a tile. `multiply`: GROUPS x 4 inputs by BLOCKS x 8 outputs of
// one product and one split. `finish` in conv2d_winograd_weight adds them up. Ranges follow one another and splits are added in
// order: the same bits on every run.
#import grid
#import depth_to_space

// How four channels are stored: dy, and v (X) and m, which are x and dy of a 1x1 convolution. Arithmetic is in f32.
alias Y = vec4<f32>;
alias X = vec4<f32>;
alias M = vec4<f32>;
const GROUPS: u32 = 4u;
const BLOCKS: u32 = 2u;
// 36, or 1 for the weight gradient of a 1x1 convolution: the same product over pixels, with x for v and dy for m;
// dy's pixels may be squares of a transposed convolution.
const PRODUCTS: u32 = 36u;
const M_SQUARES: bool = false;

struct Params {
    height: u32,
    width: u32,
    tile_rows: u32,
    tile_cols: u32,
    tile_first: u32,
    tiles: u32,
    groups: u32,
    blocks: u32,
    out_groups: u32,
    splits: u32,
    add_to: u32,
}

@group(0) @binding(0) var<storage, read> dy: array<Y>;
@group(0) @binding(1) var<storage, read_write> m_out: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<X>;
@group(0) @binding(3) var<storage, read> m: array<M>;
@group(0) @binding(4) var<storage, read_write> part_out: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> coefficients: array<vec4<f32>>;
@group(0) @binding(7) var<uniform> params: Params;

#import normalised_read

// A d: four to six.
fn unfold(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> array<vec4<f32>, 6> {
    let near = a + c;
    let near_odd = b + d;
    let far = a + 4.0 * c;
    let far_odd = 2.0 * b + 8.0 * d;
    return array<vec4<f32>, 6>(a, near + near_odd, near - near_odd, far + far_odd, far - far_odd, d);
}

@compute @workgroup_size(64)
fn transform_gradient(id: Invocation) {
    let index = invocation_index(id);
    // Blocks are whole: where CO fills half of the last one, the other half is zero.
    let o = index % (params.blocks * 2u);
    let local_tile = index / (params.blocks * 2u);
    if (local_tile >= params.tiles) {
        return;
    }
    let tile = params.tile_first + local_tile;
    let image = tile / (params.tile_rows * params.tile_cols);
    let h0 = (tile / params.tile_cols % params.tile_rows) * 4u;
    let w0 = (tile % params.tile_cols) * 4u;
    let channel = min(o, params.out_groups - 1u);
    var rows: array<array<vec4<f32>, 6>, 4>;
    for (var i = 0u; i < 4u; i++) {
        let row = (image * params.height + min(h0 + i, params.height - 1u)) * params.width;
        var d: array<vec4<f32>, 4>;
        for (var j = 0u; j < 4u; j++) {
            let value = vec4<f32>(dy[(row + min(w0 + j, params.width - 1u)) * params.out_groups + channel]);
            let inside = h0 + i < params.height && w0 + j < params.width && o < params.out_groups;
            d[j] = select(vec4<f32>(0.0), value, inside);
        }
        rows[i] = unfold(d[0], d[1], d[2], d[3]);
    }
    for (var j = 0u; j < 6u; j++) {
        let column = unfold(rows[0][j], rows[1][j], rows[2][j], rows[3][j]);
        for (var i = 0u; i < 6u; i++) {
            m_out[((i * 6u + j) * params.tiles + local_tile) * params.blocks * 2u + o] = column[i];
        }
    }
}

fn m_index(row: u32, group: u32) -> u32 {
    if (M_SQUARES) {
        return depth_to_space(row / params.width, row % params.width, params.width, group, params.blocks * 2u);
    }
    return row * params.blocks * 2u + group;
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
    if (product >= PRODUCTS) {
        return;
    }
    var sum: array<array<vec4<f32>, 8u * BLOCKS>, GROUPS>;
    for (var g = 0u; g < GROUPS; g++) {
        for (var k = 0u; k < 8u * BLOCKS; k++) {
            sum[g][k] = vec4<f32>(0.0);
        }
    }
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
    for (var t = split * each; t < end; t++) {
        let row = product * params.tiles + t;
        var d: array<vec4<f32>, 2u * BLOCKS>;
        for (var b = 0u; b < BLOCKS; b++) {
            d[b * 2u] = vec4<f32>(m[m_index(row, block[b])]);
            d[b * 2u + 1u] = vec4<f32>(m[m_index(row, block[b] + 1u)]);
        }
        for (var g = 0u; g < GROUPS; g++) {
            let value = vec4<f32>(as_read(v[row * params.groups + group[g]], norm[g]));
            for (var b = 0u; b < 2u * BLOCKS; b++) {
                sum[g][b] = fma(vec4<f32>(value.x), d[b], sum[g][b]);
                sum[g][2u * BLOCKS + b] = fma(vec4<f32>(value.y), d[b], sum[g][2u * BLOCKS + b]);
                sum[g][4u * BLOCKS + b] = fma(vec4<f32>(value.z), d[b], sum[g][4u * BLOCKS + b]);
                sum[g][6u * BLOCKS + b] = fma(vec4<f32>(value.w), d[b], sum[g][6u * BLOCKS + b]);
            }
        }
    }
    for (var g = 0u; g < GROUPS; g++) {
        for (var b = 0u; b < BLOCKS; b++) {
            if (group0 + g < params.groups && block0 + b < params.blocks) {
                let to = (((split * PRODUCTS + product) * params.blocks + block0 + b) * params.groups + group0 + g) * 8u;
                for (var k = 0u; k < 4u; k++) {
                    var first = sum[g][k * 2u * BLOCKS + b * 2u];
                    var second = sum[g][k * 2u * BLOCKS + b * 2u + 1u];
                    if (params.add_to != 0u) {
                        first += part_out[to + k * 2u];
                        second += part_out[to + k * 2u + 1u];
                    }
                    part_out[to + k * 2u] = first;
                    part_out[to + k * 2u + 1u] = second;
                }
            }
        }
    }
}
