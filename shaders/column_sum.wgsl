// Partial sums over the pixels of an activation, by channel: the bias gradient of a convolution.
//
//   x     [P, C]        Stored, P pixels
//   part  [splits][C]   f32
//
// An invocation owns one channel group of V's width in one split of the pixels. `split_sum` adds the splits.
#import grid

alias V = vec4<f32>;
alias Stored = V;

struct Params {
    pixels: u32,
    groups: u32,
    pixels_per_split: u32,
    splits: u32,
    split_first: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> part: array<V>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn column_sum(id: Invocation) {
    let index = invocation_index(id);
    let group = index % params.groups;
    let split = index / params.groups;
    if (split >= params.splits) {
        return;
    }
    var total = V(0.0);
    let end = min((split + 1u) * params.pixels_per_split, params.pixels);
    for (var p = split * params.pixels_per_split; p < end; p++) {
        total += V(x[p * params.groups + group]);
    }
    part[(params.split_first + split) * params.groups + group] = total;
}
