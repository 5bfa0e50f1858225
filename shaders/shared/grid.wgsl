// The grid is one row of workgroups, folded into rows of 65,535 where it is longer (the limit of a dimension).
fn linear_group(workgroup_id: vec3<u32>, num_workgroups: vec3<u32>) -> u32 {
    return workgroup_id.x + workgroup_id.y * num_workgroups.x;
}
