// Where four channel groups of one pixel lie as the four pixels of a 2x2 square: [N, H, W, 4 C] seen as [N, 2 H, 2 W, C].
// `row` is n * H + h; `groups` counts those of all four; a group's quarter says which pixel of the square it is.
fn depth_to_space(row: u32, w: u32, width: u32, group: u32, groups: u32) -> u32 {
    let inner = groups / 4u;
    let quarter = group / inner;
    return ((row * 2u + quarter / 2u) * (width * 2u) + w * 2u + quarter % 2u) * inner + group % inner;
}
