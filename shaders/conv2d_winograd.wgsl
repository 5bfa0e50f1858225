// Convolution 3x3 by Winograd's minimal filtering (Winograd 1980; Lavin and Gray 2016), F(4x4, 3x3) or F(2x2, 3x3): four or
// 2.25 times fewer multiplications. A tile of TILE x TILE outputs looks at SIDE x SIDE inputs:  y = A' [ (G g G') * (B' d B) ] A,  per
// channel pair. PRODUCTS is 36 or 16.
//
//   x       [N, H, W, CX]               X
//   coefficients [3 or more][CX]       f32: mean, scale, beta, where x is normalised as it is read
//   v       [PRODUCTS][tiles][CG][4]    f32, transformed inputs of a range of tiles
//
// `transform_input`: an invocation owns the channels of V of a tile; params counts groups in V. Weights are transformed by
// conv2d_winograd_weight, products are made by conv2d_winograd_multiply on processors and conv2d_winograd_product on GPUs, and
// conv2d_winograd_output takes them back to pixels. Rounding grows by the transforms, to about 1e-5 of the largest value in
// f32 for tiles of 4: sums are in a fixed order all the same.
#import grid

// How four channels of x are stored: vec4<f32>, or vec4<f16>. All between is f32.
alias X = vec4<f32>;

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
}

@group(0) @binding(0) var<storage, read> x: array<Channels>;
@group(0) @binding(1) var<storage, read> coefficients: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> v_out: array<V>;
@group(0) @binding(3) var<uniform> params: Params;

#import normalised_read
#import winograd_tile

@compute @workgroup_size(64)
fn transform_input(id: Invocation) {
    let index = invocation_index(id);
    let group = index % params.x_groups;
    let local_tile = index / params.x_groups;
    if (local_tile >= params.tiles) {
        return;
    }
    let tile = place_of(local_tile);
    let norms = norms_of(group, params.x_groups);
    var rows: array<array<V, SIDE>, SIDE>;
    #unroll
    for (var i = 0u; i < SIDE; i++) {
        let h = tile.h0 + i - 1u;
        let row = (tile.image * params.height + min(h, params.height - 1u)) * params.width;
        var d: array<V, SIDE>;
        #unroll
        for (var j = 0u; j < SIDE; j++) {
            let w = tile.w0 + j - 1u;
            let value = channels_of(x[(row + min(w, params.width - 1u)) * params.x_groups + group], norms);
            d[j] = kept(value, h < params.height && w < params.width);
        }
        rows[i] = gather(d);
    }
    #unroll
    for (var j = 0u; j < SIDE; j++) {
        var column: array<V, SIDE>;
        #unroll
        for (var i = 0u; i < SIDE; i++) {
            column[i] = rows[i][j];
        }
        column = gather(column);
        #unroll
        for (var i = 0u; i < SIDE; i++) {
            v_out[((i * SIDE + j) * params.tiles + local_tile) * params.v_groups + params.v_first + group] = column[i];
        }
    }
}
