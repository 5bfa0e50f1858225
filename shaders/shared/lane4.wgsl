// An invocation has four channels: V is vec4<f32>. What lane8 has for eight, so that a shader is written once.
alias V = vec4<f32>;
// V of a block of weights, 4 inputs x 8 outputs.
const BLOCK: u32 = 8u;
const V_FLOATS: u32 = 4u;

fn channel(value: V, index: u32) -> f32 {
    return value[index];
}

// Four channels of V, the index-th.
fn four_of(value: V, index: u32) -> vec4<f32> {
    return value;
}

// The index-th V of eight channels.
fn of_fours(fours: array<vec4<f32>, 2>, index: u32) -> V {
    return fours[index];
}

// The value, or zero.
fn kept(value: V, is_kept: bool) -> V {
    return select(vec4<f32>(0.0), value, is_kept);
}

// sum + d d, channel by channel.
fn add_square(d: V, sum: V) -> V {
    return fma(d, d, sum);
}

// Sums of squared deviations from the mean, from those about another value and the total of these.
fn about_mean(squares: V, total: V, count: f32) -> V {
    return max(squares - total * total / count, vec4<f32>(0.0));
}
