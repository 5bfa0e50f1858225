// What normalised_read does for four channels, for eight: to be imported after it.
struct NormOfEight {
    low: Norm,
    high: Norm,
}

fn norm_of_eight(eight: u32, groups: u32) -> NormOfEight {
    return NormOfEight(norm_of(eight * 2u, groups), norm_of(eight * 2u + 1u, groups));
}

fn eight_as_read_before(value: Eight, c: NormOfEight, inside: bool) -> Eight {
    return Eight(as_read_before(value.low, c.low, inside), as_read_before(value.high, c.high, inside));
}
