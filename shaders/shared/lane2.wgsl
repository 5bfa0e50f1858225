// An invocation has two channels: V is vec2<f32>. See lane4. For GPUs with few registers, and tiles of many numbers.
alias V = vec2<f32>;
const BLOCK: u32 = 16u;
const V_FLOATS: u32 = 2u;

fn kept(value: V, is_kept: bool) -> V {
    return select(vec2<f32>(0.0), value, is_kept);
}

fn add_square(d: V, sum: V) -> V {
    return fma(d, d, sum);
}

fn about_mean(squares: V, total: V, count: f32) -> V {
    return max(squares - total * total / count, vec2<f32>(0.0));
}
