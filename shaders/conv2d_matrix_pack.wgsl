// Weights of a convolution for matrix units (conv2d_matrix), turned round for an input gradient.
//
//   weight  [blocks][CG][K*K][4][8]     f32, packed as everywhere, of the forward pass
//   packed  [K*K][CO][groups * 4]       Stored (vec4<f16>), CO a multiple of 4
//
// One vec4 of `packed` an invocation.
#import grid

alias Stored = vec4<f32>;
const K: u32 = 3u;
// For an input gradient: outputs and inputs change places, and taps are turned by half a circle.
const FLIP: bool = false;

struct Params {
    groups: u32,
    weight_groups: u32,
    weight_first: u32,
    out_groups: u32,
}

@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(1) var<storage, read_write> packed: array<Stored>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn pack(id: Invocation) {
    let index = invocation_index(id);
    let group = index % params.groups;
    let out = index / params.groups % (params.out_groups * 4u);
    let tap = index / params.groups / (params.out_groups * 4u);
    if (tap >= K * K) {
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
            c = params.weight_first * 4u + out;
            t = K * K - 1u - tap;
        }
        value[k] = weight[(((o / 8u * params.weight_groups + c / 4u) * (K * K) + t) * 4u + c % 4u) * 8u + o % 8u];
    }
    packed[index] = Stored(value);
}
