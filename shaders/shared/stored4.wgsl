// What an invocation reads of a pixel at once: Stored, four channels or the only one. What stored8 has for eight, so that a
// shader is written once. The importing shader declares Stored.
alias Group = Stored;
// Stored of a Group.
const FOURS: u32 = 1u;

fn part_of(value: Group, index: u32) -> Stored {
    return value;
}

fn whole_of(parts: array<Stored, FOURS>) -> Group {
    return parts[0];
}
