// Weights into the products of Winograd's minimal filtering, as the input gradient needs them: taps in reverse, input and output
// channels exchanged, of the input channels that start at group weight_first. Of several layers.
//
//   weights      [blocks][CG][9][4][8]              f32, packed, of the forward pass
//   u            [PRODUCTS][blocks][CG][4][8]       f32
//
// An invocation owns 4 outputs of INPUTS inputs, all taps: of four on a software adapter, which takes as long for one number as for
// four, of one on a GPU, whose registers the others would fill. V has four channels.
#import grid
#import winograd_job
#import jobs

const INPUTS: u32 = 4u;
const_assert V_FLOATS == 4u && (INPUTS == 1u || INPUTS == 4u);

// The weights of a tap: four outputs of each of these inputs, where the weight has four inputs of each output.
fn inputs_of(source: u32, first: u32) -> array<V, INPUTS> {
    var found: array<V, INPUTS>;
    if (INPUTS == 1u) {
        found[0] = vec4<f32>(weights[source][first], weights[source + 2u][first], weights[source + 4u][first], weights[source + 6u][first]);
        return found;
    }
    let transposed = transpose(mat4x4<f32>(weights[source], weights[source + 2u], weights[source + 4u], weights[source + 6u]));
    #unroll
    for (var k = 0u; k < INPUTS; k++) {
        found[k] = transposed[k];
    }
    return found;
}

@compute @workgroup_size(64)
fn transform_flipped(id: Invocation) {
    let job = job_of(linear_group(id));
    let invocation = index_in(job, id);
    if (invocation >= job.count / INPUTS) {
        return;
    }
    let index = invocation * INPUTS / 4u;
    let first = invocation * INPUTS % 4u;
    // Of the forward pass: a group of 4 outputs, and one of 4 inputs, half a block of the input gradient's outputs.
    let o = index / 2u % job.groups;
    let c = (job.block_first + index / 2u / job.groups) * 2u + index % 2u;
    let to = job.result_at / 4u + index / 2u * 8u + index % 2u + first * 2u;
    if (c >= job.x_groups) {
        // The second half of the last block.
        for (var p = 0u; p < PRODUCTS; p++) {
            for (var k = 0u; k < INPUTS; k++) {
                u[to + p * job.count + k * 2u] = vec4<f32>(0.0);
            }
        }
        return;
    }
    let unit = o / 2u * job.weight_groups + job.weight_first + c;
    var g: array<array<V, 9>, INPUTS>;
    #unroll
    for (var t = 0u; t < 9u; t++) {
        let found = inputs_of(job.weight_at / 4u + (unit * 9u + 8u - t) * 8u + o % 2u, first);
        #unroll
        for (var k = 0u; k < INPUTS; k++) {
            g[k][t] = found[k];
        }
    }
    #unroll
    for (var k = 0u; k < INPUTS; k++) {
        write_products(to + k * 2u, job.count, g[k]);
    }
}
