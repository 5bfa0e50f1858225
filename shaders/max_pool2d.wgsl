// 2x2 max pooling, stride 2: y[n,h,w,c] = max of x[n,2h..2h+2,2w..2w+2,c]. The gradient goes to the first of equal
// values in reading order, as PyTorch's does; it is found again from x, so that nothing is stored.
//
//   x, dx   [N, H, W, C]        Stored (vec4<f32> or vec4<f16>), H and W even, C a multiple of 4
//   y, dy   [N, H/2, W/2, C]    Stored
//
// An invocation owns 4 channels of one pixel of y.
#import grid

alias Stored = vec4<f32>;
// `backward` adds to what dx holds.
const ADD: bool = false;

struct Params {
    // of y
    width: u32,
    groups: u32,
    len: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read> dy: array<Stored>;
@group(0) @binding(2) var<storage, read_write> y: array<Stored>;
@group(0) @binding(3) var<uniform> params: Params;

// First of the four values in x. Images have even heights, so that rows of all images count through.
fn corner(index: u32) -> u32 {
    let group = index % params.groups;
    let w = index / params.groups % params.width;
    let row = index / (params.groups * params.width);
    return ((row * 2u) * (params.width * 2u) + w * 2u) * params.groups + group;
}

@compute @workgroup_size(64)
fn forward(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.len) {
        return;
    }
    let at = corner(index);
    let below = at + params.width * 2u * params.groups;
    y[index] = max(max(x[at], x[at + params.groups]), max(x[below], x[below + params.groups]));
}

fn put(at: u32, value: Stored) {
    if (ADD) {
        y[at] += value;
    } else {
        y[at] = value;
    }
}

@compute @workgroup_size(64)
fn backward(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.len) {
        return;
    }
    let at = corner(index);
    let below = at + params.width * 2u * params.groups;
    let a = x[at];
    let b = x[at + params.groups];
    let c = x[below];
    let d = x[below + params.groups];
    let most = max(max(a, b), max(c, d));
    let is_a = a == most;
    let is_b = !is_a & (b == most);
    let is_c = !is_a & !is_b & (c == most);
    let is_d = !is_a & !is_b & !is_c;
    let gradient = dy[index];
    let zero = Stored();
    put(at, select(zero, gradient, is_a));
    put(at + params.groups, select(zero, gradient, is_b));
    put(below, select(zero, gradient, is_c));
    put(below + params.groups, select(zero, gradient, is_d));
}
