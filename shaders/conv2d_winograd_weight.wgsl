// Weights into the products of Winograd's F(4x4, 3x3): U = G g G'.
//
//   weights      [blocks][CG][9][4][8]              f32, packed
//   u            [36][blocks][CG][4][8]             f32
//
// An invocation owns 4 outputs of one input, all taps; of `transform_flipped`, which reads the weights of the forward pass as
// the input gradient needs them, 4 by 4. Of several layers.
#import grid

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

@group(0) @binding(0) var<storage, read> weights: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> u: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

#import jobs

// G g: three taps to six.
fn spread(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>) -> array<vec4<f32>, 6> {
    let even = (a + c) / -6.0;
    let odd = b / -6.0;
    let far_even = a / 24.0 + c / 6.0;
    let far_odd = b / 12.0;
    return array<vec4<f32>, 6>(a / 4.0, even + odd, even - odd, far_even + far_odd, far_even - far_odd, c);
}

// (G g G') for one element of each of the 36 parts of u, `count` apart.
fn write_products(to: u32, count: u32, g: array<vec4<f32>, 9>) {
    var rows: array<array<vec4<f32>, 6>, 3>;
    for (var i = 0u; i < 3u; i++) {
        rows[i] = spread(g[i * 3u], g[i * 3u + 1u], g[i * 3u + 2u]);
    }
    for (var j = 0u; j < 6u; j++) {
        let column = spread(rows[0][j], rows[1][j], rows[2][j]);
        for (var i = 0u; i < 6u; i++) {
            u[to + (i * 6u + j) * count] = column[i];
        }
    }
}

@compute @workgroup_size(64)
fn transform_weight(id: Invocation) {
    let job = job_of(linear_group(id));
    let index = index_in(job, id);
    if (index >= job.count) {
        return;
    }
    let unit = job.block_first * job.groups + index / 8u;
    var g: array<vec4<f32>, 9>;
    for (var t = 0u; t < 9u; t++) {
        g[t] = weights[job.weight_at / 4u + (unit * 9u + t) * 8u + index % 8u];
    }
    write_products(job.result_at / 4u + index, job.count, g);
}

// The same for the input gradient: taps in reverse, input and output channels exchanged, of the input channels that
// start at group weight_first.
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
        for (var p = 0u; p < 36u; p++) {
            for (var k = 0u; k < 4u; k++) {
                u[to + p * job.count + k * 2u] = vec4<f32>(0.0);
            }
        }
        return;
    }
    let unit = o / 2u * job.weight_groups + job.weight_first + c;
    var g: array<array<vec4<f32>, 9>, 4>;
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
