// The attention gate's signal: what its forward and its backward pass share. The importing shader declares the type
// Stored, and the bindings params, a, b and table.
struct Params {
    pixels: u32,
    groups: u32,
    pixels_per_split: u32,
    splits: u32,
    split_first: u32,
    total_pixels: u32,
    training: u32,
    accumulate: u32,
}

// What the pixels of a channel group share: the rows of the table. With scale = gamma / sqrt(variance + eps) and
// shift = beta_a + beta_b, norm(a) + norm(b) = (a - mean_a) * scale_a + (b - mean_b) * scale_b + shift.
struct Channel {
    mean_a: vec4<f32>,
    inv_a: vec4<f32>,
    scale_a: vec4<f32>,
    mean_b: vec4<f32>,
    inv_b: vec4<f32>,
    scale_b: vec4<f32>,
    shift: vec4<f32>,
    weight: vec4<f32>,
}

fn channel(group: u32) -> Channel {
    let n = params.groups;
    return Channel(
        table[group], table[n + group], table[2u * n + group], table[3u * n + group],
        table[4u * n + group], table[5u * n + group], table[6u * n + group], table[7u * n + group],
    );
}

// a - mean_a, b - mean_b, and z = norm(a) + norm(b): the same expression wherever it is computed, so that the ReLU's mask
// is the same to the bit.
struct Pixel {
    a: vec4<f32>,
    b: vec4<f32>,
    z: vec4<f32>,
}

fn pixel_at(index: u32, c: Channel) -> Pixel {
    let from_a = vec4<f32>(a[index]) - c.mean_a;
    let from_b = vec4<f32>(b[index]) - c.mean_b;
    return Pixel(from_a, from_b, fma(from_a, c.scale_a, fma(from_b, c.scale_b, c.shift)));
}
