// The attention gate's product, with the batch norm and the sigmoid before it:
//   y[p,c] = x[p,c] * psi[p],  psi = sigmoid(gamma * (s - mean) * inv_std + beta)
// Gradients: dx = dy * psi, and dz = (sum over c of dy * x) * psi * (1 - psi) of what the sigmoid takes.
//
//   x, y, dy, dx   [P, C]   Stored (vec4<f32> or vec4<f16>; arithmetic is in f32), C a multiple of 4
//   s, dz          [P]      f32
//   stats          [4]      f32: mean, scale = gamma * inv_std, beta, inv_std
//   coefficients   [3 or more][C]  f32: mean, scale, beta, where x is normalised as it is read
//
// LANES invocations share a pixel's channels, and take PIXELS pixels one after the other; psi is computed where it is
// used. In `backward` the lanes' shares of a pixel's sum are added in order.
#import grid

alias Stored = vec4<f32>;
alias X = Stored;
// A power of two, at most 64.
const LANES: u32 = 1u;
const PIXELS: u32 = 8u;

struct Params {
    pixels: u32,
    groups: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> s: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<Stored>;
@group(0) @binding(3) var<storage, read> stats: array<f32>;
// y, or dx
@group(0) @binding(4) var<storage, read_write> y: array<Stored>;
@group(0) @binding(5) var<storage, read_write> dz: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;
@group(0) @binding(7) var<storage, read> coefficients: array<vec4<f32>>;

#import normalised_read

var<workgroup> shares: array<f32, 64u * PIXELS>;

struct ScalarNorm {
    mean: f32,
    scale: f32,
    beta: f32,
}

fn norm() -> ScalarNorm {
    return ScalarNorm(stats[0], stats[1], stats[2]);
}

fn psi(value: f32, n: ScalarNorm) -> f32 {
    let z = fma(value - n.mean, n.scale, n.beta);
    // exp of a negative number only: nothing overflows.
    let e = exp(-abs(z));
    let small = e / (1.0 + e);
    return select(small, 1.0 - small, z >= 0.0);
}

// The first of the pixels of a workgroup; they are SPAN * PIXELS.
const SPAN: u32 = 64u / LANES;

fn first_pixel(id: Invocation) -> u32 {
    return linear_group(id) * SPAN * PIXELS;
}

@compute @workgroup_size(64)
fn forward(id: Invocation) {
    let n = norm();
    for (var k = 0u; k < PIXELS; k++) {
        let pixel = first_pixel(id) + k * SPAN + id.lane / LANES;
        if (pixel < params.pixels) {
            let factor = psi(s[pixel], n);
            for (var group = id.lane % LANES; group < params.groups; group += LANES) {
                let at = pixel * params.groups + group;
                y[at] = Stored(vec4<f32>(as_read(x[at], norm_of(group, params.groups))) * factor);
            }
        }
    }
}

@compute @workgroup_size(64)
fn backward(id: Invocation) {
    let n = norm();
    let lane = id.lane % LANES;
    for (var k = 0u; k < PIXELS; k++) {
        let column = k * SPAN + id.lane / LANES;
        let pixel = first_pixel(id) + column;
        if (pixel < params.pixels) {
            let factor = psi(s[pixel], n);
            var total = 0.0;
            for (var group = lane; group < params.groups; group += LANES) {
                let at = pixel * params.groups + group;
                let gradient = vec4<f32>(dy[at]);
                total += dot(gradient, vec4<f32>(as_read(x[at], norm_of(group, params.groups))));
                y[at] = Stored(gradient * factor);
            }
            if (LANES == 1u) {
                dz[pixel] = total * factor * (1.0 - factor);
            } else {
                shares[lane * SPAN * PIXELS + column] = total;
            }
        }
    }
    if (LANES > 1u) {
        workgroupBarrier();
        for (var column = id.lane; column < SPAN * PIXELS; column += 64u) {
            let pixel = first_pixel(id) + column;
            if (pixel < params.pixels) {
                var total = 0.0;
                for (var l = 0u; l < LANES; l++) {
                    total += shares[l * SPAN * PIXELS + column];
                }
                let factor = psi(s[pixel], n);
                dz[pixel] = total * factor * (1.0 - factor);
            }
        }
    }
}
