// A dispatch that does one thing to the weights of several layers: their jobs' workgroups of 64 follow one another. The importing shader
// declares struct Job: multiples of four u32, of which first_group, weight_at and result_at come first (see tape/ahead.rs).
struct Params {
    count: u32,
    unused_0: u32,
    unused_1: u32,
    unused_2: u32,
    jobs: array<Job, 64>,
}

// The job that a workgroup has a part in.
fn job_of(group: u32) -> Job {
    var low = 0u;
    var high = params.count;
    while (low + 1u < high) {
        let middle = (low + high) / 2u;
        if (params.jobs[middle].first_group <= group) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return params.jobs[low];
}

// The number of an invocation within its job.
fn index_in(job: Job, id: Invocation) -> u32 {
    return (linear_group(id) - job.first_group) * 64u + id.lane;
}
