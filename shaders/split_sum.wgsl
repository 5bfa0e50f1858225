// Sums partial results in a fixed order: y[e] = sum over s of part[s][e] (+ y[e] where `accumulate`).
//
//   part  [splits][len]   V
//   y     [len]           V
//
// `sum` gives an element to an invocation, and writes the packed weights' partial sums of one source of a convolution,
// [blocks][x_groups][unit], into the weights of all sources, [blocks][weight_groups][unit].
#import grid

// An element: f32, or vec4<f32> where the lengths allow. All lengths count these.
alias V = vec4<f32>;

struct Params {
    len: u32,
    splits: u32,
    accumulate: u32,
    unit: u32,
    x_groups: u32,
    weight_groups: u32,
    weight_first: u32,
}

@group(0) @binding(0) var<storage, read> part: array<V>;
@group(0) @binding(1) var<storage, read_write> y: array<V>;
@group(0) @binding(2) var<uniform> params: Params;

fn total(index: u32) -> V {
    // Four running sums hide the latency of the additions and halve the rounding twice.
    var a = V(0.0);
    var b = V(0.0);
    var c = V(0.0);
    var d = V(0.0);
    var s = 0u;
    for (; s + 4u <= params.splits; s += 4u) {
        let at = s * params.len + index;
        a += part[at];
        b += part[at + params.len];
        c += part[at + 2u * params.len];
        d += part[at + 3u * params.len];
    }
    for (; s < params.splits; s++) {
        a += part[s * params.len + index];
    }
    return (a + b) + (c + d);
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
