// Counter-based random numbers: a hash of what the number is for, the same on every device and on the host
// (ops/warp.rs). PCG4D of M. Jarzynski and M. Olano, Hash Functions for GPU Rendering, JCGT 9 (2020).
fn pcg4d(counter: vec4<u32>) -> vec4<u32> {
    var v = counter * 1664525u + vec4<u32>(1013904223u);
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    v = v ^ (v >> vec4<u32>(16u));
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    return v;
}

// Uniform in [-1, 1), a multiple of 2^-23: exact.
fn signed_unit(word: u32) -> f32 {
    return f32(word >> 8u) * 1.1920928955078125e-7 - 1.0;
}

fn halves(word: vec4<u32>) -> u32 {
    let sum = (word & vec4<u32>(0xffffu)) + (word >> vec4<u32>(16u));
    return sum.x + sum.y + sum.z + sum.w;
}

// Normal to within what the sum of 24 uniform numbers is (excess kurtosis -0.05, no value beyond 8.5): integers until
// the last line, where a logarithm would differ from device to device.
fn normal(counter: vec3<u32>) -> f32 {
    var sum = 0u;
    for (var part = 0u; part < 3u; part += 1u) {
        sum += halves(pcg4d(vec4<u32>(counter, part + 1u)));
    }
    // 24 halves have the mean 24 * 65535 / 2 and the deviation sqrt(24 / 12 * (65536^2 - 1)).
    return (f32(sum) - 786420.0) * 1.0789593218e-5;
}
