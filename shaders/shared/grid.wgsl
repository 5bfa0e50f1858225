// The grid is one row of workgroups, folded into rows of ROW where it is longer than 65,535 (the limit of a dimension). Not by
// `num_workgroups`: on DX12 that is right in an entry point alone, and elsewhere the workgroup's own number.
const ROW = 1024u;

struct Invocation {
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
}

fn linear_group(id: Invocation) -> u32 {
    return id.workgroup.x + id.workgroup.y * ROW;
}

// The number of an invocation, in workgroups of 64.
fn invocation_index(id: Invocation) -> u32 {
    return linear_group(id) * 64u + id.lane;
}
