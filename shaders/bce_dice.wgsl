// Loss and counts from logits z and targets t (0 or 1; below 0: the pixel is ignored), p = sigmoid(z):
//   loss = (1 - a) * mean over pixels of BCE + a * (1 - mean over images of (2 sum(p t) + s) / (sum(p) + sum(t) + s))
// with s = 1e-6, BCE = max(z, 0) - z t + log(1 + exp(-|z|)), at most 100 (PyTorch clamps log p at -100).
//
//   z, t, dz   [N, P]                 f32
//   part       [N][splits][8]         f32: BCE, p t, p, t | true positives, false positives, false negatives, pixels
//   sums       [N][8]                 f32: the same, whole; a positive is p > 0.5
//   loss       [1]                    f32
//
// `image_sums` gives a split of an image's pixels to an invocation; all sums are added in a fixed order.
#import grid

const SMOOTH: f32 = 1e-6;

struct Params {
    images: u32,
    pixels: u32,
    pixels_per_split: u32,
    splits: u32,
    image_first: u32,
    dice_weight: f32,
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

fn probability(value: f32) -> f32 {
    let e = exp(-abs(value));
    return select(e, 1.0, value >= 0.0) / (1.0 + e);
}

@compute @workgroup_size(64)
fn image_sums(id: Invocation) {
    let index = invocation_index(id);
    let image = index / params.splits;
    let split = index % params.splits;
    if (image >= params.images) {
        return;
    }
    var soft = vec4<f32>(0.0);
    var hard = vec4<f32>(0.0);
    let end = min((split + 1u) * params.pixels_per_split, params.pixels);
    for (var i = split * params.pixels_per_split; i < end; i++) {
        let value = z[image * params.pixels + i];
        let truth = t[image * params.pixels + i];
        if (truth >= 0.0) {
            let p = probability(value);
            let bce = min(max(value, 0.0) - value * truth + log(1.0 + exp(-abs(value))), 100.0);
            let positive = f32(value > 0.0);
            soft += vec4<f32>(bce, p * truth, p, truth);
            hard += vec4<f32>(positive * truth, positive * (1.0 - truth), (1.0 - positive) * truth, 1.0);
        }
    }
    let to = ((params.image_first + image) * params.splits + split) * 2u;
    part[to] = soft;
    part[to + 1u] = hard;
}

// One invocation an image: the splits in order.
@compute @workgroup_size(64)
fn finish_images(id: Invocation) {
    let image = invocation_index(id);
    if (image >= params.images) {
        return;
    }
    var soft = vec4<f32>(0.0);
    var hard = vec4<f32>(0.0);
    for (var s = 0u; s < params.splits; s++) {
        soft += part[(image * params.splits + s) * 2u];
        hard += part[(image * params.splits + s) * 2u + 1u];
    }
    sums_out[image * 2u] = soft;
    sums_out[image * 2u + 1u] = hard;
}

// Reads what it could have as read-only through the binding that wrote it: loss and sums share a buffer, and one
// dispatch uses a buffer in one way.
@compute @workgroup_size(1)
fn total_loss() {
    var bce = 0.0;
    var dice = 0.0;
    var pixels = 0.0;
    for (var n = 0u; n < params.images; n++) {
        let soft = sums_out[n * 2u];
        bce += soft.x;
        dice += (2.0 * soft.y + SMOOTH) / (soft.z + soft.w + SMOOTH);
        pixels += sums_out[n * 2u + 1u].w;
    }
    let a = params.dice_weight;
    loss[0] = (1.0 - a) * bce / max(pixels, 1.0) + a * (1.0 - dice / f32(params.images));
}

fn total_pixels() -> f32 {
    var pixels = 0.0;
    for (var n = 0u; n < params.images; n++) {
        pixels += sums[n * 2u + 1u].w;
    }
    return max(pixels, 1.0);
}

@compute @workgroup_size(64)
fn backward(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.images * params.pixels) {
        return;
    }
    let truth = t[index];
    let p = probability(z[index]);
    let soft = sums[(index / params.pixels) * 2u];
    let below = soft.z + soft.w + SMOOTH;
    let dice_slope = (2.0 * truth * below - (2.0 * soft.y + SMOOTH)) / (below * below);
    let a = params.dice_weight;
    let gradient = (1.0 - a) * (p - truth) / total_pixels() - a * dice_slope * p * (1.0 - p) / f32(params.images);
    dz[index] = select(0.0, gradient * dloss[0], truth >= 0.0);
}
