// What an implicit matrix product reads of x, without a division in its loop. The importing shader declares K, X_SQUARES,
// params, and in how many units the channels of a pixel are read (`x_units`).

// Where the channels of a pixel begin in x, in units, and a bit for each tap that reads within the image.
struct Pixel {
    at: u32,
    taps: u32,
}

fn pixel_of(pixel: u32) -> Pixel {
    let w = pixel % params.width;
    let row = pixel / params.width;
    var taps = 0u;
    for (var tap = 0u; tap < K * K; tap++) {
        let tap_h = row % params.height + tap / K - K / 2u;
        let tap_w = w + tap % K - K / 2u;
        taps |= select(0u, 1u << tap, pixel < params.pixels && tap_h < params.height && tap_w < params.width);
    }
    if (X_SQUARES) {
        return Pixel(depth_to_space(row, w, params.width, 0u, x_units()), taps);
    }
    return Pixel(pixel * x_units(), taps);
}

// What is to be added to Pixel.at for a unit of the pixel that a tap reads.
fn offset_of(tap: u32, unit: u32) -> u32 {
    if (X_SQUARES) {
        return depth_to_space(0u, 0u, params.width, unit, x_units());
    }
    return ((tap / K - K / 2u) * params.width + tap % K - K / 2u) * x_units() + unit;
}

// The bit of a tap, none where there is nothing to be read: one test for each pixel instead of two.
fn tap_wanted(tap: u32, is_wanted: bool) -> u32 {
    return select(0u, 1u << tap, is_wanted);
}

fn reads_within(pixel: Pixel, wanted: u32) -> bool {
    return (pixel.taps & wanted) != 0u;
}
