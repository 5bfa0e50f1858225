// How subgroups share a workgroup's tile of a product on matrix units. The importing shader declares SHARES_M, SHARES_N and
// SHARES_K, into how many parts rows, columns and what is summed over are divided, and ROWS_OF_SHARE and OUTS_OF_SHARE, what is left of them.
// Where in the workgroup an invocation is.
struct Within {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
}

// Eight channels, read and written in one go.
struct Eight {
    low: vec4<f16>,
    high: vec4<f16>,
}

const SHARES: u32 = SHARES_M * SHARES_N * SHARES_K;
// Matrices of a share, and how many of a row of them are written at a time.
const TILES_M: u32 = ROWS_OF_SHARE / SIDE;
const TILES_N: u32 = OUTS_OF_SHARE / SIDE;
const TILES: u32 = TILES_M * TILES_N;
const WRITTEN: u32 = min(TILES_N, 32u / SIDE);
const WRITTEN_OUTS: u32 = WRITTEN * SIDE;
// WRITTEN matrices for each share, and for subgroups that have none; rows four numbers longer, to lie in different banks.
const SCRATCH_STRIDE: u32 = WRITTEN_OUTS + 4u;

var<workgroup> scratch: array<f32, (SHARES + 1u) * SIDE * SCRATCH_STRIDE>;
var<workgroup> subgroup_count: u32;

// Provably the same for all invocations, as what depends on it has barriers.
fn count_of_subgroups(id: Invocation, within: Within) -> u32 {
    if (id.lane == 0u) {
        subgroup_count = within.subgroups;
    }
    let count = workgroupUniformLoad(&subgroup_count);
    return count;
}

// Where a share keeps what it is about to write; those that are none keep it together.
fn scratch_of(share: u32) -> u32 {
    return min(share, SHARES) * SIDE * SCRATCH_STRIDE;
}

// Four numbers of scratch.
fn scratch_at(at: u32) -> vec4<f32> {
    return vec4<f32>(scratch[at], scratch[at + 1u], scratch[at + 2u], scratch[at + 3u]);
}
