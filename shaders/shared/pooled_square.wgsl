// Squares of four pixels that are pooled to one: how they are read, normalised and written. The importing shader declares the type V, x, y and
// dy of Group (stored4, stored8), and WHOLE: whether dy is there; and imports normalise.

// Four numbers of a square in reading order.
struct Square {
    a: V,
    b: V,
    c: V,
    d: V,
}

// Where they lie. Images have even heights, so that rows of all images count through.
fn corners(square: u32, group: u32) -> vec4<u32> {
    let row = params.width * 2u * params.groups;
    let first = (square / params.width) * 2u * row + (square % params.width) * 2u * params.groups + group;
    return vec4<u32>(first, first + params.groups, first + row, first + row + params.groups);
}

// A square as it is stored.
struct Groups {
    a: Group,
    b: Group,
    c: Group,
    d: Group,
}

fn x_at(at: vec4<u32>) -> Groups {
    return Groups(x[at.x], x[at.y], x[at.z], x[at.w]);
}

fn dy_at(at: vec4<u32>) -> Groups {
    if (WHOLE) {
        return Groups(dy[at.x], dy[at.y], dy[at.z], dy[at.w]);
    }
    return Groups();
}

// x - mean, of the index-th four channels
fn centred(read: Groups, index: u32, c: Channel) -> Square {
    return Square(
        V(part_of(read.a, index)) - c.mean, V(part_of(read.b, index)) - c.mean,
        V(part_of(read.c, index)) - c.mean, V(part_of(read.d, index)) - c.mean,
    );
}

fn activated(d: V, c: Channel) -> V {
    let value = affine(d, c);
    // Not max(): a number that is none must stay so, or a training that diverged goes unseen.
    return select(value, V(0.0), value < V(0.0));
}

fn activated_square(v: Square, c: Channel) -> Square {
    return Square(activated(v.a, c), activated(v.b, c), activated(v.c, c), activated(v.d, c));
}

fn largest(v: Square) -> V {
    return max(max(v.a, v.b), max(v.c, v.d));
}

fn activated_squares(at: vec4<u32>, c: array<Channel, FOURS>) -> array<Square, FOURS> {
    let read = x_at(at);
    var v: array<Square, FOURS>;
    #unroll
    for (var i = 0u; i < FOURS; i++) {
        v[i] = activated_square(centred(read, i, c[i]), c[i]);
    }
    return v;
}

fn pooled_of(v: array<Square, FOURS>) -> Group {
    var parts: array<Stored, FOURS>;
    #unroll
    for (var i = 0u; i < FOURS; i++) {
        parts[i] = Stored(largest(v[i]));
    }
    return whole_of(parts);
}

fn write_square(to: vec4<u32>, v: array<Square, FOURS>) {
    var parts: array<array<Stored, FOURS>, 4>;
    #unroll
    for (var i = 0u; i < FOURS; i++) {
        parts[0][i] = Stored(v[i].a);
        parts[1][i] = Stored(v[i].b);
        parts[2][i] = Stored(v[i].c);
        parts[3][i] = Stored(v[i].d);
    }
    y[to.x] = whole_of(parts[0]);
    y[to.y] = whole_of(parts[1]);
    y[to.z] = whole_of(parts[2]);
    y[to.w] = whole_of(parts[3]);
}
