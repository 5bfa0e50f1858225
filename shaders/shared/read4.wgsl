// What lane4 reads of x: four channels as they are stored, normalised.
alias Channels = X;
alias ChannelNorms = Norm;

fn norms_of(group: u32, groups: u32) -> Norm {
    return norm_of(group, groups);
}

fn channels_of(value: X, norm: Norm) -> V {
    return vec4<f32>(as_read(value, norm));
}
