// Weights of convolutions for matrix units (conv2d_matrix), turned round for input gradients.
//
//   weights [blocks][CG][taps][4][8]     f32, packed as everywhere, of the forward pass
//   packed  [taps][CO][groups * 4]       Stored (vec4<f16>), CO a multiple of 4
//
// One vec4 of `packed` an invocation; of several layers.
#import grid

alias Stored = vec4<f32>;
// For an input gradient: outputs and inputs change places, and taps are turned by half a circle.
const FLIP: bool = false;

struct Job {
    first_group: u32,
    weight_at: u32,
    result_at: u32,
    taps: u32,
    groups: u32,
    weight_groups: u32,
    weight_first: u32,
    out_groups: u32,
}

@group(0) @binding(0) var<storage, read> weights: array<f32>;
@group(0) @binding(1) var<storage, read_write> packed: array<Stored>;
@group(0) @binding(2) var<uniform> params: Params;

#import jobs

@compute @workgroup_size(64)
fn pack(id: Invocation) {
    let job = job_of(linear_group(id));
    let index = index_in(job, id);
    let group = index % job.groups;
    let out = index / job.groups % (job.out_groups * 4u);
    let tap = index / job.groups / (job.out_groups * 4u);
    if (tap >= job.taps) {
        return;
    }
    var value: vec4<f32>;
    for (var k = 0u; k < 4u; k++) {
        // Output and input channel, and tap, of the forward pass.
        var o = out;
        var c = group * 4u + k;
        var t = tap;
        if (FLIP) {
            o = group * 4u + k;
            c = job.weight_first * 4u + out;
            t = job.taps - 1u - tap;
        }
        let unit = (o / 8u * job.weight_groups + c / 4u) * job.taps + t;
        value[k] = weights[job.weight_at + (unit * 4u + c % 4u) * 8u + o % 8u];
    }
    packed[job.result_at / 4u + index] = Stored(value);
}
