// What lane2 reads of x: two channels as they are stored, normalised as the first two of four.
alias Channels = vec2<f32>;
alias ChannelNorms = Norm;

fn pair_of(value: vec4<f32>, pair: u32) -> vec4<f32> {
    return vec4<f32>(select(value.xy, value.zw, pair % 2u == 1u), 0.0, 0.0);
}

fn norms_of(pair: u32, pairs: u32) -> Norm {
    let norm = norm_of(pair / 2u, pairs / 2u);
    return Norm(pair_of(norm.mean, pair), pair_of(norm.scale, pair), pair_of(norm.beta, pair));
}

fn channels_of(value: Channels, norm: Norm) -> V {
    return vec4<f32>(as_read(X(value, Channels()), norm)).xy;
}
