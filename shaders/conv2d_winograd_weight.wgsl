// The weights' side of Winograd's F(4x4, 3x3): into products, U = G g G', and the gradient back, dg = G' dU G.
//
//   weight, dw   [blocks][CG][9][4][8]              f32, packed
//   u            [36][blocks][CG][4][8]             f32
//   part         [splits][36][blocks][CG][4][8]     f32, partial sums of dU
//
// An invocation owns 4 outputs of one input, all taps; of `transform_flipped`, which reads the weight of the forward pass as
// the input gradient needs it, 4 by 4. Splits are added in order.
#import grid

struct Params {
    // blocks * CG * 8, and the first block in the weight (of the flipped one, where it is flipped)
    count: u32,
    block_first: u32,
    groups: u32,
    splits: u32,
    accumulate: u32,
    // Of the weight that is flipped: groups in a row, the first one wanted, how many.
    weight_groups: u32,
    weight_first: u32,
    x_groups: u32,
}

@group(0) @binding(0) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> u: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> part: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dw: array<vec4<f32>>;
@group(0) @binding(4) var<uniform> params: Params;

// G g: three taps to six.
fn spread(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>) -> array<vec4<f32>, 6> {
    let even = (a + c) / -6.0;
    let odd = b / -6.0;
    let far_even = a / 24.0 + c / 6.0;
    let far_odd = b / 12.0;
    return array<vec4<f32>, 6>(a / 4.0, even + odd, even - odd, far_even + far_odd, far_even - far_odd, c);
}

// (G g G') for element `index` of u.
fn write_products(index: u32, g: array<vec4<f32>, 9>) {
    var rows: array<array<vec4<f32>, 6>, 3>;
    for (var i = 0u; i < 3u; i++) {
        rows[i] = spread(g[i * 3u], g[i * 3u + 1u], g[i * 3u + 2u]);
    }
    for (var j = 0u; j < 6u; j++) {
        let column = spread(rows[0][j], rows[1][j], rows[2][j]);
        for (var i = 0u; i < 6u; i++) {
            u[(i * 6u + j) * params.count + index] = column[i];
        }
    }
}

// Where tap `t` of element `index` is in the weight.
fn tap_index(index: u32, t: u32) -> u32 {
    return ((params.block_first * params.groups + index / 8u) * 9u + t) * 8u + index % 8u;
}

@compute @workgroup_size(64)
fn transform_weight(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.count) {
        return;
    }
    var g: array<vec4<f32>, 9>;
    for (var t = 0u; t < 9u; t++) {
        g[t] = weight[tap_index(index, t)];
    }
    write_products(index, g);
}

// The same for the input gradient: taps in reverse, input and output channels exchanged, of the input channels that
// start at group weight_first.
@compute @workgroup_size(64)
fn transform_flipped(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.count / 4u) {
        return;
    }
    // Of the forward pass: a group of 4 outputs, and one of 4 inputs, half a block of the input gradient's outputs.
    let o = index / 2u % params.groups;
    let c = (params.block_first + index / 2u / params.groups) * 2u + index % 2u;
    let to = index / 2u * 8u + index % 2u;
    if (c >= params.x_groups) {
        // The second half of the last block.
        for (var p = 0u; p < 36u; p++) {
            for (var k = 0u; k < 4u; k++) {
                u[p * params.count + to + k * 2u] = vec4<f32>(0.0);
            }
        }
        return;
    }
    let unit = o / 2u * params.weight_groups + params.weight_first + c;
    var g: array<array<vec4<f32>, 9>, 4>;
    for (var t = 0u; t < 9u; t++) {
        let source = (unit * 9u + 8u - t) * 8u + o % 2u;
        let transposed = transpose(mat4x4<f32>(weight[source], weight[source + 2u], weight[source + 4u], weight[source + 6u]));
        for (var k = 0u; k < 4u; k++) {
            g[k][t] = transposed[k];
        }
    }
    for (var k = 0u; k < 4u; k++) {
        write_products(to + k * 2u, g[k]);
    }
}

// G' d: six to three.
fn narrow(d0: vec4<f32>, d1: vec4<f32>, d2: vec4<f32>, d3: vec4<f32>, d4: vec4<f32>, d5: vec4<f32>) -> array<vec4<f32>, 3> {
    let near = (d1 + d2) / -6.0;
    return array<vec4<f32>, 3>(
        d0 / 4.0 + near + (d3 + d4) / 24.0, (d2 - d1) / 6.0 + (d3 - d4) / 12.0, near + (d3 + d4) / 6.0 + d5,
    );
}

@compute @workgroup_size(64)
fn finish(id: Invocation) {
    let index = invocation_index(id);
    let count = params.count;
    if (index >= count) {
        return;
    }
    // The loop over splits is outside: inside, its unknown length would keep the others from unrolling.
    var d: array<vec4<f32>, 36>;
    for (var p = 0u; p < 36u; p++) {
        d[p] = part[p * count + index];
    }
    for (var s = 1u; s < params.splits; s++) {
        for (var p = 0u; p < 36u; p++) {
            d[p] += part[(s * 36u + p) * count + index];
        }
    }
    var rows: array<array<vec4<f32>, 3>, 6>;
    for (var i = 0u; i < 6u; i++) {
        rows[i] = narrow(d[i * 6u], d[i * 6u + 1u], d[i * 6u + 2u], d[i * 6u + 3u], d[i * 6u + 4u], d[i * 6u + 5u]);
    }
    for (var j = 0u; j < 3u; j++) {
        let column = narrow(rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j]);
        for (var i = 0u; i < 3u; i++) {
            let to = tap_index(index, i * 3u + j);
            dw[to] = select(vec4<f32>(0.0), dw[to], params.accumulate != 0u) + column[i];
        }
    }
}
