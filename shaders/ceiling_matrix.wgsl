// What matrix units can do at best: eight independent chains of products a subgroup, from workgroup memory that was loaded
// once; 16 steps of 8 * 2 * SIDE^3 operations a round. One of the shared matrix files has to be imported before this one.
#import grid

const A_CELLS: u32 = 64u;
const B_CELLS: u32 = 64u;

struct Params {
    len: u32,
    rounds: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

// A matrix for each subgroup of 8 lanes or more.
var<workgroup> scratch: array<f32, 16u * SIDE * SIDE>;

@compute @workgroup_size(128)
fn matrix_multiply_add(
    id: Invocation,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    start(lane);
    if (id.lane < 32u) {
        let value = vec4<f16>(x[(linear_group(id) * 32u + id.lane) % params.len] * 1e-3);
        put_a(id.lane * 2u, value, value);
        put_b(id.lane * 2u, value, value);
    }
    workgroupBarrier();
    let a = load_a(0u, SIDE / 4u);
    let b = load_b(0u, SIDE / 4u);
    var sum: array<MatrixC, 8>;
    for (var chain = 0u; chain < 8u; chain++) {
        sum[chain] = MatrixC();
    }
    for (var round = 0u; round < params.rounds; round++) {
        for (var step = 0u; step < 16u; step++) {
            for (var chain = 0u; chain < 8u; chain++) {
                sum[chain] = multiply_add(a, b, sum[chain]);
            }
        }
    }
    for (var chain = 0u; chain < 8u; chain++) {
        store_c(sum[chain], subgroup * SIDE * SIDE, SIDE);
        workgroupBarrier();
        let at = id.lane % (4u * SIDE);
        y[(linear_group(id) * 128u + id.lane) % params.len] += vec4<f32>(scratch[at * 4u]);
        workgroupBarrier();
    }
}
