// Training patches, cut from samples in device memory: every geometric transform is one coordinate map, sampled once
// from the uncropped image; bilinear for the channels, nearest for the target.
//
//   patches       [N]           39 words each
//   samples       words: four pixels each (bit 0 boundary, 1 cell, 2 rosette in a pixel's byte); intensity as f32
//   displacement  [N, P, P, 2]  f32, added to the pixel before the map
//   x             [N, P, P, 4]  f32: boundary, cell, intensity, 0
//   y             [N, P, P, 1]  f32: 1 in rosettes, else 0
//
// An invocation owns one pixel. A map that takes pixels to pixels gives the image's values to the bit: products with
// 0, 1 and -1 and sums of halves are exact, and so is an interpolation by 0.
#import grid
#import random
#import patch

const NONE: u32 = 0xffffffffu;

struct Params {
    side: u32,
    first: u32,
    len: u32,
    chunk: u32,
}

@group(0) @binding(0) var<storage, read> patches: array<Patch>;
@group(0) @binding(1) var<storage, read> samples: array<u32>;
@group(0) @binding(2) var<storage, read> displacement: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

struct Source {
    planes: u32,
    intensity: u32,
    height: i32,
    width: i32,
    mirror: bool,
}

// Mirrored about the middle of the outermost pixels: c b | a b c | b a.
fn mirrored(at: i32, length: i32) -> i32 {
    if (length == 1) {
        return 0;
    }
    let period = 2 * (length - 1);
    let folded = abs(at) % period;
    return min(folded, period - folded);
}

// The number of a pixel in the image, or NONE outside it.
fn pixel(s: Source, row: i32, column: i32) -> u32 {
    if (s.mirror) {
        return u32(mirrored(row, s.height) * s.width + mirrored(column, s.width));
    }
    let inside = row >= 0 && row < s.height && column >= 0 && column < s.width;
    return select(NONE, u32(row * s.width + column), inside);
}

fn bits(s: Source, at: u32) -> u32 {
    if (at == NONE) {
        return 0u;
    }
    return samples[s.planes + at / 4u] >> (8u * (at % 4u));
}

fn intensity(s: Source, at: u32) -> f32 {
    if (at == NONE || s.intensity == NONE) {
        return 0.0;
    }
    return bitcast<f32>(samples[s.intensity + at]);
}

fn channels(s: Source, row: i32, column: i32) -> vec3<f32> {
    let at = pixel(s, row, column);
    let planes = bits(s, at);
    return vec3<f32>(f32(planes & 1u), f32((planes >> 1u) & 1u), intensity(s, at));
}

fn between(a: vec3<f32>, b: vec3<f32>, part: f32) -> vec3<f32> {
    return a + (b - a) * part;
}

fn bilinear(s: Source, at: vec2<f32>) -> vec3<f32> {
    let corner = floor(at);
    let part = at - corner;
    let row = i32(corner.x);
    let column = i32(corner.y);
    let above = between(channels(s, row, column), channels(s, row, column + 1), part.y);
    let below = between(channels(s, row + 1, column), channels(s, row + 1, column + 1), part.y);
    return between(above, below, part.x);
}

// The intensity around a place, weighted by a Gaussian of `sigma` px cut off at three of them.
fn blurred(s: Source, at: vec2<f32>, sigma: f32) -> f32 {
    let reach = i32(ceil(3.0 * sigma));
    var sum = 0.0;
    var total = 0.0;
    for (var row = -reach; row <= reach; row += 1) {
        for (var column = -reach; column <= reach; column += 1) {
            let weight = exp(-0.5 * f32(row * row + column * column) / (sigma * sigma));
            sum += weight * bilinear(s, at + vec2<f32>(f32(row), f32(column))).z;
            total += weight;
        }
    }
    return sum / total;
}

// The intensity as another exposure of the same tissue would show it.
fn exposed(s: Source, index: u32, at: vec2<f32>, in_patch: u32, plain: f32) -> f32 {
    var value = plain;
    if (patches[index].blur > 0.0) {
        value = blurred(s, at, patches[index].blur);
    }
    if (patches[index].gamma != 1.0 && value > 0.0) {
        value = pow(value, patches[index].gamma);
    }
    value *= patches[index].gain;
    if (patches[index].noise > 0.0) {
        let counter = vec3<u32>(in_patch, patches[index].seed_a, patches[index].seed_b);
        value += patches[index].noise * normal(counter);
    }
    return value;
}

fn is_blanked(index: u32, row: u32, column: u32) -> bool {
    for (var hole = 0u; hole < 20u; hole += 4u) {
        let top = patches[index].holes[hole];
        let left = patches[index].holes[hole + 1u];
        let bottom = patches[index].holes[hole + 2u];
        let right = patches[index].holes[hole + 3u];
        if (row >= top && row < bottom && column >= left && column < right) {
            return true;
        }
    }
    return false;
}

fn is_mine(invocation: u32) -> bool {
    if (invocation >= params.len) {
        return false;
    }
    return patches[params.first + invocation / (params.side * params.side)].chunk == params.chunk;
}

fn write(invocation: u32, moved: vec2<f32>) {
    let index = params.first + invocation / (params.side * params.side);
    let in_patch = invocation % (params.side * params.side);
    let row = in_patch / params.side;
    let column = in_patch % params.side;
    let middle = 0.5 * f32(params.side) - 0.5;
    let p = vec2<f32>(f32(row) - middle, f32(column) - middle) + moved * patches[index].displacement;
    let at = vec2<f32>(
        patches[index].yy * p.x + patches[index].yx * p.y + patches[index].y0,
        patches[index].xy * p.x + patches[index].xx * p.y + patches[index].x0,
    );
    let s = Source(
        patches[index].planes,
        patches[index].intensity,
        i32(patches[index].height),
        i32(patches[index].width),
        patches[index].mirror == 1u,
    );
    let nearest = pixel(s, i32(floor(at.x + 0.5)), i32(floor(at.y + 0.5)));
    var values = bilinear(s, at);
    if (s.intensity != NONE && nearest != NONE) {
        values.z = exposed(s, index, at, in_patch, values.z);
    }
    x[invocation] = select(vec4<f32>(values, 0.0), vec4<f32>(0.0), is_blanked(index, row, column));
    y[invocation] = f32((bits(s, nearest) >> 2u) & 1u);
}

@compute @workgroup_size(64)
fn still(id: Invocation) {
    let invocation = invocation_index(id);
    if (is_mine(invocation)) {
        write(invocation, vec2<f32>(0.0));
    }
}

@compute @workgroup_size(64)
fn displaced(id: Invocation) {
    let invocation = invocation_index(id);
    if (!is_mine(invocation)) {
        return;
    }
    let index = params.first + invocation / (params.side * params.side);
    var moved = vec2<f32>(0.0);
    // Where nothing is displaced nothing was written.
    if (patches[index].displacement > 0.0) {
        moved = displacement[invocation];
    }
    write(invocation, moved);
}
