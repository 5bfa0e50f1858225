// What conv2d_matrix reads of x, without a division in its loop, and how it writes y. The importing shader declares K,
// X_SQUARES, Y_SQUARES, params, bias and y.

// Where the channels of a pixel begin in x, in eights, and a bit for each tap that reads within the image.
struct Pixel {
    at: u32,
    taps: u32,
}

fn pixel_of(pixel: u32) -> Pixel {
    let eights = params.x_groups / 2u;
    let w = pixel % params.width;
    let row = pixel / params.width;
    var taps = 0u;
    for (var tap = 0u; tap < K * K; tap++) {
        let tap_h = row % params.height + tap / K - K / 2u;
        let tap_w = w + tap % K - K / 2u;
        taps |= select(0u, 1u << tap, pixel < params.pixels && tap_h < params.height && tap_w < params.width);
    }
    if (X_SQUARES) {
        return Pixel(depth_to_space(row, w, params.width, 0u, eights), taps);
    }
    return Pixel(pixel * eights, taps);
}

// What is to be added to Pixel.at for the channels that start at `eight`, of the pixel that a tap reads.
fn offset_of(tap: u32, eight: u32) -> u32 {
    let eights = params.x_groups / 2u;
    if (X_SQUARES) {
        return depth_to_space(0u, 0u, params.width, eight, eights);
    }
    return ((tap / K - K / 2u) * params.width + tap % K - K / 2u) * eights + eight;
}

// Sums of eight outputs of a pixel.
fn finish(pixel: u32, eight: u32, low_sum: vec4<f32>, high_sum: vec4<f32>) {
    let eights = params.out_groups / 2u;
    if (pixel >= params.pixels || eight >= eights) {
        return;
    }
    var at = pixel * eights + eight;
    if (Y_SQUARES) {
        at = depth_to_space(pixel / params.width, pixel % params.width, params.width, eight, eights);
    }
    var low = low_sum;
    var high = high_sum;
    if (params.start_from == 0u) {
        // A square's pixels share the bias.
        let first = 2u * select(eight, eight % (eights / 4u), Y_SQUARES);
        low += bias[first];
        high += bias[first + 1u];
    } else if (params.start_from == 1u) {
        let held = y[at];
        low += vec4<f32>(held.low);
        high += vec4<f32>(held.high);
    }
    y[at] = Eight(vec4<f16>(low), vec4<f16>(high));
}

// A group of four of y, as it is stored.
fn stored_y(at: u32) -> vec4<f32> {
    let eight = y[at / 2u];
    return vec4<f32>(select(eight.low, eight.high, at % 2u == 1u));
}
