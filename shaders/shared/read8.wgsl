// What lane8 reads of x: eight channels, stored as f32, normalised.
alias Channels = mat2x4<f32>;

struct ChannelNorms {
    first: Norm,
    second: Norm,
}

fn norms_of(group: u32, groups: u32) -> ChannelNorms {
    return ChannelNorms(norm_of(2u * group, 2u * groups), norm_of(2u * group + 1u, 2u * groups));
}

fn channels_of(value: mat2x4<f32>, norms: ChannelNorms) -> V {
    return V(as_read(value[0], norms.first), as_read(value[1], norms.second));
}
