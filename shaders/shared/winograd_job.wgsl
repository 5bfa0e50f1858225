// What conv2d_winograd_weight and conv2d_winograd_flipped share: a layer of several, the bindings, and the transform.
struct Job {
    first_group: u32,
    weight_at: u32,
    result_at: u32,
    // blocks * CG * 8, and the first block in the weight (of the flipped one, where it is flipped)
    count: u32,
    block_first: u32,
    groups: u32,
    // Of the weight that is flipped: groups in a row, the first one wanted, how many.
    weight_groups: u32,
    weight_first: u32,
    x_groups: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
}

@group(0) @binding(0) var<storage, read> weights: array<V>;
@group(0) @binding(1) var<storage, read_write> u: array<V>;
@group(0) @binding(2) var<uniform> params: Params;

// (G g G') for one element of each of the parts of u, `count` apart.
fn write_products(to: u32, count: u32, g: array<V, 9>) {
    var rows: array<array<V, SIDE>, 3>;
    #unroll
    for (var i = 0u; i < 3u; i++) {
        rows[i] = spread(array<V, 3>(g[i * 3u], g[i * 3u + 1u], g[i * 3u + 2u]));
    }
    #unroll
    for (var j = 0u; j < SIDE; j++) {
        let column = spread(array<V, 3>(rows[0][j], rows[1][j], rows[2][j]));
        #unroll
        for (var i = 0u; i < SIDE; i++) {
            u[to + (i * SIDE + j) * count] = column[i];
        }
    }
}
