// An invocation reads eight channels of a pixel at once, stored as f32. See stored4. For software adapters, which take less time
// for one access of eight numbers than for two of four.
alias Group = mat2x4<f32>;
const FOURS: u32 = 2u;

fn part_of(value: Group, index: u32) -> Stored {
    return value[index];
}

fn whole_of(parts: array<Stored, FOURS>) -> Group {
    return Group(parts[0], parts[1]);
}
