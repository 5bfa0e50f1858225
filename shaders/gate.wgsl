// The attention gate's product: y[n,h,w,c] = x[n,h,w,c] * psi[n,h,w].
// Gradients: dx = dy * psi, dpsi = sum over c of dy * x.
//
//   x, y, dy, dx   [P, C]   Stored (vec4<f32> or vec4<f16>; arithmetic is in f32), C a multiple of 4
//   psi, dpsi      [P]      f32
//
// An invocation owns 4 channels of a pixel; in `psi_gradient`, a pixel.
#import grid

alias Stored = vec4<f32>;

struct Params {
    pixels: u32,
    groups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> psi: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<Stored>;
@group(0) @binding(3) var<storage, read_write> y: array<Stored>;
@group(0) @binding(4) var<storage, read_write> dpsi: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64)
fn forward(id: Invocation) {
    let index = invocation_index(id);
    if (index < params.pixels * params.groups) {
        y[index] = Stored(vec4<f32>(x[index]) * psi[index / params.groups]);
    }
}

@compute @workgroup_size(64)
fn psi_gradient(id: Invocation) {
    let pixel = invocation_index(id);
    if (pixel >= params.pixels) {
        return;
    }
    var total = vec4<f32>(0.0);
    for (var g = 0u; g < params.groups; g++) {
        let at = pixel * params.groups + g;
        total = fma(vec4<f32>(dy[at]), vec4<f32>(x[at]), total);
    }
    dpsi[pixel] = (total.x + total.y) + (total.z + total.w);
}
