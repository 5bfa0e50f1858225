// Bilinear resize, corners not aligned (`torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`):
// an output pixel o looks at s = max((o + 0.5) * in / out - 0.5, 0), between floor(s) and the next pixel inside.
// The gradient is gathered: an input pixel adds what every output pixel took of it, in order, so that sums repeat.
//
//   x, dx   [N, HI, WI, C]   Stored (vec4<f32> or vec4<f16>; arithmetic is in f32), C a multiple of 4
//   y, dy   [N, HO, WO, C]   Stored
//
// An invocation owns 4 channels of a pixel of what it writes.
#import grid

alias Stored = vec4<f32>;

struct Params {
    in_height: u32,
    in_width: u32,
    out_height: u32,
    out_width: u32,
    groups: u32,
    len: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Stored>;
@group(0) @binding(1) var<storage, read_write> y: array<Stored>;
@group(0) @binding(2) var<uniform> params: Params;

fn x_at(pixel: u32, group: u32) -> vec4<f32> {
    return vec4<f32>(x[pixel * params.groups + group]);
}

fn source(o: u32, count_in: u32, count_out: u32) -> f32 {
    return max((f32(o) + 0.5) * (f32(count_in) / f32(count_out)) - 0.5, 0.0);
}

// How much of input pixel i output pixel o takes.
fn share(i: u32, o: u32, count_in: u32, count_out: u32) -> f32 {
    let s = source(o, count_in, count_out);
    let low = min(u32(s), count_in - 1u);
    let high = min(low + 1u, count_in - 1u);
    let part = s - f32(low);
    return select(0.0, 1.0 - part, low == i) + select(0.0, part, high == i);
}

// The output pixels that can take of input pixel i, first and end.
fn takers(i: u32, count_in: u32, count_out: u32) -> vec2<u32> {
    let scale = f32(count_out) / f32(count_in);
    let first = max(floor((f32(i) - 0.5) * scale - 0.5), 0.0);
    let end = min(ceil((f32(i) + 1.5) * scale + 0.5), f32(count_out));
    // At the borders everything beyond looks at the border's pixel.
    return vec2<u32>(select(u32(first), 0u, i == 0u), select(u32(end), count_out, i + 1u == count_in));
}

@compute @workgroup_size(64)
fn forward(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.len) {
        return;
    }
    let group = index % params.groups;
    let w = index / params.groups % params.out_width;
    let h = index / (params.groups * params.out_width) % params.out_height;
    let image = index / (params.groups * params.out_width * params.out_height);
    let sh = source(h, params.in_height, params.out_height);
    let sw = source(w, params.in_width, params.out_width);
    let h0 = min(u32(sh), params.in_height - 1u);
    let w0 = min(u32(sw), params.in_width - 1u);
    let h1 = min(h0 + 1u, params.in_height - 1u);
    let w1 = min(w0 + 1u, params.in_width - 1u);
    let top = (image * params.in_height + h0) * params.in_width;
    let bottom = (image * params.in_height + h1) * params.in_width;
    let a = mix(x_at(top + w0, group), x_at(top + w1, group), sw - f32(w0));
    let b = mix(x_at(bottom + w0, group), x_at(bottom + w1, group), sw - f32(w0));
    y[index] = Stored(mix(a, b, sh - f32(h0)));
}

// x: dy, y: dx
@compute @workgroup_size(64)
fn backward(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.len) {
        return;
    }
    let group = index % params.groups;
    let w = index / params.groups % params.in_width;
    let h = index / (params.groups * params.in_width) % params.in_height;
    let image = index / (params.groups * params.in_width * params.in_height);
    let rows = takers(h, params.in_height, params.out_height);
    let cols = takers(w, params.in_width, params.out_width);
    var total = vec4<f32>(0.0);
    for (var oh = rows.x; oh < rows.y; oh++) {
        let row_share = share(h, oh, params.in_height, params.out_height);
        for (var ow = cols.x; ow < cols.y; ow++) {
            let at = ((image * params.out_height + oh) * params.out_width + ow) * params.groups + group;
            total += vec4<f32>(x[at]) * (row_share * share(w, ow, params.in_width, params.out_width));
        }
    }
    y[index] = Stored(total);
}
