// The last of Winograd's passes: products of tiles back to outputs,  y = A' m A  (see conv2d_winograd).
//
//   m       [36][tiles][blocks][8]      f32, products
//   bias    [CO]                        f32
//   y       [N, H, W, CO]               Y
//   moments [runs][2][CO]               f32: mean and sum of squared deviations of TILE_RUN tiles of y
//
// An invocation owns 4 channels of a tile, or of a run of tiles where it gathers moments for the batch norm that follows.
#import grid

// How four channels of y are stored: vec4<f32>, or vec4<f16>. Arithmetic is in f32.
alias Y = vec4<f32>;
const TILE_RUN: u32 = 8u;
// What the sums are added to: 0: the bias, 1: what y holds, 2: zero. A constant, so that there is no code for the others.
const START: u32 = 0u;

struct Params {
    height: u32,
    width: u32,
    tile_rows: u32,
    tile_cols: u32,
    tile_first: u32,
    tiles: u32,
    // Of the outputs that m covers: blocks of 8; the first group of 4, how many.
    blocks: u32,
    out_first: u32,
    out_count: u32,
    // Of all outputs.
    out_groups: u32,
    moments_first: u32,
}

@group(0) @binding(0) var<storage, read> m: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<Y>;
@group(0) @binding(3) var<storage, read_write> moments: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

#import winograd_tile

// A' m: six to four.
fn fold(m0: vec4<f32>, m1: vec4<f32>, m2: vec4<f32>, m3: vec4<f32>, m4: vec4<f32>, m5: vec4<f32>) -> array<vec4<f32>, 4> {
    let near = m1 + m2;
    let near_odd = m1 - m2;
    let far = m3 + m4;
    let far_odd = m3 - m4;
    return array<vec4<f32>, 4>(
        m0 + near + far, near_odd + 2.0 * far_odd, near + 4.0 * far, near_odd + 8.0 * far_odd + m5,
    );
}

// Writes four channels of a tile. Returns them as they are stored; pixels outside the image too.
fn write_tile(local_tile: u32, o: u32) -> array<vec4<f32>, 16> {
    let tile = place_of(local_tile);
    var rows: array<array<vec4<f32>, 4>, 6>;
    let stride = params.tiles * params.blocks * 2u;
    for (var i = 0u; i < 6u; i++) {
        let at = i * 6u * stride + local_tile * params.blocks * 2u + o;
        rows[i] = fold(m[at], m[at + stride], m[at + 2u * stride], m[at + 3u * stride], m[at + 4u * stride], m[at + 5u * stride]);
    }
    var start = vec4<f32>(0.0);
    if (START == 0u) {
        start = bias[params.out_first + o];
    }
    var written: array<vec4<f32>, 16>;
    for (var j = 0u; j < 4u; j++) {
        let column = fold(rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j]);
        for (var i = 0u; i < 4u; i++) {
            let pixel = (tile.image * params.height + tile.h0 + i) * params.width + tile.w0 + j;
            let at = pixel * params.out_groups + params.out_first + o;
            let is_inside = tile.h0 + i < params.height && tile.w0 + j < params.width;
            var value = start + column[i];
            if (START == 1u && is_inside) {
                value += vec4<f32>(y[at]);
            }
            written[i * 4u + j] = vec4<f32>(Y(value));
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

// The same, and the moments of what it wrote, of TILE_RUN tiles an invocation. For images of whole tiles.
@compute @workgroup_size(64)
fn transform_output_moments(id: Invocation) {
    let index = invocation_index(id);
    let o = index % params.out_count;
    let first = index / params.out_count * TILE_RUN;
    if (first >= params.tiles) {
        return;
    }
    let end = min(first + TILE_RUN, params.tiles);
    var shift = vec4<f32>(0.0);
    var total = vec4<f32>(0.0);
    var squares = vec4<f32>(0.0);
    for (var local_tile = first; local_tile < end; local_tile++) {
        let written = write_tile(local_tile, o);
        // About the first value, so that large means do not cancel.
        shift = select(shift, written[0], local_tile == first);
        for (var k = 0u; k < 16u; k++) {
            let d = written[k] - shift;
            total += d;
            squares = fma(d, d, squares);
        }
    }
    let count = f32((end - first) * 16u);
    let to = ((params.moments_first + first / TILE_RUN) * 2u) * params.out_groups + params.out_first + o;
    moments[to] = shift + total / count;
    moments[to + params.out_groups] = max(squares - total * total / count, vec4<f32>(0.0));
}
