//! The Attention U-Net (Oktay et al. 2018) as the pipeline has it: four encoder blocks, a bridge, four attention gates
//! and decoder blocks, a 1x1 convolution to the logit.

use rand::{SeedableRng, rngs::ChaCha8Rng};

use super::parameters::{Init, Kind, NamedTensor, Parameter};
use crate::config::Skip;
use crate::ops::activation::{Add, Relu};
use crate::ops::attention::Attention;
use crate::ops::attention_product::AttentionProduct;
use crate::ops::batch_norm::BatchNorm;
use crate::ops::batch_norm_pool::BatchNormPool;
use crate::ops::conv_transpose2d::ConvTranspose2d;
use crate::ops::conv2d::Conv2d;
use crate::ops::project::Project;
use crate::ops::resize::Resize;
use crate::tape::{Layout, Store, Tape, TensorId};

/// What tells one network from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// 2, or 3 with the intensity channel.
    pub in_channels: usize,
    /// Width of the first block, a multiple of 8; each block doubles it.
    pub base_channels: usize,
    /// Where the skip connections are taken.
    pub skip: Skip,
}

/// The network's parameters and their places; [`AttentionUNet::logits`] records it on a tape.
#[derive(Debug, Clone)]
pub struct AttentionUNet {
    spec: Spec,
    parameters: Vec<Parameter>,
    weights: Layout,
    state: Layout,
}

impl AttentionUNet {
    /// Lays out the parameters, in the state dict's order.
    pub fn new(spec: Spec) -> Self {
        let parameters = Declaration::network(&spec);
        let (mut weights, mut state) = (Layout::default(), Layout::default());
        for parameter in &parameters {
            let layout = if parameter.trained { &mut weights } else { &mut state };
            layout.push(&parameter.name, parameter.kind.packed_shape());
        }
        Self { spec, parameters, weights, state }
    }

    /// What was asked for.
    pub fn spec(&self) -> Spec {
        self.spec
    }

    /// Parameters and running statistics, in the state dict's order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Trained numbers, as PyTorch counts them.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().filter(|p| p.trained).map(Parameter::len).sum()
    }

    /// The ranges of the flat buffer of weights; gradients and moments have the same.
    pub fn weights(&self) -> &Layout {
        &self.weights
    }

    /// The ranges of the flat buffer of running statistics.
    pub fn state(&self) -> &Layout {
        &self.state
    }

    /// First values of everything, as PyTorch's defaults draw them: the same seed gives the same values.
    pub fn initial(&self, seed: u64) -> Vec<NamedTensor> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        self.parameters
            .iter()
            .map(|p| NamedTensor {
                name: p.name.clone(),
                shape: p.kind.torch_shape(),
                values: p.draw(&mut random),
            })
            .collect()
    }

    /// Packs tensors, given in the order of [`AttentionUNet::parameters`], into the flat buffers of weights and state.
    pub fn pack(&self, tensors: &[NamedTensor]) -> (Vec<f32>, Vec<f32>) {
        let mut weights = vec![0.0; (self.weights.total_bytes() / 4) as usize];
        let mut state = vec![0.0; (self.state.total_bytes() / 4) as usize];
        for (parameter, tensor) in self.parameters.iter().zip(tensors) {
            assert_eq!(parameter.name, tensor.name);
            let (layout, buffer) =
                if parameter.trained { (&self.weights, &mut weights) } else { (&self.state, &mut state) };
            let entry = layout.get(&parameter.name).expect("every parameter has its range");
            let start = (entry.offset_bytes / 4) as usize;
            parameter.pack(&tensor.values, &mut buffer[start..start + entry.shape.len()]);
        }
        (weights, state)
    }

    /// The inverse of [`AttentionUNet::pack`]; works for gradients and moments in `weights` too.
    pub fn unpack(&self, weights: &[f32], state: &[f32]) -> Vec<NamedTensor> {
        let unpack = |parameter: &Parameter| {
            let (layout, buffer) =
                if parameter.trained { (&self.weights, weights) } else { (&self.state, state) };
            let entry = layout.get(&parameter.name).expect("every parameter has its range");
            let start = (entry.offset_bytes / 4) as usize;
            let values = parameter.unpack(&buffer[start..start + entry.shape.len()]);
            NamedTensor { name: parameter.name.clone(), shape: parameter.kind.torch_shape(), values }
        };
        self.parameters.iter().map(unpack).collect()
    }

    /// Records the network: `x` [N, H, W, 4] with H and W multiples of 16, to the logits [N, H, W, 1]. Batch norms take
    /// the batch's statistics where `training`. The logits go into `into`, or a new tensor.
    pub fn logits(&self, tape: &mut Tape, x: TensorId, training: bool, into: Option<TensorId>) -> TensorId {
        Recorder { net: self, tape, training }.network(x, into)
    }

    fn widths(&self) -> [usize; 5] {
        widths(self.spec.base_channels)
    }
}

fn widths(base: usize) -> [usize; 5] {
    [1, 2, 4, 8, 16].map(|factor| base * factor)
}

/// Declares parameters layer by layer.
#[derive(Default)]
struct Declaration(Vec<Parameter>);

impl Declaration {
    /// Encoder, bridge, gates, then upward convolutions and decoder blocks: the order of the pipeline's state dict.
    fn network(spec: &Spec) -> Vec<Parameter> {
        let c = widths(spec.base_channels);
        let mut all = Self::default();
        all.block("enc1", spec.in_channels, c[0]);
        for i in 1..4 {
            all.block(&format!("enc{}", i + 1), c[i - 1], c[i]);
        }
        all.block("bridge", c[3], c[4]);
        for i in (0..4).rev() {
            all.gate(&format!("att{}", i + 1), c[i]);
        }
        for i in (0..4).rev() {
            all.conv_transpose(&format!("upconv{}", i + 1), c[i + 1], c[i]);
            all.block(&format!("dec{}", i + 1), 2 * c[i], c[i]);
        }
        all.project("final.0", c[0]);
        all.0
    }

    fn push(&mut self, name: String, kind: Kind, init: Init, trained: bool) {
        self.0.push(Parameter { name, kind, init, trained });
    }

    fn with_bias(&mut self, name: &str, kind: Kind, fan_in: usize, out_channels: usize) {
        let init = Init::Uniform { fan_in };
        self.push(format!("{name}.weight"), kind, init, true);
        self.push(format!("{name}.bias"), Kind::Vector { len: out_channels }, init, true);
    }

    fn conv(&mut self, name: &str, in_channels: usize, out_channels: usize, kernel: usize) {
        let physical_in = in_channels.next_multiple_of(4);
        let kind = Kind::Conv { out_channels, in_channels, physical_in, kernel };
        self.with_bias(name, kind, in_channels * kernel * kernel, out_channels);
    }

    /// PyTorch takes a transposed convolution's output side for its fan-in.
    fn conv_transpose(&mut self, name: &str, in_channels: usize, out_channels: usize) {
        let kind = Kind::ConvTranspose { in_channels, out_channels };
        self.with_bias(name, kind, out_channels * 4, out_channels);
    }

    fn project(&mut self, name: &str, in_channels: usize) {
        self.with_bias(name, Kind::Project { in_channels }, in_channels, 1);
    }

    fn norm(&mut self, name: &str, len: usize) {
        let kind = Kind::Vector { len };
        self.push(format!("{name}.weight"), kind, Init::Constant(1.0), true);
        self.push(format!("{name}.bias"), kind, Init::Constant(0.0), true);
        self.push(format!("{name}.running_mean"), kind, Init::Constant(0.0), false);
        self.push(format!("{name}.running_var"), kind, Init::Constant(1.0), false);
    }

    fn block(&mut self, name: &str, in_channels: usize, out_channels: usize) {
        self.conv(&format!("{name}.0"), in_channels, out_channels, 3);
        self.norm(&format!("{name}.1"), out_channels);
        self.conv(&format!("{name}.3"), out_channels, out_channels, 3);
        self.norm(&format!("{name}.4"), out_channels);
    }

    fn gate(&mut self, name: &str, channels: usize) {
        for side in ["W_g", "W_x"] {
            self.conv(&format!("{name}.{side}.0"), channels, channels / 2, 1);
            self.norm(&format!("{name}.{side}.1"), channels / 2);
        }
        self.project(&format!("{name}.psi.0"), channels / 2);
        self.norm(&format!("{name}.psi.1"), 1);
    }
}

/// Records layers, taking their parameters by name.
struct Recorder<'a> {
    net: &'a AttentionUNet,
    tape: &'a mut Tape,
    training: bool,
}

impl Recorder<'_> {
    fn network(mut self, x: TensorId, into: Option<TensorId>) -> TensorId {
        let c = self.net.widths();
        let mut skips = Vec::new();
        let mut d = x;
        for (i, width) in c[..4].iter().enumerate() {
            let outputs = self.encoder(&format!("enc{}", i + 1), d, *width);
            // Full and pooled, or pooled alone.
            skips.push(outputs[0]);
            d = outputs[outputs.len() - 1];
        }
        d = self.block("bridge", &[d], c[4]);
        for i in (0..4).rev() {
            let name = format!("upconv{}", i + 1);
            let inputs = [d, self.weight(&format!("{name}.weight")), self.weight(&format!("{name}.bias"))];
            let up = self.tape.apply1(&name, ConvTranspose2d::new(c[i]), &inputs);
            let gated = self.gate(&format!("att{}", i + 1), up, skips[i]);
            d = self.block(&format!("dec{}", i + 1), &[up, gated], c[i]);
        }
        let inputs = [d, self.weight("final.0.weight"), self.weight("final.0.bias")];
        match into {
            Some(logits) => {
                self.tape.apply_into("final.0", Project, &inputs, &[logits]);
                logits
            }
            None => self.tape.apply1("final.0", Project, &inputs),
        }
    }

    /// A block and its pooling: what it gives before, where the skip is taken there, and after.
    fn encoder(&mut self, name: &str, x: TensorId, out_channels: usize) -> Vec<TensorId> {
        let y = self.half_block(name, &[x], out_channels);
        let whole = self.net.spec.skip == Skip::Full;
        let name = format!("{name}.4");
        let inputs = [vec![y], self.norm_parameters(&name)].concat();
        self.tape.apply(&name, BatchNormPool { training: self.training, whole }, &inputs)
    }

    /// A block whose result one convolution reads, which normalises it.
    fn block(&mut self, name: &str, sources: &[TensorId], out_channels: usize) -> TensorId {
        let y = self.half_block(name, sources, out_channels);
        self.deferred_norm(&format!("{name}.4"), y)
    }

    /// A block without its last norm.
    fn half_block(&mut self, name: &str, sources: &[TensorId], out_channels: usize) -> TensorId {
        let y = self.conv(&format!("{name}.0"), sources, out_channels, 3);
        let y = self.deferred_norm(&format!("{name}.1"), y);
        self.conv(&format!("{name}.3"), &[y], out_channels, 3)
    }

    /// `x * psi`; with pooled skips the gating signal comes down to x's size, and the result goes up to g's.
    fn gate(&mut self, name: &str, g: TensorId, x: TensorId) -> TensorId {
        let [_, g_height, g_width, channels] = self.tape.shape(g).as_nhwc();
        let [_, height, width, _] = self.tape.shape(x).as_nhwc();
        let same_size = (g_height, g_width) == (height, width);
        let a = self.conv(&format!("{name}.W_g.0"), &[g], channels / 2, 1);
        let b = self.conv(&format!("{name}.W_x.0"), &[x], channels / 2, 1);
        let p = if same_size { self.signal(name, a, b) } else { self.signal_resized(name, a, b) };
        let inputs = [vec![x, p], self.norm_parameters(&format!("{name}.psi.1"))].concat();
        let gated =
            self.tape.apply1(&format!("{name}.product"), AttentionProduct::new(self.training), &inputs);
        if same_size {
            return gated;
        }
        let resize = Resize { height: g_height, width: g_width };
        self.tape.apply1(&format!("{name}.resize"), resize, &[gated])
    }

    /// One channel of both of a gate's convolutions.
    fn signal(&mut self, name: &str, a: TensorId, b: TensorId) -> TensorId {
        let norms = ["W_g", "W_x"].map(|side| self.norm_parameters(&format!("{name}.{side}.1")));
        let inputs = [vec![a, b], norms.concat(), self.psi_parameters(name)].concat();
        // A batch norm follows.
        self.tape.apply1(&format!("{name}.psi.0"), Attention::new(self.training).centred(), &inputs)
    }

    /// The same where `a` is resized once it is normalised.
    fn signal_resized(&mut self, name: &str, a: TensorId, b: TensorId) -> TensorId {
        let [_, height, width, _] = self.tape.shape(b).as_nhwc();
        let a = self.norm(&format!("{name}.W_g.1"), a, false);
        let a = self.tape.apply1(&format!("{name}.W_g.resize"), Resize { height, width }, &[a]);
        let b = self.norm(&format!("{name}.W_x.1"), b, false);
        let sum = self.tape.apply1(&format!("{name}.add"), Add, &[a, b]);
        let sum = self.tape.apply1(&format!("{name}.relu"), Relu, &[sum]);
        let inputs = [vec![sum], self.psi_parameters(name)].concat();
        self.tape.apply1(&format!("{name}.psi.0"), Project, &inputs)
    }

    fn psi_parameters(&mut self, name: &str) -> Vec<TensorId> {
        ["weight", "bias"].map(|part| self.weight(&format!("{name}.psi.0.{part}"))).into()
    }

    fn conv(&mut self, name: &str, sources: &[TensorId], out_channels: usize, kernel: usize) -> TensorId {
        let mut inputs = sources.to_vec();
        inputs.push(self.weight(&format!("{name}.weight")));
        inputs.push(self.weight(&format!("{name}.bias")));
        // Every one of them is followed by a batch norm.
        self.tape.apply1(name, Conv2d::new(kernel, out_channels).centred(), &inputs)
    }

    fn norm(&mut self, name: &str, x: TensorId, relu: bool) -> TensorId {
        self.apply_norm(name, x, BatchNorm::new(self.training, relu))
    }

    /// A norm and its ReLU that nothing but the next convolution reads.
    fn deferred_norm(&mut self, name: &str, x: TensorId) -> TensorId {
        self.apply_norm(name, x, BatchNorm::new(self.training, true).deferred())
    }

    fn apply_norm(&mut self, name: &str, x: TensorId, norm: BatchNorm) -> TensorId {
        let inputs = [vec![x], self.norm_parameters(name)].concat();
        self.tape.apply1(name, norm, &inputs)
    }

    /// Gamma, beta, running mean and running variance, as batch norms take them.
    fn norm_parameters(&mut self, name: &str) -> Vec<TensorId> {
        let [gamma, beta] = ["weight", "bias"].map(|part| self.weight(&format!("{name}.{part}")));
        let [mean, variance] =
            ["running_mean", "running_var"].map(|part| self.state(&format!("{name}.{part}")));
        vec![gamma, beta, mean, variance]
    }

    fn weight(&mut self, name: &str) -> TensorId {
        let entry = self.net.weights.get(name).unwrap_or_else(|| panic!("no parameter {name}"));
        self.tape.stored(name, entry.shape.clone(), Store::Weights, entry.offset_bytes, self.training)
    }

    fn state(&mut self, name: &str) -> TensorId {
        let entry = self.net.state.get(name).unwrap_or_else(|| panic!("no statistic {name}"));
        self.tape.stored(name, entry.shape.clone(), Store::State, entry.offset_bytes, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(in_channels: usize, base_channels: usize) -> AttentionUNet {
        AttentionUNet::new(Spec { in_channels, base_channels, skip: Skip::Full })
    }

    #[test]
    fn the_default_network_has_the_pipelines_parameters() {
        assert_eq!(net(2, 64).parameter_count(), 31_394_477);
    }

    #[test]
    fn packing_and_unpacking_give_the_same_tensors() {
        let net = net(3, 8);
        let tensors = net.initial(7);
        let (weights, state) = net.pack(&tensors);
        assert_eq!(net.unpack(&weights, &state), tensors);
    }

    #[test]
    fn initial_weights_follow_pytorchs_bounds() {
        let net = net(2, 8);
        for (tensor, bound) in net.initial(1).iter().filter_map(|t| {
            let fan_in = match t.name.as_str() {
                "enc1.0.weight" | "enc1.0.bias" => 18,
                "upconv4.weight" | "upconv4.bias" => 64 * 4,
                _ => return None,
            };
            Some((t.clone(), 1.0 / (fan_in as f32).sqrt()))
        }) {
            let most = tensor.values.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            assert!(most <= bound && most > 0.5 * bound, "{}: {most} within {bound}", tensor.name);
        }
    }
}
