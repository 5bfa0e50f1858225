// Sums partial results in a fixed order: y[e] = sum over s of part[s][e] (+ y[e] where `accumulate`).
//
//   part  [splits][len]   V
//   y     [len]           V
//
// `sum` gives an element to SUM_LANES invocations, and writes the packed weights' partial sums of one source of a convolution,
// [blocks][x_groups][unit], into the weights of all sources, [blocks][weight_groups][unit].
#import grid

// An element: f32, vec4<f32> or mat2x4<f32>, as the lengths allow. All lengths count these.
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

#import ordered_sum

@compute @workgroup_size(SUM_GROUP)
fn sum(id: Invocation) {
    let at = sum_place(id);
    let index = at.index;
    var value = ordered_sum(id, min(index, params.len - 1u), params.len, params.splits);
    if (at.lane > 0u || index >= params.len) {
        return;
    }
    let unit_index = index / params.unit;
    let group = unit_index % params.x_groups;
    let block = unit_index / params.x_groups;
    let to = (block * params.weight_groups + params.weight_first + group) * params.unit + index % params.unit;
    if (params.accumulate != 0u) {
        value += y[to];
    }
    y[to] = value;
}
