// Batch normalisation by channel: what its forward and its backward pass share. The importing shader declares the
// type V, PIXELS, and the bindings params, stats, gamma and beta.
struct Params {
    pixels: u32,
    groups: u32,
    pixels_per_split: u32,
    splits: u32,
    split_first: u32,
    slices: u32,
    total_pixels: u32,
    training: u32,
    accumulate: u32,
    eps: f32,
    momentum: f32,
}

struct Place {
    group: u32,
    split: u32,
}

fn place(id: Invocation) -> Place {
    let index = invocation_index(id);
    return Place(index % params.groups, index / params.groups);
}

// What a channel group's pixels share, loaded once by an invocation that takes several of them.
struct Channel {
    mean: V,
    inv_std: V,
    gamma: V,
    beta: V,
}

fn normalised(value: V, c: Channel) -> V {
    return (value - c.mean) * c.inv_std;
}

// The same expression forward and backward, so that the ReLU's mask is the same to the bit.
fn affine(xhat: V, c: Channel) -> V {
    return fma(xhat, c.gamma, c.beta);
}

fn channel(group: u32) -> Channel {
    return Channel(stats[group], stats[params.groups + group], gamma[group], beta[group]);
}

// An invocation takes PIXELS pixels, this far apart, so that neighbours read neighbours.
fn pixel_stride() -> u32 {
    return (params.pixels + PIXELS - 1u) / PIXELS;
}
