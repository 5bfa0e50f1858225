// Sums over a workgroup in a fixed order: the same bits on every run. REDUCE_WIDTH is the workgroup's size, a power of two.
const REDUCE_WIDTH: u32 = 64u;
var<workgroup> reduce_scratch: array<vec4<f32>, REDUCE_WIDTH>;

fn workgroup_sum(value: vec4<f32>, lane: u32) -> vec4<f32> {
    reduce_scratch[lane] = value;
    workgroupBarrier();
    for (var stride = REDUCE_WIDTH / 2u; stride > 0u; stride = stride / 2u) {
        if (lane < stride) {
            reduce_scratch[lane] += reduce_scratch[lane + stride];
        }
        workgroupBarrier();
    }
    let total = reduce_scratch[0];
    workgroupBarrier();
    return total;
}
