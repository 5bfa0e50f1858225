// Gradient of a 3x3 convolution's weights through Winograd's F(4x4, 3x3): the transposed passes of conv2d_winograd.
//   dM = A dy A',   dU = sum over tiles of V' dM,   dg = G' dU G
//
//   dy     [N, H, W, CO]                         Y
//   m      [36][tiles][blocks][8]                f32, transformed dy of a range of tiles
//
// `transform_gradient`: an invocation owns 4 channels of a tile. conv2d_gradient_product multiplies, or
// conv2d_winograd_product on a GPU; `finish` in conv2d_winograd_weight goes back to taps.
#import grid

// How four channels of dy are stored. Arithmetic is in f32.
alias Y = vec4<f32>;

struct Params {
    height: u32,
    width: u32,
    tile_rows: u32,
    tile_cols: u32,
    tile_first: u32,
    tiles: u32,
    // Of the outputs that m covers: blocks of 8, and the first group of 4.
    blocks: u32,
    out_first: u32,
    // Of all outputs.
    out_groups: u32,
}

@group(0) @binding(0) var<storage, read> dy: array<Y>;
@group(0) @binding(1) var<storage, read_write> m_out: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

#import winograd_tile

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
    let tile = place_of(local_tile);
    let channel = min(params.out_first + o, params.out_groups - 1u);
    var rows: array<array<vec4<f32>, 6>, 4>;
    for (var i = 0u; i < 4u; i++) {
        let row = (tile.image * params.height + min(tile.h0 + i, params.height - 1u)) * params.width;
        var d: array<vec4<f32>, 4>;
        for (var j = 0u; j < 4u; j++) {
            let value = vec4<f32>(dy[(row + min(tile.w0 + j, params.width - 1u)) * params.out_groups + channel]);
            let is_inside = tile.h0 + i < params.height && tile.w0 + j < params.width;
            d[j] = select(vec4<f32>(0.0), value, is_inside && params.out_first + o < params.out_groups);
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
