// What the device can do at best, for `rosette bench` to compare kernels with.
//
//   `multiply_add`: 8 independent chains of vec4 multiply-adds an invocation, 64 steps of 8 * 4 * 2 operations a round
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
    var d = c + addend;
    var e = d + addend;
    var f = e + addend;
    var g = f + addend;
    var h = g + addend;
    for (var round = 0u; round < params.rounds; round++) {
        for (var step = 0u; step < 8u; step++) {
            // Short enough for compilers to unroll: what a loop costs is no arithmetic.
            for (var k = 0u; k < 8u; k++) {
                a = fma(a, factor, addend);
                b = fma(b, factor, addend);
                c = fma(c, factor, addend);
                d = fma(d, factor, addend);
                e = fma(e, factor, addend);
                f = fma(f, factor, addend);
                g = fma(g, factor, addend);
                h = fma(h, factor, addend);
            }
        }
    }
    y[index % params.len] = vec4<f32>(((a + b) + (c + d)) + ((e + f) + (g + h)));
}

@compute @workgroup_size(64)
fn copy(id: Invocation) {
    let index = invocation_index(id);
    if (index < params.len) {
        y[index] = x[index];
    }
}
