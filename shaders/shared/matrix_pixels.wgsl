// What conv2d_matrix reads of x: where a pixel's channels are, without a division in its loop. The importing shader declares
// K, X_SQUARES and params.

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
