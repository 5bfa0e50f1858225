// Sums partial results in a fixed order: y[e] = sum over s of part[s][e] (+ y[e] where `accumulate`).
//
//   part  [splits][len]   f32
//   y     [len]           f32
//
// `sum` gives an element to an invocation. `scatter` writes the packed weights' partial sums of one source of a
// convolution, [blocks][x_groups][unit], into the weights of all sources, [blocks][weight_groups][unit].
#import grid

struct Params {
    len: u32,
    splits: u32,
    accumulate: u32,
    unit: u32,
    x_groups: u32,
    weight_groups: u32,
    weight_first: u32,
}

@group(0) @binding(0) var<storage, read> part: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

fn total(index: u32) -> f32 {
    // Four running sums hide the latency of the additions and halve the rounding twice.
    var sums = vec4<f32>(0.0);
    var s = 0u;
    for (; s + 4u <= params.splits; s += 4u) {
        let at = s * params.len + index;
        sums += vec4<f32>(part[at], part[at + params.len], part[at + 2u * params.len], part[at + 3u * params.len]);
    }
    for (; s < params.splits; s++) {
        sums.x += part[s * params.len + index];
    }
    return (sums.x + sums.y) + (sums.z + sums.w);
}

@compute @workgroup_size(64)
fn sum(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.len) {
        return;
    }
    let unit_index = index / params.unit;
    let group = unit_index % params.x_groups;
    let block = unit_index / params.x_groups;
    let to = (block * params.weight_groups + params.weight_first + group) * params.unit + index % params.unit;
    var value = total(index);
    if (params.accumulate != 0u) {
        value += y[to];
    }
    y[to] = value;
}
