// Weights into the products of Winograd's minimal filtering: U = G g G'. Of several layers.
//
//   weights      [blocks][CG][9][4][8]              f32, packed
//   u            [PRODUCTS][blocks][CG][4][8]       f32
//
// An invocation owns the outputs of V of one input, all taps.
#import grid
#import winograd_job
#import jobs

@compute @workgroup_size(64)
fn transform_weight(id: Invocation) {
    let job = job_of(linear_group(id));
    let index = index_in(job, id);
    let count = job.count * 4u / V_FLOATS;
    if (index >= count) {
        return;
    }
    let unit = job.block_first * job.groups + index / BLOCK;
    var g: array<V, 9>;
    #unroll
    for (var t = 0u; t < 9u; t++) {
        g[t] = weights[job.weight_at / V_FLOATS + (unit * 9u + t) * BLOCK + index % BLOCK];
    }
    write_products(job.result_at / V_FLOATS + index, count, g);
}
