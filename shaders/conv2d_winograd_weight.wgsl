// The weights' side of Winograd's F(4x4, 3x3): into products, U = G g G', and the gradient back, dg = G' dU G.
//
//   weight, dw   [blocks][CG][9][4][8]              f32, packed
//   u            [36][blocks][CG][4][8]             f32
//   part         [splits][36][blocks][CG][4][8]     f32, partial sums of dU
//
// An invocation owns one element of the 4 x 8 of all taps. `transform_flipped` reads the weight of the forward pass as the input gradient
// needs it. Splits are added in order.
#import grid

struct Params {
    // blocks * CG * 32
    count: u32,
    splits: u32,
    accumulate: u32,
    // Of the weight that is flipped: groups in a row, the first one wanted, how many; and the flipped one's groups.
    weight_groups: u32,
    weight_first: u32,
    x_groups: u32,
    out_groups: u32,
}

@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(1) var<storage, read_write> u: array<f32>;
@group(0) @binding(2) var<storage, read> part: array<f32>;
@group(0) @binding(3) var<storage, read_write> dw: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

// G g: three taps to six.
fn spread(a: f32, b: f32, c: f32) -> array<f32, 6> {
    let even = (a + c) / -6.0;
    let odd = b / -6.0;
    let far_even = a / 24.0 + c / 6.0;
    let far_odd = b / 12.0;
    return array<f32, 6>(a / 4.0, even + odd, even - odd, far_even + far_odd, far_even - far_odd, c);
}

// (G g G') for element `index` of u, from taps `from`, `from + step`, ...
fn write_products(index: u32, first_tap: u32, tap_step: u32) {
    var rows: array<array<f32, 6>, 3>;
    for (var i = 0u; i < 3u; i++) {
        let at = first_tap + i * 3u * tap_step;
        rows[i] = spread(weight[at], weight[at + tap_step], weight[at + 2u * tap_step]);
    }
    for (var j = 0u; j < 6u; j++) {
        let column = spread(rows[0][j], rows[1][j], rows[2][j]);
        for (var i = 0u; i < 6u; i++) {
            u[(i * 6u + j) * params.count + index] = column[i];
        }
    }
}

@compute @workgroup_size(64)
fn transform_weight(id: Invocation) {
    let index = invocation_index(id);
    if (index < params.count) {
        write_products(index, (index / 32u) * 288u + index % 32u, 32u);
    }
}

// The same for the input gradient: taps in reverse, input and output channels exchanged, of the input channels that
// start at group weight_first.
@compute @workgroup_size(64)
fn transform_flipped(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.count) {
        return;
    }
    let c = (index / (32u * params.out_groups)) * 8u + index % 8u;
    let o = (index / 32u) % params.out_groups * 4u + (index / 8u) % 4u;
    if (c / 4u >= params.x_groups) {
        // The second half of the last block.
        for (var p = 0u; p < 36u; p++) {
            u[p * params.count + index] = 0.0;
        }
        return;
    }
    let unit = (o / 8u) * params.weight_groups + params.weight_first + c / 4u;
    // Unsigned wrap-around steps backwards.
    write_products(index, unit * 288u + 8u * 32u + (c % 4u) * 8u + o % 8u, 0u - 32u);
}

// G' d: six to three.
fn narrow(d0: f32, d1: f32, d2: f32, d3: f32, d4: f32, d5: f32) -> vec3<f32> {
    let near = (d1 + d2) / -6.0;
    return vec3<f32>(
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
    var d: array<f32, 36>;
    for (var p = 0u; p < 36u; p++) {
        d[p] = part[p * count + index];
    }
    for (var s = 1u; s < params.splits; s++) {
        for (var p = 0u; p < 36u; p++) {
            d[p] += part[(s * 36u + p) * count + index];
        }
    }
    var rows: array<vec3<f32>, 6>;
    for (var i = 0u; i < 6u; i++) {
        rows[i] = narrow(d[i * 6u], d[i * 6u + 1u], d[i * 6u + 2u], d[i * 6u + 3u], d[i * 6u + 4u], d[i * 6u + 5u]);
    }
    let base = (index / 32u) * 288u + index % 32u;
    for (var j = 0u; j < 3u; j++) {
        let column = narrow(rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j]);
        for (var i = 0u; i < 3u; i++) {
            let to = base + (i * 3u + j) * 32u;
            dw[to] = select(0.0, dw[to], params.accumulate != 0u) + column[i];
        }
    }
}
