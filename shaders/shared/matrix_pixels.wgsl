// What conv2d_matrix does by eights: how it reads x, and how it writes y. The importing shader declares Y_SQUARES, params, bias and
// y.
fn x_units() -> u32 {
    return params.x_groups / 2u;
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

// From where a share keeps them to y: WRITTEN matrices side by side, from that eight of outputs on, so many rows of them, which are
// pixels beside one another.
fn write_rows(within: Within, share: u32, pixel: u32, rows: u32, eight: u32) {
    const EIGHTS_WRITTEN: u32 = WRITTEN_OUTS / 8u;
    workgroupBarrier();
    for (var e = within.lane; e < SIDE * EIGHTS_WRITTEN && share < SHARES; e += within.lanes) {
        let row = e / EIGHTS_WRITTEN;
        let at = scratch_of(share) + row * SCRATCH_STRIDE + e % EIGHTS_WRITTEN * 8u;
        if (row < rows) {
            finish(pixel + row, eight + e % EIGHTS_WRITTEN, scratch_at(at), scratch_at(at + 4u));
        }
    }
    workgroupBarrier();
}

// A group of four of y, as it is stored.
fn stored_y(at: u32) -> vec4<f32> {
    let eight = y[at / 2u];
    return vec4<f32>(select(eight.low, eight.high, at % 2u == 1u));
}
