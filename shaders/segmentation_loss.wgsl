// Loss and counts from logits z and targets t (0 or 1; below 0: the pixel is ignored), p = sigmoid(z):
//   loss = (1 - a) * mean over pixels of E + a * (1 - mean over images of I)
// where E is one of
//   cross-entropy   (1 + (w - 1) t) (max(z, 0) - z t + log(1 + exp(-|z|))), the log at most 100 (PyTorch clamps log p)
//   focal           c (1 - p_t)^g (-log p_t), p_t = p where t is 1, else 1 - p; c = alpha where t is 1, else 1 - alpha
// and I = (n sum(p t) + s) / (u sum(p t) + v sum(p) + w sum(t) + s) with s = 1e-6 is one of
//   Dice            n, u, v, w = 2, 0, 1, 1
//   Tversky         n, u, v, w = 1, 1 - alpha - beta, alpha, beta: false positives weigh alpha, false negatives beta
//
//   z, t, dz   [N, P]                 f32
//   part       [N][splits][8]         f32: E, p t, p, t | true positives, false positives, false negatives, pixels
//   sums       [N][8]                 f32: the same, whole; a positive is p > 0.5
//   loss       [1]                    f32
//
// The `_sums` give a split of an image's pixels to an invocation; all sums are added in a fixed order.
#import grid

const SMOOTH: f32 = 1e-6;

struct Params {
    images: u32,
    pixels: u32,
    pixels_per_split: u32,
    splits: u32,
    image_first: u32,
    region_weight: f32,
    hits: f32,
    below_hits: f32,
    below_found: f32,
    below_true: f32,
    pos_weight: f32,
    gamma: f32,
    alpha: f32,
}

@group(0) @binding(0) var<storage, read> z: array<f32>;
@group(0) @binding(1) var<storage, read> t: array<f32>;
@group(0) @binding(2) var<storage, read_write> part: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> sums_out: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;
@group(0) @binding(5) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> dloss: array<f32>;
@group(0) @binding(7) var<storage, read_write> dz: array<f32>;
@group(0) @binding(8) var<uniform> params: Params;

alias V = vec4<f32>;

#import ordered_sum

fn probability(value: f32) -> f32 {
    let e = exp(-abs(value));
    return select(e, 1.0, value >= 0.0) / (1.0 + e);
}

// What I takes of a pixel, and its counts.
fn region(p: f32, truth: f32) -> vec3<f32> {
    return vec3<f32>(p * truth, p, truth);
}

fn counts(value: f32, truth: f32) -> vec4<f32> {
    let positive = f32(value > 0.0);
    return vec4<f32>(positive * truth, positive * (1.0 - truth), (1.0 - positive) * truth, 1.0);
}

fn cross_entropy(value: f32, truth: f32) -> f32 {
    let bce = min(max(value, 0.0) - value * truth + log(1.0 + exp(-abs(value))), 100.0);
    return bce * (1.0 + (params.pos_weight - 1.0) * truth);
}

// What the focal loss sees of a pixel: the logit of its own class, and the weight of that class.
fn own_class(value: f32, truth: f32) -> vec2<f32> {
    let is_true = truth > 0.5;
    return vec2<f32>(select(-value, value, is_true), select(1.0 - params.alpha, params.alpha, is_true));
}

// (1 - p)^gamma as a function of the logit of p: exact where p is close to 1, and 1 where gamma is 0.
fn modulation(logit: f32) -> f32 {
    return exp(-params.gamma * (max(logit, 0.0) + log(1.0 + exp(-abs(logit)))));
}

fn focal(value: f32, truth: f32) -> f32 {
    let own = own_class(value, truth);
    let surprise = max(-own.x, 0.0) + log(1.0 + exp(-abs(own.x)));
    return own.y * modulation(own.x) * surprise;
}

// Where an invocation's pixels start and end, and where its sums go; nothing to do where the two are one.
struct Share {
    first: u32,
    end: u32,
    to: u32,
}

fn share(index: u32) -> Share {
    let image = index / params.splits;
    let split = index % params.splits;
    let end = min((split + 1u) * params.pixels_per_split, params.pixels);
    let to = ((params.image_first + image) * params.splits + split) * 2u;
    return Share(image * params.pixels + split * params.pixels_per_split, image * params.pixels + end, to);
}

@compute @workgroup_size(64)
fn cross_entropy_sums(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.images * params.splits) {
        return;
    }
    let own = share(index);
    var soft = vec4<f32>(0.0);
    var hard = vec4<f32>(0.0);
    for (var i = own.first; i < own.end; i++) {
        if (t[i] >= 0.0) {
            soft += vec4<f32>(cross_entropy(z[i], t[i]), region(probability(z[i]), t[i]));
            hard += counts(z[i], t[i]);
        }
    }
    part[own.to] = soft;
    part[own.to + 1u] = hard;
}

@compute @workgroup_size(64)
fn focal_sums(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.images * params.splits) {
        return;
    }
    let own = share(index);
    var soft = vec4<f32>(0.0);
    var hard = vec4<f32>(0.0);
    for (var i = own.first; i < own.end; i++) {
        if (t[i] >= 0.0) {
            soft += vec4<f32>(focal(z[i], t[i]), region(probability(z[i]), t[i]));
            hard += counts(z[i], t[i]);
        }
    }
    part[own.to] = soft;
    part[own.to + 1u] = hard;
}

// SUM_LANES invocations an image: the splits in order.
@compute @workgroup_size(SUM_GROUP)
fn finish_images(id: Invocation) {
    let image = sum_place(id).index;
    let first = min(image, params.images - 1u) * params.splits * 2u;
    let soft = ordered_sum(id, first, 2u, params.splits);
    let hard = ordered_sum(id, first + 1u, 2u, params.splits);
    if (sum_place(id).lane > 0u || image >= params.images) {
        return;
    }
    sums_out[image * 2u] = soft;
    sums_out[image * 2u + 1u] = hard;
}

fn below(soft: vec4<f32>) -> f32 {
    return params.below_hits * soft.y + params.below_found * soft.z + params.below_true * soft.w + SMOOTH;
}

// Reads what it could have as read-only through the binding that wrote it: loss and sums share a buffer, and one
// dispatch uses a buffer in one way.
@compute @workgroup_size(1)
fn total_loss() {
    var element = 0.0;
    var index = 0.0;
    var pixels = 0.0;
    for (var n = 0u; n < params.images; n++) {
        let soft = sums_out[n * 2u];
        element += soft.x;
        index += (params.hits * soft.y + SMOOTH) / below(soft);
        pixels += sums_out[n * 2u + 1u].w;
    }
    let a = params.region_weight;
    loss[0] = (1.0 - a) * element / max(pixels, 1.0) + a * (1.0 - index / f32(params.images));
}

fn total_pixels() -> f32 {
    var pixels = 0.0;
    // Not `n < params.images`: lavapipe would unroll the loop by the number it finds there, anew at every dispatch.
    for (var n = 1u; n - 1u < params.images; n++) {
        pixels += sums[n * 2u - 1u].w;
    }
    return max(pixels, 1.0);
}

// The gradient of a pixel's logit, given that of E.
fn gradient(index: u32, p: f32, element: f32) -> f32 {
    let truth = t[index];
    let soft = sums[(index / params.pixels) * 2u];
    let under = below(soft);
    let slope_below = params.below_hits * truth + params.below_found;
    let slope = (params.hits * truth * under - (params.hits * soft.y + SMOOTH) * slope_below) / (under * under);
    let a = params.region_weight;
    let total = (1.0 - a) * element / total_pixels() - a * slope * p * (1.0 - p) / f32(params.images);
    return select(0.0, total * dloss[0], truth >= 0.0);
}

@compute @workgroup_size(64)
fn cross_entropy_backward(id: Invocation) {
    let index = invocation_index(id);
    if (index < params.images * params.pixels) {
        let p = probability(z[index]);
        dz[index] = gradient(index, p, (p - t[index]) * (1.0 + (params.pos_weight - 1.0) * t[index]));
    }
}

@compute @workgroup_size(64)
fn focal_backward(id: Invocation) {
    let index = invocation_index(id);
    if (index < params.images * params.pixels) {
        let own = own_class(z[index], t[index]);
        let surprise = max(-own.x, 0.0) + log(1.0 + exp(-abs(own.x)));
        // d/dx of (1 - p)^g (-log p), x the logit of p.
        let slope = own.y * modulation(own.x) * (-probability(-own.x) - params.gamma * probability(own.x) * surprise);
        let sign = select(-1.0, 1.0, t[index] > 0.5);
        dz[index] = gradient(index, probability(z[index]), sign * slope);
    }
}
