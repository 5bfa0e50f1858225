//! ONNX graphs computed in f64, operation by operation as the ONNX specification has them: an answer that shares
//! nothing with the network's own code.

use std::collections::HashMap;

use rosette::interop::onnx::{Graph, Node, Tensor};

/// A dense value [N, C, H, W], or of any other shape.
#[derive(Clone, Debug)]
pub struct Value {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Value {
    fn nchw(&self) -> [usize; 4] {
        self.shape.clone().try_into().expect("four axes")
    }

    fn map(&self, of: impl Fn(f64) -> f64) -> Self {
        Self { shape: self.shape.clone(), values: self.values.iter().map(|v| of(*v)).collect() }
    }

    /// Each element of [N, C, H, W] from its place.
    fn filled(shape: [usize; 4], of: impl Fn([usize; 4]) -> f64) -> Self {
        let [n, c, h, w] = shape;
        let mut values = Vec::with_capacity(n * c * h * w);
        for image in 0..n {
            for channel in 0..c {
                for y in 0..h {
                    values.extend((0..w).map(|x| of([image, channel, y, x])));
                }
            }
        }
        Self { shape: shape.to_vec(), values }
    }

    fn at(&self, [n, c, y, x]: [usize; 4]) -> f64 {
        let [_, channels, height, width] = self.nchw();
        self.values[((n * channels + c) * height + y) * width + x]
    }
}

/// Decodes a tensor's bytes.
pub fn floats(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.data_type, 1, "{} holds floats", tensor.name);
    tensor.raw_data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// The graph's only output for its only input.
pub fn run(graph: &Graph, input: Value) -> Value {
    let mut values: HashMap<&str, Value> = HashMap::new();
    for tensor in &graph.initializer {
        let shape = tensor.dims.iter().map(|size| *size as usize).collect();
        let data = floats(tensor).into_iter().map(f64::from).collect();
        values.insert(&tensor.name, Value { shape, values: data });
    }
    values.insert(&graph.input[0].name, input);
    for node in &graph.node {
        let inputs: Vec<&Value> = node
            .input
            .iter()
            .filter(|name| !name.is_empty())
            .map(|name| values.get(name.as_str()).unwrap_or_else(|| panic!("{}: no {name} yet", node.name)))
            .collect();
        let value = compute(node, &inputs);
        assert!(values.insert(&node.output[0], value).is_none(), "{} is written twice", node.output[0]);
    }
    values.remove(graph.output[0].name.as_str()).expect("the output is computed")
}

fn ints(node: &Node, name: &str) -> Vec<usize> {
    let found = node.attribute.iter().find(|a| a.name == name);
    found.map_or(Vec::new(), |a| a.ints.iter().map(|v| *v as usize).collect())
}

fn compute(node: &Node, inputs: &[&Value]) -> Value {
    match node.op_type.as_str() {
        "Conv" => conv(node, inputs),
        "ConvTranspose" => conv_transpose(node, inputs),
        "BatchNormalization" => batch_norm(node, inputs),
        "Relu" => inputs[0].map(|v| v.max(0.0)),
        "Sigmoid" => inputs[0].map(|v| 1.0 / (1.0 + (-v).exp())),
        "MaxPool" => pool(node, inputs[0], |of| of.into_iter().fold(f64::NEG_INFINITY, f64::max)),
        "AveragePool" => pool(node, inputs[0], |of| of.iter().sum::<f64>() / 4.0),
        "Add" => {
            assert_eq!(inputs[0].shape, inputs[1].shape);
            Value::filled(inputs[0].nchw(), |at| inputs[0].at(at) + inputs[1].at(at))
        }
        "Mul" => {
            let [n, _, h, w] = inputs[0].nchw();
            assert_eq!(inputs[1].nchw(), [n, 1, h, w], "one weight a pixel");
            Value::filled(inputs[0].nchw(), |at| inputs[0].at(at) * inputs[1].at([at[0], 0, at[2], at[3]]))
        }
        "Concat" => concat(node, inputs),
        "Resize" => resize(node, inputs),
        other => panic!("{}: {other} is not expected in this network", node.name),
    }
}

fn conv(node: &Node, inputs: &[&Value]) -> Value {
    let ([n, c_in, h, w], [c_out, weight_in, k, _]) = (inputs[0].nchw(), inputs[1].nchw());
    assert_eq!((c_in, ints(node, "kernel_shape")), (weight_in, vec![k, k]), "{}", node.name);
    assert_eq!(ints(node, "pads"), [k / 2; 4], "the size stays");
    let mut out = Value::filled([n, c_out, h, w], |at| inputs[2].values[at[1]]);
    for (plane, target) in out.values.chunks_exact_mut(h * w).enumerate() {
        let (image, o) = (plane / c_out, plane % c_out);
        for (i, ky, kx) in
            (0..c_in).flat_map(|i| (0..k).flat_map(move |ky| (0..k).map(move |kx| (i, ky, kx))))
        {
            let weight = inputs[1].at([o, i, ky, kx]);
            let source = &inputs[0].values[(image * c_in + i) * h * w..][..h * w];
            for y in (k / 2).saturating_sub(ky)..(h + k / 2 - ky).min(h) {
                for x in (k / 2).saturating_sub(kx)..(w + k / 2 - kx).min(w) {
                    target[y * w + x] += weight * source[(y + ky - k / 2) * w + x + kx - k / 2];
                }
            }
        }
    }
    out
}

fn conv_transpose(node: &Node, inputs: &[&Value]) -> Value {
    let ([n, c_in, h, w], [weight_in, c_out, 2, 2]) = (inputs[0].nchw(), inputs[1].nchw()) else {
        panic!("{}: a kernel of 2 x 2", node.name)
    };
    assert_eq!((c_in, ints(node, "strides")), (weight_in, vec![2, 2]), "{}", node.name);
    Value::filled([n, c_out, 2 * h, 2 * w], |[image, o, y, x]| {
        let one = |i| inputs[0].at([image, i, y / 2, x / 2]) * inputs[1].at([i, o, y % 2, x % 2]);
        inputs[2].values[o] + (0..c_in).map(one).sum::<f64>()
    })
}

fn batch_norm(node: &Node, inputs: &[&Value]) -> Value {
    let epsilon = node.attribute.iter().find(|a| a.name == "epsilon").and_then(|a| a.f).expect("epsilon");
    let [scale, shift, mean, variance] = [1, 2, 3, 4].map(|at| &inputs[at].values);
    Value::filled(inputs[0].nchw(), |at| {
        let c = at[1];
        (inputs[0].at(at) - mean[c]) / (variance[c] + f64::from(epsilon)).sqrt() * scale[c] + shift[c]
    })
}

fn pool(node: &Node, x: &Value, of: impl Fn([f64; 4]) -> f64) -> Value {
    assert_eq!((ints(node, "kernel_shape"), ints(node, "strides")), (vec![2, 2], vec![2, 2]));
    let [n, c, h, w] = x.nchw();
    Value::filled([n, c, h / 2, w / 2], |[n, c, y, col]| {
        of([0, 1, 2, 3].map(|i| x.at([n, c, 2 * y + i / 2, 2 * col + i % 2])))
    })
}

fn concat(node: &Node, inputs: &[&Value]) -> Value {
    assert_eq!(node.attribute.iter().find(|a| a.name == "axis").and_then(|a| a.i), Some(1));
    let ([n, a, h, w], [_, b, h_b, w_b]) = (inputs[0].nchw(), inputs[1].nchw());
    assert_eq!([h, w], [h_b, w_b], "{}", node.name);
    Value::filled([n, a + b, h, w], |[n, c, y, x]| {
        if c < a { inputs[0].at([n, c, y, x]) } else { inputs[1].at([n, c - a, y, x]) }
    })
}

/// Linear, about the centres of pixels, clamped at the border.
fn resize(node: &Node, inputs: &[&Value]) -> Value {
    let text = |name: &str| {
        let found = node.attribute.iter().find(|a| a.name == name).and_then(|a| a.s.clone());
        String::from_utf8(found.expect("a text")).expect("UTF-8")
    };
    assert_eq!(
        (text("mode"), text("coordinate_transformation_mode")),
        ("linear".into(), "half_pixel".into())
    );
    assert_eq!((node.input[1].as_str(), node.input.len()), ("", 3), "no region, then the factors");
    let (x, factors) = (inputs[0], &inputs[1].values);
    let [n, c, h, w] = x.nchw();
    let size = [2, 3].map(|axis| (x.shape[axis] as f64 * factors[axis]).floor() as usize);
    let source = |at: usize, factor: f64, length: usize| {
        let place = ((at as f64 + 0.5) / factor - 0.5).clamp(0.0, (length - 1) as f64);
        (place as usize, (place as usize + 1).min(length - 1), place.fract())
    };
    Value::filled([n, c, size[0], size[1]], |[n, c, y, col]| {
        let (top, bottom, down) = source(y, factors[2], h);
        let (left, right, across) = source(col, factors[3], w);
        let row = |y| x.at([n, c, y, left]) * (1.0 - across) + x.at([n, c, y, right]) * across;
        row(top) * (1.0 - down) + row(bottom) * down
    })
}
