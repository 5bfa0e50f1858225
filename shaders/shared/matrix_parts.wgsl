// What the kernels of a weight's gradient on matrix units have in common: the tile that a workgroup owns, CHANNELS x OUTS of a tap, who
// carries what of x and dy to workgroup memory, and where the sums go. To be imported after matrix_shares, by a shader that declares
// params and part_out.
const LANES: u32 = 128u;
const CHANNELS: u32 = 128u;
const OUTS: u32 = 128u;
const SHARES_M: u32 = 2u;
const SHARES_N: u32 = 2u;
// Parts of DEPTH, whose sums are splits of their own.
const SHARES_K: u32 = 1u;
const ROWS_OF_SHARE: u32 = CHANNELS / SHARES_M;
const OUTS_OF_SHARE: u32 = OUTS / SHARES_N;
// Pixels a step.
const DEPTH: u32 = 32u;
// A pixel of a tile, in cells of four halves: two more than there are, so that pixels lie in different banks.
const X_STRIDE: u32 = CHANNELS / 4u + 2u;
const Y_STRIDE: u32 = OUTS / 4u + 2u;
// Invocations side by side carry a pixel, eight channels each; then come the pixels that others carry meanwhile.
const X_EIGHTS: u32 = CHANNELS / 8u;
const Y_EIGHTS: u32 = OUTS / 8u;
const X_ROWS: u32 = LANES / X_EIGHTS;
const Y_ROWS: u32 = LANES / Y_EIGHTS;

// From where a share keeps them to part: WRITTEN matrices side by side, from that row of all splits and taps and that cell of it on, where
// they are `wanted`: a workgroup beyond the last has a split that there is not.
fn write_sums(within: Within, wanted: bool, share: u32, row: u32, cell: u32) {
    const CELLS: u32 = WRITTEN_OUTS / 4u;
    workgroupBarrier();
    for (var e = within.lane; e < SIDE * CELLS && share < SHARES && wanted; e += within.lanes) {
        let at = (row + e / CELLS) * params.out_tiles * (OUTS / 4u) + cell + e % CELLS;
        part_out[at] = scratch_at(scratch_of(share) + e / CELLS * SCRATCH_STRIDE + e % CELLS * 4u);
    }
    workgroupBarrier();
}
