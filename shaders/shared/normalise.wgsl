// Batch normalisation by channel: what its forward and its backward pass share. The importing shader declares the
// type V, PIXELS, and the bindings params and stats.
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
    // of the pooled image, where there is one
    width: u32,
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
    scale: V,
    beta: V,
    inv_std: V,
}

// The same expression forward, backward and by readers (shared/normalised_read), so that the ReLU's mask and what is read
// are the same to the bit. `centred` is x - mean.
fn affine(centred: V, c: Channel) -> V {
    return fma(centred, c.scale, c.beta);
}

fn channel(group: u32) -> Channel {
    let groups = params.groups;
    return Channel(stats[group], stats[groups + group], stats[2u * groups + group], stats[3u * groups + group]);
}

// An invocation takes PIXELS pixels, this far apart, so that neighbours read neighbours.
fn pixel_stride() -> u32 {
    return (params.pixels + PIXELS - 1u) / PIXELS;
}
