// Convolution 3x3 by Winograd's minimal filtering F(4x4, 3x3) (Winograd 1980; Lavin and Gray 2016): four times fewer
// multiplications. A tile of 4 x 4 outputs looks at 6 x 6 inputs:  y = A' [ (G g G') * (B' d B) ] A,  per channel pair.
//
//   x       [N, H, W, CX]               X
//   coefficients [3 or more][CX]       f32: mean, scale, beta, where x is normalised as it is read
//   u       [36][blocks][CG][4][8]      f32, transformed weights (conv2d_winograd_weight)
//   v       [36][tiles][CG][4]          f32, transformed inputs of a range of tiles
//   m       [36][tiles][blocks][8]      f32, products
//
// `transform_input`: an invocation owns 4 channels of a tile. `multiply`, for processors: of one of the 36 products TILES tiles x BLOCKS x
// 8 outputs; the lanes of a subgroup (8 at least) load weights in turn and pass them round. The rest is in
// conv2d_winograd_output. Rounding grows by the transforms, to about 1e-5 of the largest value in f32: sums are in a fixed
// order all the same.
#import grid
#import weights_round

// How four channels of x are stored: vec4<f32>, or vec4<f16>. All between is f32.
alias X = vec4<f32>;
const TILES: u32 = 8u;
const BLOCKS: u32 = 2u;

struct Params {
    height: u32,
    width: u32,
    tile_rows: u32,
    tile_cols: u32,
    tile_first: u32,
    tiles: u32,
    x_groups: u32,
    v_groups: u32,
    v_first: u32,
    blocks: u32,
}

@group(0) @binding(0) var<storage, read> x: array<X>;
@group(0) @binding(1) var<storage, read> coefficients: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> v_out: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> u: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> m_out: array<vec4<f32>>;
@group(0) @binding(6) var<uniform> params: Params;

#import normalised_read
#import winograd_tile

// B' d: six to six.
fn gather(d: array<vec4<f32>, 6>) -> array<vec4<f32>, 6> {
    let a = d[4] - 4.0 * d[2];
    let b = d[3] - 4.0 * d[1];
    let c = d[4] - d[2];
    let e = 2.0 * (d[3] - d[1]);
    return array<vec4<f32>, 6>(
        4.0 * d[0] - 5.0 * d[2] + d[4], a + b, a - b, c + e, c - e, 4.0 * d[1] - 5.0 * d[3] + d[5],
    );
}

@compute @workgroup_size(64)
fn transform_input(id: Invocation) {
    let index = invocation_index(id);
    let group = index % params.x_groups;
    let local_tile = index / params.x_groups;
    if (local_tile >= params.tiles) {
        return;
    }
    let tile = place_of(local_tile);
    let norm = norm_of(group, params.x_groups);
    var rows: array<array<vec4<f32>, 6>, 6>;
    for (var i = 0u; i < 6u; i++) {
        let h = tile.h0 + i - 1u;
        let row = (tile.image * params.height + min(h, params.height - 1u)) * params.width;
        var d: array<vec4<f32>, 6>;
        for (var j = 0u; j < 6u; j++) {
            let w = tile.w0 + j - 1u;
            let value = vec4<f32>(as_read(x[(row + min(w, params.width - 1u)) * params.x_groups + group], norm));
            d[j] = select(vec4<f32>(0.0), value, h < params.height && w < params.width);
        }
        rows[i] = gather(d);
    }
    for (var j = 0u; j < 6u; j++) {
        let column = gather(array<vec4<f32>, 6>(rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j]));
        for (var i = 0u; i < 6u; i++) {
            v_out[((i * 6u + j) * params.tiles + local_tile) * params.v_groups + params.v_first + group] = column[i];
        }
    }
}

@compute @workgroup_size(8)
fn multiply(id: Invocation, @builtin(subgroup_invocation_id) subgroup_lane: u32) {
    let index = linear_group(id);
    let tile_groups = (params.tiles + TILES * 8u - 1u) / (TILES * 8u);
    let block_groups = (params.blocks + BLOCKS - 1u) / BLOCKS;
    let block = (index / tile_groups % block_groups) * BLOCKS;
    let product = index / (tile_groups * block_groups);
    if (product >= 36u) {
        return;
    }
    // Lanes beyond the last tile work on it too, since they carry weights.
    let first = (index % tile_groups) * TILES * 8u + id.lane * TILES;
    var from_tile: array<u32, TILES>;
    for (var t = 0u; t < TILES; t++) {
        from_tile[t] = (product * params.tiles + min(first + t, params.tiles - 1u)) * params.v_groups;
    }
    // Blocks beyond the last one are the last one again.
    var from_block: array<u32, BLOCKS>;
    var sum: array<array<array<vec4<f32>, 2>, TILES>, BLOCKS>;
    for (var b = 0u; b < BLOCKS; b++) {
        from_block[b] = (product * params.blocks + min(block + b, params.blocks - 1u)) * params.v_groups * 8u + subgroup_lane % 8u;
        for (var t = 0u; t < TILES; t++) {
            sum[b][t] = array<vec4<f32>, 2>(vec4<f32>(0.0), vec4<f32>(0.0));
        }
    }
    for (var c = 0u; c < params.v_groups; c++) {
        var value: array<vec4<f32>, TILES>;
        for (var t = 0u; t < TILES; t++) {
            value[t] = v[from_tile[t] + c];
        }
        for (var b = 0u; b < BLOCKS; b++) {
            let w = passed_round(u[from_block[b] + c * 8u]);
            for (var t = 0u; t < TILES; t++) {
                sum[b][t][0] = add_product(sum[b][t][0], value[t], w, 0u);
                sum[b][t][1] = add_product(sum[b][t][1], value[t], w, 1u);
            }
        }
    }
    for (var t = 0u; t < TILES; t++) {
        for (var b = 0u; b < BLOCKS; b++) {
            if (first + t < params.tiles && block + b < params.blocks) {
                let to = ((product * params.tiles + first + t) * params.blocks + block + b) * 2u;
                m_out[to] = sum[b][t][0];
                m_out[to + 1u] = sum[b][t][1];
            }
        }
    }
}
