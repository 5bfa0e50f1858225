// part[first] + part[first + stride] + ..., always in the same order. The importing shader declares V and the binding part.
fn ordered_sum(first: u32, stride: u32, count: u32) -> V {
    // Four running sums hide the latency of the additions and halve the rounding twice.
    var a = V(0.0);
    var b = V(0.0);
    var c = V(0.0);
    var d = V(0.0);
    var s = 0u;
    for (; s + 4u <= count; s += 4u) {
        let at = first + s * stride;
        a += part[at];
        b += part[at + stride];
        c += part[at + 2u * stride];
        d += part[at + 3u * stride];
    }
    for (; s < count; s++) {
        a += part[first + s * stride];
    }
    return (a + b) + (c + d);
}
