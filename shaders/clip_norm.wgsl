// Clipping by the norm of all gradients together (Pascanu et al. 2013; `torch.nn.utils.clip_grad_norm_`), folded into
// what the optimiser multiplies gradients by:
//   norm = f sqrt(sum(g^2));  f' = f min(1, most / (norm + 1e-6))
//
//   g        [len]    f32: the flat gradients
//   part     [parts]  f32: sums of squares
//   sizes    [4]      f32: of the optimiser's step; the last is f, which unscales a scaled loss
//   clipped  [4]      f32: the same with f'
//   report   [1]      f32: the norm, for the host
//
// A norm that is no finite number clips nothing: the training has diverged, and must not look as if it had not.
//
// `squares`: an invocation owns a part of the gradients. `clip`: SUM_LANES invocations, which add up the parts in order.
#import grid

struct Params {
    len: u32,
    part_len: u32,
    first_part: u32,
    parts: u32,
    neighbours: u32,
    most: f32,
}

@group(0) @binding(0) var<storage, read> g: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> part: array<f32>;
@group(0) @binding(2) var<storage, read> sizes: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> clipped: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> report: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

alias V = f32;

#import ordered_sum

// So many neighbours read neighbours, and then what follows: all of a GPU's invocations, the lanes of a processor, which likes to
// read on.
@compute @workgroup_size(64)
fn squares(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.parts) {
        return;
    }
    let first = index / params.neighbours * params.neighbours * params.part_len + index % params.neighbours;
    var sum = vec4<f32>(0.0);
    for (var k = 0u; k < params.part_len; k++) {
        let at = first + k * params.neighbours;
        if (at < params.len) {
            sum += g[at] * g[at];
        }
    }
    part[params.first_part + index] = (sum.x + sum.y) + (sum.z + sum.w);
}

@compute @workgroup_size(SUM_GROUP)
fn clip(id: Invocation) {
    let total = ordered_sum(id, 0u, 1u, params.parts);
    if (id.lane > 0u) {
        return;
    }
    let unscale = sizes[0].w;
    let norm = sqrt(total) * unscale;
    // By its bits: compilers may assume that floats are numbers.
    let is_finite = (bitcast<u32>(norm) & 0x7f800000u) != 0x7f800000u;
    let factor = select(1.0, min(1.0, params.most / (norm + 1e-6)), is_finite);
    clipped[0] = vec4<f32>(sizes[0].xyz, unscale * factor);
    report[0] = norm;
}
