// What a batch norm would have written, made by the reader of its input. The importing shader declares the type X, how
// four channels are stored, and the binding `coefficients`: [3 or more][C] of f32, of which mean, scale and beta come
// first. Out of the image is zero, as it would have been: readers pad after this.
const NORMALISED: bool = false;
const NORMALISED_RELU: bool = false;

// What four channels share: to be loaded once for many pixels.
struct Norm {
    mean: vec4<f32>,
    scale: vec4<f32>,
    beta: vec4<f32>,
}

fn norm_of(group: u32, groups: u32) -> Norm {
    if (NORMALISED) {
        return Norm(coefficients[group], coefficients[groups + group], coefficients[2u * groups + group]);
    }
    return Norm();
}

// To the bits that normalising would have stored.
fn as_read(value: X, c: Norm) -> X {
    if (NORMALISED) {
        let z = fma(vec4<f32>(value) - c.mean, c.scale, c.beta);
        if (NORMALISED_RELU) {
            return X(select(z, vec4<f32>(0.0), z < vec4<f32>(0.0)));
        }
        return X(z);
    }
    return value;
}

// The same of what was read a while ago, zero where that was out of the image (and was read as zero): arithmetic on what has not come yet would wait
// for it, while there is something else to do.
fn as_read_before(value: X, c: Norm, inside: bool) -> X {
    if (NORMALISED) {
        return select(X(), as_read(value, c), inside);
    }
    return value;
}
