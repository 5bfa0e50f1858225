// Winograd's F(4x4, 3x3): tiles of 4 x 4 outputs, which look at 6 x 6 inputs, and the transforms along one of the two
// sides. V, two channels, four or eight, comes from lane2, lane4 or lane8.
const TILE: u32 = 4u;
const SIDE: u32 = 6u;
const PRODUCTS: u32 = 36u;

// B' d
fn gather(d: array<V, 6>) -> array<V, 6> {
    let a = d[4] - 4.0 * d[2];
    let b = d[3] - 4.0 * d[1];
    let c = d[4] - d[2];
    let e = 2.0 * (d[3] - d[1]);
    return array<V, 6>(4.0 * d[0] - 5.0 * d[2] + d[4], a + b, a - b, c + e, c - e, 4.0 * d[1] - 5.0 * d[3] + d[5]);
}

// A' d
fn fold(d: array<V, 6>) -> array<V, 4> {
    let near = d[1] + d[2];
    let near_odd = d[1] - d[2];
    let far = d[3] + d[4];
    let far_odd = d[3] - d[4];
    return array<V, 4>(d[0] + near + far, near_odd + 2.0 * far_odd, near + 4.0 * far, near_odd + 8.0 * far_odd + d[5]);
}

// A d
fn unfold(d: array<V, 4>) -> array<V, 6> {
    let near = d[0] + d[2];
    let near_odd = d[1] + d[3];
    let far = d[0] + 4.0 * d[2];
    let far_odd = 2.0 * d[1] + 8.0 * d[3];
    return array<V, 6>(d[0], near + near_odd, near - near_odd, far + far_odd, far - far_odd, d[3]);
}

// G g
fn spread(g: array<V, 3>) -> array<V, 6> {
    let even = (-1.0 / 6.0) * (g[0] + g[2]);
    let odd = (-1.0 / 6.0) * g[1];
    let far_even = (1.0 / 24.0) * g[0] + (1.0 / 6.0) * g[2];
    let far_odd = (1.0 / 12.0) * g[1];
    return array<V, 6>(0.25 * g[0], even + odd, even - odd, far_even + far_odd, far_even - far_odd, g[2]);
}

// G' d. A product last: Mesa takes sums that end in one apart, and what is added to them would come in between.
fn narrow(d: array<V, 6>) -> array<V, 3> {
    let near = d[1] + d[2];
    let far = d[3] + d[4];
    return array<V, 3>(
        (1.0 / 24.0) * (6.0 * d[0] - 4.0 * near + far), (1.0 / 12.0) * (2.0 * (d[2] - d[1]) + d[3] - d[4]),
        (1.0 / 6.0) * (far - near + 6.0 * d[5]),
    );
}
