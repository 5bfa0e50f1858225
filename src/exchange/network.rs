//! The network as an ONNX graph: the nodes of [`AttentionUNet::logits`], then the sigmoid.
//!
//! Batch norms stay nodes of their own rather than being folded into convolutions: the weights in the file are then
//! those of the state dict, by name and to the bit, and runtimes fold them themselves. With pooled skips the gate halves
//! its signal by the mean of 2 x 2 pixels, which is what bilinear resizing to half the size amounts to, and doubles what
//! it lets through with `Resize` by a factor of exactly 2 about the centres of pixels: heights and widths are multiples
//! of 16, so no size has to be computed.

use crate::config::Skip;
use crate::error::{Error, Result};
use crate::inference::Model;
use crate::interop::onnx::{self, Attribute, Graph, Node, Property, Tensor, ValueInfo};
use crate::model::{NamedTensor, Spec};

/// The name of the input [batch, channels, height, width].
pub const INPUT: &str = "image";
/// The name of the output [batch, 1, height, width].
pub const OUTPUT: &str = "probability";

/// PyTorch's default, which the network is trained with.
const EPSILON: f32 = 1e-5;
/// The factors of the doubling.
const DOUBLE: &str = "double";
/// Protocol buffers end here.
const MOST_BYTES: usize = i32::MAX as usize;

/// What the input's channels are, in order.
pub fn channel_names(in_channels: usize) -> Vec<&'static str> {
    ["boundaries", "cells", "intensity"][..in_channels].to_vec()
}

/// What each channel holds, in words.
pub fn channel_meanings(in_channels: usize) -> Vec<&'static str> {
    let meanings = [
        "1 where the label of a cell differs from that of one of the four neighbouring pixels, else 0",
        "1 within cells, 0 between them",
        "microscope intensity divided by the image's maximum",
    ];
    meanings[..in_channels].to_vec()
}

/// The model with what must be known to use it.
///
/// # Errors
/// A user error where the weights are more than an ONNX file can hold.
pub fn onnx_model(model: &Model) -> Result<onnx::Model> {
    let weights: usize = model.tensors.iter().map(|tensor| 4 * tensor.values.len()).sum();
    if weights > MOST_BYTES / 2 {
        let expected = "a network of at most 1 GiB, which an ONNX file can hold";
        let remedy = "take --format pth or safetensors";
        return Err(Error::user(model.weights.display(), expected, format!("{weights} bytes"), remedy));
    }
    let spec = model.net.spec();
    let what = "Attention U-Net: the probability of a multicellular rosette at each pixel. Height and width are \
                multiples of 16.";
    Ok(onnx::Model::new(graph(&spec, &model.tensors), what.into(), metadata(model)))
}

fn metadata(model: &Model) -> Vec<Property> {
    let spec = model.net.spec();
    let channels: Vec<String> = channel_names(spec.in_channels)
        .iter()
        .zip(channel_meanings(spec.in_channels))
        .map(|(name, meaning)| format!("{name}: {meaning}"))
        .collect();
    let name = model.record.as_ref().map(|record| record.experiment_name.clone());
    let best = model.record.as_ref().and_then(|record| record.best.as_ref());
    let all = [
        ("architecture", Some("attention_unet".to_string())),
        ("skip", Some(skip_word(spec.skip).to_string())),
        ("base_channels", Some(spec.base_channels.to_string())),
        ("channels", Some(channels.join("\n"))),
        ("patch_size", Some(model.window_px.to_string())),
        ("size_multiple", Some("16".to_string())),
        ("threshold", Some(model.threshold.to_string())),
        ("experiment_name", name),
        ("validation_f1", best.map(|best| best.val_f1.to_string())),
    ];
    let property = |(key, value): (&str, Option<String>)| {
        value.map(|value| Property { key: format!("rosette.{key}"), value })
    };
    all.into_iter().filter_map(property).collect()
}

/// The setting's word.
pub fn skip_word(skip: Skip) -> &'static str {
    match skip {
        Skip::Full => "full",
        Skip::Pooled => "pooled",
    }
}

fn graph(spec: &Spec, tensors: &[NamedTensor]) -> Graph {
    let mut initializer: Vec<Tensor> =
        tensors.iter().map(|tensor| Tensor::f32(&tensor.name, &tensor.shape, &tensor.values)).collect();
    if spec.skip == Skip::Pooled {
        initializer.push(Tensor::f32(DOUBLE, &[4], &[1.0, 1.0, 2.0, 2.0]));
    }
    let channels = spec.in_channels.to_string();
    let meaning = channel_meanings(spec.in_channels).join("; ");
    Graph {
        node: Nodes::default().network(spec.skip),
        name: "attention_unet".into(),
        initializer,
        input: vec![ValueInfo::f32(INPUT, &["batch", &channels, "height", "width"], &meaning)],
        output: vec![ValueInfo::f32(OUTPUT, &["batch", "1", "height", "width"], "probability of a rosette")],
    }
}

/// Nodes that name their output as the layer is named in the state dict.
#[derive(Default)]
struct Nodes(Vec<Node>);

impl Nodes {
    fn network(mut self, skip: Skip) -> Vec<Node> {
        let mut skips = Vec::new();
        let mut d = INPUT.to_string();
        for level in 1..=4 {
            let full = self.block(&format!("enc{level}"), &d);
            let halves = [Attribute::ints("kernel_shape", &[2, 2]), Attribute::ints("strides", &[2, 2])];
            d = self.add("MaxPool", &format!("enc{level}.6"), &[&full], &halves);
            skips.push(if skip == Skip::Full { full } else { d.clone() });
        }
        d = self.block("bridge", &d);
        for level in (1..=4).rev() {
            let name = format!("upconv{level}");
            let attributes = [Attribute::ints("kernel_shape", &[2, 2]), Attribute::ints("strides", &[2, 2])];
            let up = self.weighted("ConvTranspose", &name, &d, &attributes);
            let gated = self.gate(&format!("att{level}"), &up, &skips[level - 1], skip);
            let both =
                self.add("Concat", &format!("cat{level}"), &[&up, &gated], &[Attribute::int("axis", 1)]);
            d = self.block(&format!("dec{level}"), &both);
        }
        let logits = self.conv("final.0", &d, 1);
        self.add("Sigmoid", OUTPUT, &[&logits], &[]);
        self.0
    }

    fn block(&mut self, name: &str, x: &str) -> String {
        let mut x = x.to_string();
        for (conv, norm, relu) in [(0, 1, 2), (3, 4, 5)] {
            x = self.conv(&format!("{name}.{conv}"), &x, 3);
            x = self.norm(&format!("{name}.{norm}"), &x);
            x = self.add("Relu", &format!("{name}.{relu}"), &[&x], &[]);
        }
        x
    }

    fn gate(&mut self, name: &str, g: &str, x: &str, skip: Skip) -> String {
        let a = self.conv(&format!("{name}.W_g.0"), g, 1);
        let mut a = self.norm(&format!("{name}.W_g.1"), &a);
        if skip == Skip::Pooled {
            let halves = [Attribute::ints("kernel_shape", &[2, 2]), Attribute::ints("strides", &[2, 2])];
            a = self.add("AveragePool", &format!("{name}.half"), &[&a], &halves);
        }
        let b = self.conv(&format!("{name}.W_x.0"), x, 1);
        let b = self.norm(&format!("{name}.W_x.1"), &b);
        let sum = self.add("Add", &format!("{name}.sum"), &[&a, &b], &[]);
        let sum = self.add("Relu", &format!("{name}.relu"), &[&sum], &[]);
        let psi = self.conv(&format!("{name}.psi.0"), &sum, 1);
        let psi = self.norm(&format!("{name}.psi.1"), &psi);
        let psi = self.add("Sigmoid", &format!("{name}.psi.2"), &[&psi], &[]);
        let gated = self.add("Mul", &format!("{name}.gated"), &[x, &psi], &[]);
        if skip == Skip::Full {
            return gated;
        }
        let about_centres = [
            Attribute::text("mode", "linear"),
            Attribute::text("coordinate_transformation_mode", "half_pixel"),
        ];
        self.add("Resize", &format!("{name}.double"), &[&gated, "", DOUBLE], &about_centres)
    }

    fn conv(&mut self, name: &str, x: &str, kernel: i64) -> String {
        let pad = kernel / 2;
        let attributes = [Attribute::ints("kernel_shape", &[kernel; 2]), Attribute::ints("pads", &[pad; 4])];
        self.weighted("Conv", name, x, &attributes)
    }

    fn weighted(&mut self, op: &str, name: &str, x: &str, attributes: &[Attribute]) -> String {
        self.add(op, name, &[x, &format!("{name}.weight"), &format!("{name}.bias")], attributes)
    }

    fn norm(&mut self, name: &str, x: &str) -> String {
        let statistics =
            ["weight", "bias", "running_mean", "running_var"].map(|kind| format!("{name}.{kind}"));
        let inputs: Vec<&str> = [x].into_iter().chain(statistics.iter().map(String::as_str)).collect();
        self.add("BatchNormalization", name, &inputs, &[Attribute::float("epsilon", EPSILON)])
    }

    fn add(&mut self, op: &str, name: &str, inputs: &[&str], attributes: &[Attribute]) -> String {
        self.0.push(Node {
            input: inputs.iter().map(|input| input.to_string()).collect(),
            output: vec![name.to_string()],
            name: format!("{op} {name}"),
            op_type: op.into(),
            attribute: attributes.to_vec(),
        });
        name.to_string()
    }
}
