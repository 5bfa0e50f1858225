// An invocation has eight channels: V is mat2x4<f32>, four in a column. See lane4. For software adapters, which take less
// time for one access of eight numbers than for two of four.
alias V = mat2x4<f32>;
const BLOCK: u32 = 4u;
const V_FLOATS: u32 = 8u;

fn channel(value: V, index: u32) -> f32 {
    return value[index / 4u][index % 4u];
}

fn four_of(value: V, index: u32) -> vec4<f32> {
    return value[index];
}

fn of_fours(fours: array<vec4<f32>, 2>, index: u32) -> V {
    return V(fours[0], fours[1]);
}

fn kept(value: V, is_kept: bool) -> V {
    return V(select(vec4<f32>(0.0), value[0], is_kept), select(vec4<f32>(0.0), value[1], is_kept));
}

fn add_square(d: V, sum: V) -> V {
    return V(fma(d[0], d[0], sum[0]), fma(d[1], d[1], sum[1]));
}

fn about_mean(squares: V, total: V, count: f32) -> V {
    return V(
        max(squares[0] - total[0] * total[0] / count, vec4<f32>(0.0)),
        max(squares[1] - total[1] * total[1] / count, vec4<f32>(0.0)),
    );
}
