// What the device can do at best, for `rosette bench` to compare kernels with.
//
//   `multiply_add`: 3 independent chains of vec4 multiply-adds an invocation, which a processor keeps in registers, 128 steps of
//                   3 * 4 * 2 operations a round
//   `copy`:         y = x, both [len] vec4<f32>
#import grid

// What `multiply_add` computes with: vec4<f32>, or vec4<f16>.
alias V = vec4<f32>;

struct Params {
    len: u32,
    rounds: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn multiply_add(id: Invocation) {
    let index = invocation_index(id);
    // Unknown to the compiler, and kept within bounds whatever the number of rounds.
    let factor = V(vec4<f32>(0.999) + x[index % params.len] * 1e-6);
    let addend = V(vec4<f32>(f32(index % 7u) * 1e-3));
    var a = addend;
    var b = addend + addend;
    var c = b + addend;
    for (var round = 0u; round < params.rounds; round++) {
        for (var step = 0u; step < 16u; step++) {
            // Short enough for compilers to unroll: what a loop costs is no arithmetic.
            for (var k = 0u; k < 8u; k++) {
                a = fma(a, factor, addend);
                b = fma(b, factor, addend);
                c = fma(c, factor, addend);
            }
        }
    }
    y[index % params.len] = vec4<f32>(a + b + c);
}

@compute @workgroup_size(64)
fn copy(id: Invocation) {
    let index = invocation_index(id);
    if (index < params.len) {
        y[index] = x[index];
    }
}
