// Normalisation by channel, for pixels of the importing shader's type V.
//
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
