// Batch normalisation by channel: what its forward and its backward pass share. The importing shader declares the
// type V, PIXELS, FOURS (stored4, stored8), and the bindings params, stats and part: [splits][2][C], two sums of each split.
struct Params {
    pixels: u32,
    // of the channels that an invocation has at once
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

// Of the index-th four channels of a group.
fn channel(group: u32, index: u32) -> Channel {
    let row = params.groups * FOURS;
    let at = group * FOURS + index;
    return Channel(stats[at], stats[row + at], stats[2u * row + at], stats[3u * row + at]);
}

fn channels(group: u32) -> array<Channel, FOURS> {
    var all: array<Channel, FOURS>;
    #unroll
    for (var i = 0u; i < FOURS; i++) {
        all[i] = channel(group, i);
    }
    return all;
}

// The two sums of a split, of the channels of a group.
fn write_part(at: Place, first: array<V, FOURS>, second: array<V, FOURS>) {
    let row = params.groups * FOURS;
    let to = (params.split_first + at.split) * 2u * row + at.group * FOURS;
    #unroll
    for (var i = 0u; i < FOURS; i++) {
        part[to + i] = first[i];
        part[to + row + i] = second[i];
    }
}

// An invocation takes PIXELS pixels, this far apart, so that neighbours read neighbours.
fn pixel_stride() -> u32 {
    return (params.pixels + PIXELS - 1u) / PIXELS;
}
