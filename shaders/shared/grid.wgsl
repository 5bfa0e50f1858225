// The grid is one row of workgroups, folded into several where it is longer than 65,535 (the limit of a dimension).
struct Invocation {
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
}

fn linear_group(id: Invocation) -> u32 {
    return id.workgroup.x + id.workgroup.y * id.workgroups.x;
}

// The number of an invocation, in workgroups of 64.
fn invocation_index(id: Invocation) -> u32 {
    return linear_group(id) * 64u + id.lane;
}
