// The gradient of weights from the products of Winograd's minimal filtering: dg = G' dU G.
//
//   part         [splits][PRODUCTS][blocks][CG][4][8]     f32, partial sums of dU
//   dw           [blocks][CG][9][4][8]              f32, packed
//
// An invocation owns the outputs of V of one input, all taps. Splits are added in order.
#import grid

struct Params {
    // V of a product, and the first block in the weight
    count: u32,
    block_first: u32,
    groups: u32,
    splits: u32,
}

// Add to what is there. A constant, so that nothing is read for it elsewhere.
const ACCUMULATE: bool = false;

@group(0) @binding(0) var<storage, read> part: array<V>;
@group(0) @binding(1) var<storage, read_write> dw: array<V>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn finish(id: Invocation) {
    let index = invocation_index(id);
    let count = params.count;
    if (index >= count) {
        return;
    }
    // The loop over splits is outside: inside it would be as many loops, each of which waits for its own loads.
    var d: array<V, PRODUCTS>;
    #unroll
    for (var p = 0u; p < PRODUCTS; p++) {
        d[p] = part[p * count + index];
    }
    for (var s = 1u; s < params.splits; s++) {
        #unroll
        for (var p = 0u; p < PRODUCTS; p++) {
            d[p] += part[(s * PRODUCTS + p) * count + index];
        }
    }
    var rows: array<array<V, 3>, SIDE>;
    #unroll
    for (var i = 0u; i < SIDE; i++) {
        var row: array<V, SIDE>;
        #unroll
        for (var j = 0u; j < SIDE; j++) {
            row[j] = d[i * SIDE + j];
        }
        rows[i] = narrow(row);
    }
    #unroll
    for (var j = 0u; j < 3u; j++) {
        var column: array<V, SIDE>;
        #unroll
        for (var i = 0u; i < SIDE; i++) {
            column[i] = rows[i][j];
        }
        let taps = narrow(column);
        #unroll
        for (var i = 0u; i < 3u; i++) {
            let unit = params.block_first * params.groups + index / BLOCK;
            let to = (unit * 9u + i * 3u + j) * BLOCK + index % BLOCK;
            if (ACCUMULATE) {
                dw[to] += taps[i];
            } else {
                dw[to] = taps[i];
            }
        }
    }
}
