// The weights' side of Winograd's F(4x4, 3x3): into products, U = G g G', and the gradient back, dg = G' dU G.
//
//   weight, dw   [blocks][CG][9][4][8]              f32, packed
//   u            [36][blocks][CG][4][8]             f32
//   part         [splits][36][blocks][CG][4][8]     f32, partial sums of dU
//
// An invocation owns one element of the 4 x 8 of all taps. Splits are added in order.
#import grid

struct Params {
    // blocks * CG * 32
    count: u32,
    splits: u32,
    accumulate: u32,
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

@compute @workgroup_size(64)
fn transform_weight(id: Invocation) {
    let index = invocation_index(id);
    let count = params.count;
    if (index >= count) {
        return;
    }
    let base = (index / 32u) * 288u + index % 32u;
    var rows: array<array<f32, 6>, 3>;
    for (var i = 0u; i < 3u; i++) {
        rows[i] = spread(weight[base + i * 96u], weight[base + i * 96u + 32u], weight[base + i * 96u + 64u]);
    }
    for (var j = 0u; j < 6u; j++) {
        let column = spread(rows[0][j], rows[1][j], rows[2][j]);
        for (var i = 0u; i < 6u; i++) {
            u[(i * 6u + j) * count + index] = column[i];
        }
    }
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
    var rows: array<vec3<f32>, 6>;
    for (var i = 0u; i < 6u; i++) {
        var d: array<f32, 6>;
        for (var j = 0u; j < 6u; j++) {
            var total = 0.0;
            for (var s = 0u; s < params.splits; s++) {
                total += part[(s * 36u + i * 6u + j) * count + index];
            }
            d[j] = total;
        }
        rows[i] = narrow(d[0], d[1], d[2], d[3], d[4], d[5]);
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
