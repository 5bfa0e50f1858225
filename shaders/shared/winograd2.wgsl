// Winograd's F(2x2, 3x3): tiles of 2 x 2 outputs, which look at 4 x 4 inputs, and the transforms along one of the two
// sides. V, two channels, four or eight, comes from lane2, lane4 or lane8.
const TILE: u32 = 2u;
const SIDE: u32 = 4u;
const PRODUCTS: u32 = 16u;

// B' d
fn gather(d: array<V, 4>) -> array<V, 4> {
    return array<V, 4>(d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]);
}

// A' d
fn fold(d: array<V, 4>) -> array<V, 2> {
    return array<V, 2>(d[0] + d[1] + d[2], d[1] - d[2] - d[3]);
}

// A d
fn unfold(d: array<V, 2>) -> array<V, 4> {
    return array<V, 4>(d[0], d[0] + d[1], d[0] - d[1], -1.0 * d[1]);
}

// G g
fn spread(g: array<V, 3>) -> array<V, 4> {
    let even = 0.5 * (g[0] + g[2]);
    let odd = 0.5 * g[1];
    return array<V, 4>(g[0], even + odd, even - odd, g[2]);
}

// G' d. A product last: see winograd4.
fn narrow(d: array<V, 4>) -> array<V, 3> {
    let even = d[1] + d[2];
    return array<V, 3>(0.5 * (2.0 * d[0] + even), 0.5 * (d[1] - d[2]), 0.5 * (even + 2.0 * d[3]));
}
