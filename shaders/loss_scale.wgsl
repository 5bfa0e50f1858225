// Dynamic loss scaling (Micikevicius et al. 2018, "Mixed precision training"): gradients stored as f16 would vanish, so
// that the loss is multiplied by a scale; where a gradient overflows, the step is skipped and the scale halved.
//
//   g        [len]    f32: the flat gradients, scaled
//   part     [parts]  f32: 1 where a part of them holds an infinity or none at all, else 0
//   step     [4]      f32: learning rate, number of the step (from 1), 0, 0
//   state    [4]      f32: scale, steps since it last changed, steps skipped, 0
//   sizes    [4]      f32: lr, lr / (1 - b1^t), 1 / sqrt(1 - b2^t), 1 / scale; the last is 0 where the step is skipped;
//                     t counts the steps that were not
//   report   [4]      f32: the state after the step, for the host
//   weight   [1]      f32: of a micro-batch within its step
//   dloss    [1]      f32: scale * weight, where the backward pass of a micro-batch starts
//
// `scan`: an invocation owns a part of the gradients. `update`: SUM_LANES, which add up the parts.
#import grid

struct Params {
    len: u32,
    part_len: u32,
    first_part: u32,
    parts: u32,
    growth_interval: f32,
    least: f32,
    most: f32,
    log_beta1: f32,
    log_beta2: f32,
}

@group(0) @binding(0) var<storage, read> g: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> part: array<f32>;
@group(0) @binding(2) var<storage, read> step: array<f32>;
@group(0) @binding(3) var<storage, read_write> state: array<f32>;
@group(0) @binding(4) var<storage, read_write> sizes: array<f32>;
@group(0) @binding(5) var<storage, read_write> report: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;
@group(0) @binding(7) var<storage, read> weight: array<f32>;
@group(0) @binding(8) var<storage, read_write> dloss: array<f32>;

alias V = f32;

#import ordered_sum

// By its bits: compilers may assume that floats are numbers. Neighbours read neighbours.
@compute @workgroup_size(64)
fn scan(id: Invocation) {
    let index = invocation_index(id);
    if (index >= params.parts) {
        return;
    }
    var found = vec4<bool>(false);
    for (var k = 0u; k < params.part_len; k++) {
        let at = k * params.parts + index;
        if (at < params.len) {
            found = found | ((g[at] & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u));
        }
    }
    part[params.first_part + index] = select(0.0, 1.0, any(found));
}

// 1 - exp(x) for x <= 0, without the cancellation near zero.
fn correction(x: f32) -> f32 {
    if (x < -0.25) {
        return 1.0 - exp(x);
    }
    return -x * (1.0 + x / 2.0 * (1.0 + x / 3.0 * (1.0 + x / 4.0 * (1.0 + x / 5.0 * (1.0 + x / 6.0)))));
}

@compute @workgroup_size(SUM_GROUP)
fn update(id: Invocation) {
    let bad = ordered_sum(id, 0u, 1u, params.parts);
    if (id.lane > 0u) {
        return;
    }
    let scale = state[0];
    var next = scale;
    var good = state[1] + 1.0;
    var skipped = state[2];
    if (bad > 0.0) {
        next = max(scale * 0.5, params.least);
        good = 0.0;
        skipped += 1.0;
    } else if (good >= params.growth_interval) {
        next = min(scale * 2.0, params.most);
        good = 0.0;
    }
    let taken = max(step[1] - skipped, 1.0);
    sizes[0] = step[0];
    sizes[1] = step[0] / correction(taken * params.log_beta1);
    sizes[2] = inverseSqrt(correction(taken * params.log_beta2));
    sizes[3] = select(1.0 / scale, 0.0, bad > 0.0);
    state[0] = next;
    state[1] = good;
    state[2] = skipped;
    report[0] = next;
    report[1] = good;
    report[2] = skipped;
    report[3] = 0.0;
}

@compute @workgroup_size(1)
fn seed() {
    dloss[0] = state[0] * weight[0];
}
