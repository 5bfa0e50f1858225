// What the kernels of convolutions on matrix units have in common: the tile that a workgroup owns, PIXELS x OUTS of y, what they bind, how
// they read x by eights, and how they write y. To be imported after matrix_shares and before normalised_read and tile_moments, by a shader
// that declares Y_SQUARES.
alias X = vec4<f16>;
const LANES: u32 = 128u;
const PIXELS: u32 = 128u;
const OUTS: u32 = 128u;
const SHARES_M: u32 = 2u;
const SHARES_N: u32 = 2u;
const SHARES_K: u32 = 1u;
const ROWS_OF_SHARE: u32 = PIXELS / SHARES_M;
const OUTS_OF_SHARE: u32 = OUTS / SHARES_N;
// The tile as gather_moments sees it.
const TILE_PIXELS: u32 = PIXELS;
const TILE_CELLS: u32 = OUTS / 4u;
const TILE_LANES: u32 = LANES;

struct Params {
    pixels: u32,
    height: u32,
    width: u32,
    x_groups: u32,
    weight_groups: u32,
    weight_first: u32,
    out_groups: u32,
    pixel_tiles: u32,
    // 0: the bias, 1: what y holds, 2: zero
    start_from: u32,
    moments_first: u32,
    // Of a second source that is added in the same go: its channels, and where they begin in the weight.
    second_groups: u32,
    second_first: u32,
}

@group(0) @binding(0) var<storage, read> x: array<Eight>;
@group(0) @binding(1) var<storage, read> w: array<Eight>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<Eight>;
@group(0) @binding(4) var<uniform> params: Params;
@group(0) @binding(5) var<storage, read> coefficients: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> moments: array<vec4<f32>>;

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
