// A workgroup's part of a matrix product in f32, 128 rows by 64 outputs, through workgroup memory: 16 channels at a time, in a
// fixed order. Each of 128 invocations owns 8 x 8 sums.
const PRODUCT_LANES: u32 = 128u;
const PRODUCT_ROWS: u32 = 128u;
const PRODUCT_OUTS: u32 = 64u;
const PRODUCT_CHANNELS: u32 = 16u;
// Of these, those that are not all zeros.
const PRODUCT_USED: u32 = 16u;
// Whether what the next step needs is on its way to registers while products are added, and how many channels are added at once: where
// registers are few (`few_registers`) it comes when it is needed, one channel after the other, since a driver may need twice the
// registers for sums that change more than once a round (Intel's).
const PRODUCT_AHEAD: bool = true;
const PRODUCT_TOGETHER: u32 = 4u;
const RIGHT_STRIDE: u32 = PRODUCT_OUTS / 4u;
// Groups of channels a step: as many invocations carry those of a row of `left`, others the rows that follow.
const STEP_GROUPS: u32 = PRODUCT_CHANNELS / 4u;
const LEFT_ROWS: u32 = PRODUCT_LANES / STEP_GROUPS;
const LEFT_EACH: u32 = PRODUCT_ROWS / LEFT_ROWS;
// Rows of `right` that go together, likewise.
const RIGHT_ROWS: u32 = PRODUCT_LANES / RIGHT_STRIDE;
const RIGHT_EACH: u32 = PRODUCT_CHANNELS / RIGHT_ROWS;
const_assert PRODUCT_USED % 4u == 0u && 4u % PRODUCT_TOGETHER == 0u && LEFT_ROWS % (8u * STEP_GROUPS) == 0u;

// [channel][row], numbers of their own since each comes from another invocation, and [channel][outputs / 4]
var<workgroup> left: array<f32, PRODUCT_CHANNELS * PRODUCT_ROWS>;
var<workgroup> right: array<vec4<f32>, PRODUCT_CHANNELS * RIGHT_STRIDE>;

// Eight rows by two groups of four outputs.
alias Sums = array<vec4<f32>, 16>;

// Blocks of eight rows change places with the channel's group: four groups of a row, written at once, go to other banks.
fn left_at(channel: u32, row: u32) -> u32 {
    return channel * PRODUCT_ROWS + (row ^ (channel / 4u * 8u));
}

// Four channels of a row, one of LEFT_EACH that are LEFT_ROWS apart, a multiple of the rows among which blocks change places:
// so all addresses are one, and constants.
fn put_left(row: u32, i: u32, group: u32, value: vec4<f32>) {
    let at = left_at(group * 4u, row) + i * LEFT_ROWS;
    #unroll
    for (var k = 0u; k < 4u; k++) {
        left[at + k * PRODUCT_ROWS] = value[k];
    }
}

// The invocation's first row, and its two groups of outputs: neighbours read neighbouring groups, of different banks.
fn first_row(lane: u32) -> u32 {
    return lane / 8u * 8u;
}

fn out_group(lane: u32, half: u32) -> u32 {
    return lane % 8u + half * 8u;
}

fn add_products(sums: ptr<function, Sums>, lane: u32) {
    for (var channel = 0u; channel < PRODUCT_USED; channel += PRODUCT_TOGETHER) {
        let row = left_at(channel, first_row(lane));
        // Addresses are constants then, which a load brings along.
        #unroll
        for (var k = 0u; k < PRODUCT_TOGETHER; k++) {
            let at = row + k * PRODUCT_ROWS;
            let a = vec4<f32>(left[at], left[at + 1u], left[at + 2u], left[at + 3u]);
            let b = vec4<f32>(left[at + 4u], left[at + 5u], left[at + 6u], left[at + 7u]);
            let c = (channel + k) * RIGHT_STRIDE;
            let v = right[c + out_group(lane, 0u)];
            let w = right[c + out_group(lane, 1u)];
            #unroll
            for (var p = 0u; p < 4u; p++) {
                (*sums)[p * 2u] = fma(vec4<f32>(a[p]), v, (*sums)[p * 2u]);
                (*sums)[p * 2u + 1u] = fma(vec4<f32>(a[p]), w, (*sums)[p * 2u + 1u]);
                (*sums)[p * 2u + 8u] = fma(vec4<f32>(b[p]), v, (*sums)[p * 2u + 8u]);
                (*sums)[p * 2u + 9u] = fma(vec4<f32>(b[p]), w, (*sums)[p * 2u + 9u]);
            }
        }
    }
}
