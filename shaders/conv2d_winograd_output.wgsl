// The last of Winograd's passes: products of tiles back to outputs,  y = A' m A  (see conv2d_winograd).
//
//   m       [PRODUCTS][tiles][blocks][8]      f32, products
//   bias    [CO]                        f32
//   y       [N, H, W, CO]               Y
//   moments [runs][2][CO]               f32: mean and sum of squared deviations of tile_run tiles of y
//
// An invocation owns the channels of V of a tile, or of a run of tiles where it gathers moments for the batch norm that follows.
// Params counts channels in V.
#import grid

// How the channels of V are stored in y: V, vec4<f16> or vec2<f16>. Arithmetic is in f32.
alias Y = V;
// What the sums are added to: 0: the bias, 1: what y holds, 2: zero. A constant, so that there is no code for the others.
const START: u32 = 0u;
const TILE_PIXELS: u32 = TILE * TILE;

struct Params {
    height: u32,
    width: u32,
    tile_rows: u32,
    tile_cols: u32,
    tile_first: u32,
    tiles: u32,
    // V of a row of m; of the outputs that m covers: the first one, how many.
    m_groups: u32,
    out_first: u32,
    out_count: u32,
    // Of all outputs.
    out_groups: u32,
    // Tiles of a run, and the run that comes first.
    tile_run: u32,
    moments_first: u32,
}

@group(0) @binding(0) var<storage, read> m: array<V>;
@group(0) @binding(1) var<storage, read> bias: array<V>;
@group(0) @binding(2) var<storage, read_write> y: array<Y>;
@group(0) @binding(3) var<storage, read_write> moments: array<V>;
@group(0) @binding(4) var<uniform> params: Params;

#import winograd_tile

// Writes the channels of V of a tile. Returns them as they are stored; pixels outside the image too.
fn write_tile(local_tile: u32, o: u32) -> array<V, TILE_PIXELS> {
    let tile = place_of(local_tile);
    var rows: array<array<V, TILE>, SIDE>;
    let stride = params.tiles * params.m_groups;
    #unroll
    for (var i = 0u; i < SIDE; i++) {
        var products: array<V, SIDE>;
        #unroll
        for (var j = 0u; j < SIDE; j++) {
            products[j] = m[(i * SIDE + j) * stride + local_tile * params.m_groups + o];
        }
        rows[i] = fold(products);
    }
    var start = V();
    if (START == 0u) {
        start = bias[params.out_first + o];
    }
    var written: array<V, TILE_PIXELS>;
    #unroll
    for (var j = 0u; j < TILE; j++) {
        var products: array<V, SIDE>;
        #unroll
        for (var i = 0u; i < SIDE; i++) {
            products[i] = rows[i][j];
        }
        let column = fold(products);
        #unroll
        for (var i = 0u; i < TILE; i++) {
            let pixel = (tile.image * params.height + tile.h0 + i) * params.width + tile.w0 + j;
            let at = pixel * params.out_groups + params.out_first + o;
            let is_inside = tile.h0 + i < params.height && tile.w0 + j < params.width;
            var value = start + column[i];
            if (START == 1u && is_inside) {
                value += V(y[at]);
            }
            written[i * TILE + j] = V(Y(value));
            if (is_inside) {
                y[at] = Y(value);
            }
        }
    }
    return written;
}

@compute @workgroup_size(64)
fn transform_output(id: Invocation) {
    let index = invocation_index(id);
    let local_tile = index / params.out_count;
    if (local_tile < params.tiles) {
        write_tile(local_tile, index % params.out_count);
    }
}

// The same, and the moments of what it wrote, of tile_run tiles an invocation. For images of whole tiles.
@compute @workgroup_size(64)
fn transform_output_moments(id: Invocation) {
    let index = invocation_index(id);
    let o = index % params.out_count;
    let first = index / params.out_count * params.tile_run;
    if (first >= params.tiles) {
        return;
    }
    let end = min(first + params.tile_run, params.tiles);
    var shift = V();
    var total = V();
    var squares = V();
    for (var local_tile = first; local_tile < end; local_tile++) {
        let written = write_tile(local_tile, o);
        // About the first value, so that large means do not cancel.
        if (local_tile == first) {
            shift = written[0];
        }
        #unroll
        for (var k = 0u; k < TILE_PIXELS; k++) {
            let d = written[k] - shift;
            total += d;
            squares = add_square(d, squares);
        }
    }
    let count = f32((end - first) * TILE_PIXELS);
    let to = ((params.moments_first + first / params.tile_run) * 2u) * params.out_groups + params.out_first + o;
    moments[to] = shift + (1.0 / count) * total;
    moments[to + params.out_groups] = about_mean(squares, total, count);
}
