// Moments of a tile of y [P, C] that the workgroup has just stored, read while it is still in a cache, for the batch norm
// that follows: mean and sum of squared deviations by channel. The importing shader declares TILE_PIXELS, TILE_CELLS (groups
// of four outputs), TILE_LANES (invocations, a multiple of these), how many pixels of y a place in the tile is behind its first
// (`in_tile`), how to read a group of y (`stored_y`), and the binding moments [tiles][2][C].
const TILE_ROWS: u32 = TILE_PIXELS * TILE_CELLS / TILE_LANES;

var<workgroup> tile_means: array<vec4<f32>, TILE_LANES>;
var<workgroup> tile_squares: array<vec4<f32>, TILE_LANES>;

// Pixels from there on that an invocation takes: of patches, which are whole, always all.
fn rows_of(from_pixel: u32, pixels: u32) -> u32 {
    return min(max(pixels, from_pixel) - from_pixel, TILE_ROWS);
}

// `pixels` and `groups` are those of y; the tile begins at pixel0 and group0. All invocations do this together.
fn gather_moments(lane: u32, tile: u32, pixel0: u32, group0: u32, pixels: u32, groups: u32) {
    storageBarrier();
    workgroupBarrier();
    let group = group0 + lane % TILE_CELLS;
    let from_place = lane / TILE_CELLS * TILE_ROWS;
    let rows = select(0u, rows_of(pixel0 + from_place, pixels), group < groups);
    var count = f32(rows);
    var mean = vec4<f32>(0.0);
    var squares = vec4<f32>(0.0);
    if (rows > 0u) {
        // About the first value, so that large means do not cancel.
        let shift = stored_y((pixel0 + in_tile(from_place)) * groups + group);
        var total = vec4<f32>(0.0);
        for (var row = 0u; row < rows; row++) {
            let d = stored_y((pixel0 + in_tile(from_place + row)) * groups + group) - shift;
            total += d;
            squares = fma(d, d, squares);
        }
        mean = shift + total / count;
        squares = max(squares - total * total / count, vec4<f32>(0.0));
    }
    tile_means[lane] = mean;
    tile_squares[lane] = squares;
    workgroupBarrier();
    if (lane >= TILE_CELLS || group >= groups) {
        return;
    }
    // Chan, Golub, LeVeque 1979; in order.
    for (var other = lane + TILE_CELLS; other < TILE_LANES; other += TILE_CELLS) {
        let added = f32(rows_of(pixel0 + other / TILE_CELLS * TILE_ROWS, pixels));
        if (added > 0.0) {
            let delta = tile_means[other] - mean;
            let share = added / (count + added);
            mean += delta * share;
            squares += tile_squares[other] + delta * delta * (count * share);
            count += added;
        }
    }
    moments[tile * 2u * groups + group] = mean;
    moments[(tile * 2u + 1u) * groups + group] = squares;
}
