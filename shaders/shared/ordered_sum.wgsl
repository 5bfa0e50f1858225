// part[first] + part[first + stride] + ..., always in the same order. Where there are many terms and few sums, SUM_LANES invocations share
// a sum: they take turns with its terms, then add up what they have by halves. The importing shader declares V and the binding part.
const SUM_LANES: u32 = 1u;
// Invocations of a workgroup, and sums that they have together.
const SUM_GROUP: u32 = 64u;
const SUMS: u32 = SUM_GROUP / SUM_LANES;

var<workgroup> shares: array<V, SUM_GROUP>;

// Which sum, and which of those who share it.
struct SumPlace {
    index: u32,
    lane: u32,
}

// Neighbours have neighbouring sums.
fn sum_place(id: Invocation) -> SumPlace {
    return SumPlace(linear_group(id) * SUMS + id.lane % SUMS, id.lane / SUMS);
}

// All invocations of a workgroup call it together.
fn ordered_sum(id: Invocation, first: u32, stride: u32, count: u32) -> V {
    // Four running sums hide the latency of loads and additions, and halve the rounding twice.
    var a = V();
    var b = V();
    var c = V();
    var d = V();
    let step = SUM_LANES * stride;
    var s = sum_place(id).lane;
    for (; s + 3u * SUM_LANES < count; s += 4u * SUM_LANES) {
        let at = first + s * stride;
        a += part[at];
        b += part[at + step];
        c += part[at + 2u * step];
        d += part[at + 3u * step];
    }
    for (; s < count; s += SUM_LANES) {
        a += part[first + s * stride];
    }
    let own = (a + b) + (c + d);
    if (SUM_LANES == 1u) {
        return own;
    }
    shares[id.lane] = own;
    workgroupBarrier();
    for (var apart = SUM_GROUP / 2u; apart >= SUMS; apart /= 2u) {
        if (id.lane < apart) {
            shares[id.lane] += shares[id.lane + apart];
        }
        workgroupBarrier();
    }
    let total = shares[id.lane % SUMS];
    // Another sum may follow in the same place.
    workgroupBarrier();
    return total;
}
