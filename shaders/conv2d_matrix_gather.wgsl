// The gradient of a convolution's weights from what conv2d_matrix_gradient has added up, split by split in order.
//
//   part  [splits][K*K][rows][columns]  f32: input channels by outputs, to whole tiles
//   dw    [blocks][CG][K*K][4][8]       f32, packed as everywhere
//
// One number of the source's share of the weight SUM_LANES invocations, in the order of part: neighbours read neighbours.
#import grid

const K: u32 = 3u;

struct Params {
    x_groups: u32,
    out_groups: u32,
    rows: u32,
    columns: u32,
    splits: u32,
    weight_groups: u32,
    weight_first: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<storage, read> part: array<f32>;
@group(0) @binding(1) var<storage, read_write> dw: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

alias V = f32;

#import ordered_sum

@compute @workgroup_size(SUM_GROUP)
fn gather(id: Invocation) {
    let place = sum_place(id);
    let count = K * K * params.x_groups * params.out_groups * 16u;
    let index = min(place.index, count - 1u);
    let o = index % (params.out_groups * 4u);
    let c = index / (params.out_groups * 4u) % (params.x_groups * 4u);
    let tap = index / (params.out_groups * 4u) / (params.x_groups * 4u);
    let first = (tap * params.rows + c) * params.columns + o;
    var sum = ordered_sum(id, first, K * K * params.rows * params.columns, params.splits);
    if (place.lane > 0u || place.index >= count) {
        return;
    }
    let group = params.weight_first + c / 4u;
    let at = (((o / 8u * params.weight_groups + group) * (K * K) + tap) * 4u + c % 4u) * 8u + o % 8u;
    if (params.accumulate != 0u) {
        sum += dw[at];
    }
    dw[at] = sum;
}
