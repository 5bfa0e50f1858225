// The gradient of weights from the products of Winograd's F(4x4, 3x3): dg = G' dU G.
//
//   part         [splits][36][blocks][CG][4][8]     f32, partial sums of dU
//   dw           [blocks][CG][9][4][8]              f32, packed
//
// An invocation owns 4 outputs of one input, all taps. Splits are added in order.
#import grid

struct Params {
    // blocks * CG * 8, and the first block in the weight
    count: u32,
    block_first: u32,
    groups: u32,
    splits: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> part: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> dw: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

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
            let unit = params.block_first * params.groups + index / 8u;
            let to = (unit * 9u + i * 3u + j) * 8u + index % 8u;
            dw[to] = select(vec4<f32>(0.0), dw[to], params.accumulate != 0u) + column[i];
        }
    }
}
