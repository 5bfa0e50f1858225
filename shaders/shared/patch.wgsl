// What a training patch is made of: drawn by the host from (seed, epoch, sample, draw), 39 words (ops/warp.rs).
struct Patch {
    // where the sample lies: its chunk, and the first words there of its planes and of its intensity (or NONE)
    chunk: u32,
    planes: u32,
    intensity: u32,
    height: u32,
    width: u32,
    // 1: what lies outside the image is its mirror image; 0: it is 0
    mirror: u32,
    seed_a: u32,
    seed_b: u32,
    // source = (yy, yx; xy, xx) * centred + (y0, x0), rows and columns in pixels
    yy: f32,
    yx: f32,
    y0: f32,
    xy: f32,
    xx: f32,
    x0: f32,
    // factor of the smoothed noise; 0 where the patch is not displaced
    displacement: f32,
    // of the intensity: factor, exponent, deviation of added noise, deviation of the blur in px
    gain: f32,
    gamma: f32,
    noise: f32,
    blur: f32,
    // top, left, bottom, right of each blanked rectangle; empty where bottom is 0
    holes: array<u32, 20>,
}
