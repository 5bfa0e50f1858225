// Gradient of a 3x3 convolution's weights through Winograd's minimal filtering: the transposed passes of conv2d_winograd.
//   dM = A dy A',   dU = sum over tiles of V' dM,   dg = G' dU G
//
//   dy     [N, H, W, CO]                         Y
//   m      [PRODUCTS][tiles][blocks][8]          f32, transformed dy of a range of tiles
//
// `transform_gradient`: an invocation owns the channels of V of a tile; params counts them in V. conv2d_gradient_product multiplies, or
// conv2d_winograd_product on a GPU; `finish` in conv2d_winograd_finish goes back to taps.
#import grid

// How the channels of V are stored in dy: V, or vec4<f16>. Arithmetic is in f32.
alias Y = V;

struct Params {
    height: u32,
    width: u32,
    tile_rows: u32,
    tile_cols: u32,
    tile_first: u32,
    tiles: u32,
    // V of a row of m; the first output that it covers.
    m_groups: u32,
    out_first: u32,
    // Of all outputs.
    out_groups: u32,
}

@group(0) @binding(0) var<storage, read> dy: array<Y>;
@group(0) @binding(1) var<storage, read_write> m_out: array<V>;
@group(0) @binding(2) var<uniform> params: Params;

#import winograd_tile

@compute @workgroup_size(64)
fn transform_gradient(id: Invocation) {
    let index = invocation_index(id);
    // Blocks are whole: where CO fills half of the last one, the other half is zero.
    let o = index % params.m_groups;
    let local_tile = index / params.m_groups;
    if (local_tile >= params.tiles) {
        return;
    }
    let tile = place_of(local_tile);
    let channel = min(params.out_first + o, params.out_groups - 1u);
    var rows: array<array<V, SIDE>, TILE>;
    #unroll
    for (var i = 0u; i < TILE; i++) {
        let row = (tile.image * params.height + min(tile.h0 + i, params.height - 1u)) * params.width;
        var d: array<V, TILE>;
        #unroll
        for (var j = 0u; j < TILE; j++) {
            let value = V(dy[(row + min(tile.w0 + j, params.width - 1u)) * params.out_groups + channel]);
            let is_inside = tile.h0 + i < params.height && tile.w0 + j < params.width;
            d[j] = kept(value, is_inside && params.out_first + o < params.out_groups);
        }
        rows[i] = unfold(d);
    }
    #unroll
    for (var j = 0u; j < SIDE; j++) {
        var d: array<V, TILE>;
        #unroll
        for (var i = 0u; i < TILE; i++) {
            d[i] = rows[i][j];
        }
        let column = unfold(d);
        #unroll
        for (var i = 0u; i < SIDE; i++) {
            m_out[((i * SIDE + j) * params.tiles + local_tile) * params.m_groups + o] = column[i];
        }
    }
}
