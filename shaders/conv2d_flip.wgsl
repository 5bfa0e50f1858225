// Weights of convolutions as their input gradients take them: dx is the convolution of dy with the weights turned by half a circle, outputs
// and inputs exchanged.
//
//   weights [blocks][weight_groups][taps][4][8]           f32, packed
//   flipped [x_groups / 2][out_groups][taps][4][8]        f32, of the input channels that start at group weight_first
//
// 4 inputs by 4 outputs of a tap an invocation; of several layers.
#import grid

struct Job {
    first_group: u32,
    weight_at: u32,
    result_at: u32,
    taps: u32,
    x_groups: u32,
    out_groups: u32,
    weight_groups: u32,
    weight_first: u32,
}

@group(0) @binding(0) var<storage, read> weights: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> flipped: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

#import jobs

@compute @workgroup_size(64)
fn flip(id: Invocation) {
    let job = job_of(linear_group(id));
    let index = index_in(job, id);
    let half = index % 2u;
    let tap = index / 2u % job.taps;
    let o = index / (2u * job.taps) % job.out_groups;
    let c_block = index / (2u * job.taps * job.out_groups);
    if (c_block * 2u >= job.x_groups) {
        return;
    }
    let c = c_block * 2u + half;
    let to = job.result_at / 4u + index / 2u * 8u + half;
    var transposed = mat4x4<f32>();
    // The second half of the last block may be none.
    if (c < job.x_groups) {
        let group = o / 2u * job.weight_groups + job.weight_first + c;
        let source = job.weight_at / 4u + (group * job.taps + (job.taps - 1u - tap)) * 8u + o % 2u;
        transposed = transpose(mat4x4<f32>(weights[source], weights[source + 2u], weights[source + 4u], weights[source + 6u]));
    }
    for (var k = 0u; k < 4u; k++) {
        flipped[to + k * 2u] = transposed[k];
    }
}
