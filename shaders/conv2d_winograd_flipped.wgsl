// Weights into the products of Winograd's minimal filtering, as the input gradient needs them: taps in reverse, input and output
// channels exchanged, of the input channels that start at group weight_first. Of several layers.
//
//   weights      [blocks][CG][9][4][8]              f32, packed, of the forward pass
//   u            [PRODUCTS][blocks][CG][4][8]       f32
//
// An invocation owns 4 outputs of 4 inputs, all taps; V has four channels.
#import grid
#import winograd_job
#import jobs

@compute @workgroup_size(64)
fn transform_flipped(id: Invocation) {
    let job = job_of(linear_group(id));
    let index = index_in(job, id);
    if (index >= job.count / 4u) {
        return;
    }
    // Of the forward pass: a group of 4 outputs, and one of 4 inputs, half a block of the input gradient's outputs.
    let o = index / 2u % job.groups;
    let c = (job.block_first + index / 2u / job.groups) * 2u + index % 2u;
    let to = job.result_at / 4u + index / 2u * 8u + index % 2u;
    if (c >= job.x_groups) {
        // The second half of the last block.
        for (var p = 0u; p < PRODUCTS; p++) {
            for (var k = 0u; k < 4u; k++) {
                u[to + p * job.count + k * 2u] = vec4<f32>(0.0);
            }
        }
        return;
    }
    let unit = o / 2u * job.weight_groups + job.weight_first + c;
    var g: array<array<V, 9>, 4>;
    for (var t = 0u; t < 9u; t++) {
        let source = job.weight_at / 4u + (unit * 9u + 8u - t) * 8u + o % 2u;
        let transposed = transpose(mat4x4<f32>(weights[source], weights[source + 2u], weights[source + 4u], weights[source + 6u]));
        for (var k = 0u; k < 4u; k++) {
            g[k][t] = transposed[k];
        }
    }
    for (var k = 0u; k < 4u; k++) {
        write_products(to + k * 2u, job.count, g[k]);
    }
}
