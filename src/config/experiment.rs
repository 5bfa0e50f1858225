//! Every setting there is, each in one line: its name, type, default, the values it may take and what it means. The
//! structures, the defaults, the parser, the range checks, the suggestions and `--override` all follow from here.

use serde::{Deserialize, Serialize};

use crate::config::reads::{self, Read};
use crate::config::schema::{choice_schema, described, joined, section_schema};
use crate::config::setting::{Place, Rule, Section, Setting, choose};
use crate::config::yaml::{Key, Node};
use crate::error::{Error, Result};

/// Declares a section of settings: `name: type = default, rule;`. The rule says which values a setting may take and, where
/// it is not read always, when it is ([`Rule::read`]).
macro_rules! section {
    ($(#[$meta:meta])* $section:ident {
        $($(#[doc = $doc:literal])* $name:ident: $type:ty = $default:expr, $rule:expr;)*
    }) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        $(#[$meta])*
        pub struct $section {
            $($(#[doc = $doc])* pub $name: $type,)*
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Section for $section {
            fn field(&mut self, name: &str) -> Option<(&mut dyn Setting, Rule)> {
                match name {
                    $(stringify!($name) => Some((&mut self.$name, $rule)),)*
                    _ => None,
                }
            }

            fn rules(&self) -> Vec<(String, Rule)> {
                let mut out = Vec::new();
                $(self.$name.list(stringify!($name), $rule, &mut out);)*
                out
            }

            fn properties(&self) -> serde_json::Map<String, serde_json::Value> {
                let mut out = serde_json::Map::new();
                $(out.insert(
                    stringify!($name).into(),
                    described(self.$name.schema(&$rule), &[$($doc),*]),
                );)*
                out
            }
        }

        impl Setting for $section {
            fn update(&mut self, node: &Node, _: &Rule, at: &Place) -> Result<()> {
                self.merge(node, at)
            }

            fn list(&self, name: &str, _: Rule, out: &mut Vec<(String, Rule)>) {
                out.extend(self.rules().into_iter().map(|(inner, rule)| (format!("{name}.{inner}"), rule)));
            }

            fn schema(&self, _: &Rule) -> serde_json::Value {
                section_schema(self.properties())
            }
        }
    };
}

/// Declares a setting that is one of a few words.
macro_rules! choice {
    ($(#[$meta:meta])* $choice:ident { $($(#[doc = $doc:literal])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $choice {
            $($(#[doc = $doc])* #[serde(rename = $word)] $variant,)*
        }

        impl Setting for $choice {
            fn update(&mut self, node: &Node, _: &Rule, at: &Place) -> Result<()> {
                *self = choose(&[$(($word, Self::$variant)),*], node, at)?;
                Ok(())
            }

            fn schema(&self, _: &Rule) -> serde_json::Value {
                choice_schema(self, &[$(($word, joined(&[$($doc),*]))),*])
            }
        }
    };
}

choice! {
    /// The network.
    Architecture {
        /// The Attention U-Net of Oktay et al. 2018 (arXiv:1804.03999).
        AttentionUnet = "attention_unet",
    }
}

choice! {
    /// Where the encoder's skip connection is taken. The state dict is the same for both, the function is not.
    Skip {
        /// Before pooling, at full resolution, as in the literature.
        Full = "full",
        /// After pooling, as in the PyTorch module of the pipeline: for weights that go back into it.
        Pooled = "pooled",
    }
}

choice! {
    /// Whether a step's backward pass computes cheap tensors (normalised, added, gated, transformed) again instead of
    /// keeping them.
    Recompute {
        /// Where the step takes more than 2 GiB otherwise.
        Auto = "auto",
        /// For the least memory.
        Always = "always",
        /// For the most speed.
        Never = "never",
    }
}

choice! {
    /// How a step stores activations and their gradients. Weights, moments, statistics and arithmetic are f32 always.
    Precision {
        /// As 32-bit floats.
        F32 = "f32",
        /// As 16-bit floats, with dynamic loss scaling: about half the memory and the traffic.
        F16 = "f16",
        /// f16 on a GPU that has it, f32 on the software adapter.
        Auto = "auto",
    }
}

choice! {
    /// How the learning rate goes on after the warm-up.
    Scheduler {
        /// Halved when the validation loss stops falling (`torch.optim.lr_scheduler.ReduceLROnPlateau`).
        Plateau = "plateau",
        /// Half a cosine down to `min_learning_rate` (Loshchilov and Hutter 2017), step by step.
        Cosine = "cosine",
        /// Down to `min_learning_rate` as (1 - share done)^`poly_power` (Liu et al. 2015), step by step.
        Poly = "poly",
        /// As it is.
        Constant = "constant",
    }
}

choice! {
    /// What training makes small.
    Loss {
        /// Binary cross-entropy and Dice, in the shares that `dice_weight` says.
        BceDice = "bce_dice",
        /// Dice alone (Milletari et al. 2016).
        Dice = "dice",
        /// The focal loss (Lin et al. 2017).
        Focal = "focal",
        /// One minus Tversky's index (Salehi et al. 2017).
        Tversky = "tversky",
    }
}

choice! {
    /// What is done about a batch that the device's memory does not hold.
    BatchFit {
        /// It is cut into micro-batches whose gradients are added up.
        Auto = "auto",
        /// The training does not start, and says which batch fits.
        Error = "error",
    }
}

section! {
    /// What the network is.
    ModelConfig {
        /// The network.
        architecture: Architecture = Architecture::AttentionUnet, Rule::any();
        /// Adds the microscope's intensity as a third input channel to boundaries and cells.
        use_intensity: bool = false, Rule::any();
        /// Side of a training patch in pixels.
        patch_size: usize = 512, Rule::within(16.0, 4096.0).multiple_of(16)
            .because("four 2x2 poolings halve the patch four times: take 256, 384, 512, ...");
        /// Output channels.
        num_classes: usize = 1, Rule::within(1.0, 1.0)
            .because("the output is one channel: rosette or not");
        /// Channels of the first block; each deeper block doubles them.
        base_channels: usize = 64, Rule::within(8.0, 256.0).multiple_of(8)
            .because("64 is the published network; 8 or 16 make a small one for trials");
        /// Where the skip connections are taken.
        skip: Skip = Skip::Full, Rule::any();
    }
}

section! {
    /// How the network is trained.
    #[serde(default)]
    TrainingConfig {
        /// Passes over the training samples, at most.
        num_epochs: usize = 100, Rule::within(1.0, 1e6);
        /// Patches per optimiser step.
        batch_size: usize = 4, Rule::within(1.0, 1024.0);
        /// Step size of AdamW at the start.
        learning_rate: f64 = 1e-3, Rule::within(0.0, 1.0).above();
        /// How the learning rate goes on after the warm-up.
        scheduler: Scheduler = Scheduler::Plateau, Rule::any();
        /// Epochs, or parts of one, in which the learning rate rises to its full size, step by step; at most `num_epochs`.
        warmup_epochs: f64 = 0.0, Rule::within(0.0, 1e6);
        /// No schedule goes below this.
        min_learning_rate: f64 = 0.0, Rule::within(0.0, 1.0).read(reads::FALLING);
        /// The exponent of the schedule `poly`.
        poly_power: f64 = 0.9, Rule::within(0.0, 100.0).above().read(reads::POLY);
        /// Gradients are scaled down to this norm where theirs, over all weights, is larger; 0 for never.
        clip_norm: f64 = 0.0, Rule::within(0.0, 1e6);
        /// Batches per optimiser step: their gradients are averaged.
        accumulation: usize = 1, Rule::within(1.0, 1024.0);
        /// Decay of the moving average of the weights, which validates and is kept in their place; 0 for none.
        ema_decay: f64 = 0.0, Rule::within(0.0, 1.0).below()
            .because("0.99 averages over about 100 steps, 0.999 over about 1000; 0 switches it off");
        /// What a batch does that the device's memory does not hold.
        batch_fit: BatchFit = BatchFit::Auto, Rule::any().read(Read::Placement);
        /// GiB of device memory that a training may plan for; 0 for what the device gives.
        memory_limit: f64 = 0.0, Rule::within(0.0, 4096.0).read(Read::Placement);
        /// Parts of cross-validation, each of which validates once; 1 for the plain split.
        folds: usize = 1, Rule::within(1.0, 1000.0);
        /// Seeds that are each trained on the same split, in place of `seed`.
        seeds: Vec<u32> = Vec::new(), Rule::within(0.0, u32::MAX as f64);
        /// Share of the samples that validate.
        val_split: f64 = 0.2, Rule::within(0.0, 1.0).above().below().read(Read::Split);
        /// Seed of the split, the initial weights, the patches and their augmentation.
        seed: u32 = 42, Rule::within(0.0, u32::MAX as f64);
        /// Epochs without a new lowest validation loss after which training stops; half of it halves the step size.
        patience: usize = 15, Rule::within(1.0, 1e6);
        /// Patches drawn from each training sample per epoch.
        patches_per_sample: usize = 1, Rule::within(1.0, 10_000.0);
        /// Decoupled weight decay of AdamW (Loshchilov and Hutter 2019).
        weight_decay: f64 = 0.01, Rule::within(0.0, 1.0);
        /// What training makes small.
        loss: Loss = Loss::BceDice, Rule::any();
        /// Factor of the cross-entropy on rosettes, with the loss `bce_dice`.
        pos_weight: f64 = 1.0, Rule::within(0.0, 1e6).above().read(reads::CROSS_ENTROPY);
        /// Exponent of the focal loss: how much pixels that are right already count less.
        focal_gamma: f64 = 2.0, Rule::within(0.0, 20.0).read(reads::FOCAL);
        /// Factor of the focal loss on rosettes; 1 minus that elsewhere.
        focal_alpha: f64 = 0.25, Rule::within(0.0, 1.0).read(reads::FOCAL);
        /// Weight of false positives in Tversky's index.
        tversky_alpha: f64 = 0.3, Rule::within(0.0, 100.0).read(reads::TVERSKY);
        /// Weight of false negatives in Tversky's index.
        tversky_beta: f64 = 0.7, Rule::within(0.0, 100.0).read(reads::TVERSKY);
        /// Share of the Dice loss in the loss `bce_dice`; binary cross-entropy has the rest.
        dice_weight: f64 = 0.5, Rule::within(0.0, 1.0).read(reads::BCE_DICE);
        /// Share of the training patches that are centred on a rosette, in samples that have one.
        foreground_share: f64 = 0.7, Rule::within(0.0, 1.0);
        /// Winograd's fast 3x3 convolutions where the device gains by them; they round ten times as much (to 1e-5).
        winograd: bool = true, Rule::any();
        /// Computes cheap tensors again instead of keeping them: a sixth less memory (a third on software adapters), a few
        /// percent more time.
        recompute: Recompute = Recompute::Auto, Rule::any().read(Read::Placement);
        /// How activations are stored.
        precision: Precision = Precision::F32, Rule::any();
        /// Kernels by the device's limits alone, whatever `rosette tune` has measured: the same bytes after tuning too.
        deterministic: bool = false, Rule::any();
        /// How training samples reach the device.
        data: DataConfig = DataConfig::default(), Rule::any();
        /// What is done to training patches.
        augmentation: AugmentationConfig = AugmentationConfig::default(), Rule::any();
        /// What a training shows of itself besides its log; without influence on what it learns.
        report: ReportConfig = ReportConfig::default(), Rule::any();
    }
}

section! {
    /// What a training shows of itself besides its log; without influence on what it learns.
    #[serde(default)]
    ReportConfig {
        /// Epochs between two pictures of predictions for validation images; 0 for one at the end alone.
        overlay_every: usize = 20, Rule::within(0.0, 1e6);
        /// Whether TensorBoard's event files are written.
        tensorboard: bool = true, Rule::any();
    }
}

section! {
    /// How training samples reach the device.
    #[serde(default)]
    DataConfig {
        /// GiB of device memory for training samples: where they all fit, they stay there; else they are streamed.
        memory_budget: f64 = 2.0, Rule::within(0.0, 1024.0)
            .because("it is in GiB: a byte a pixel, and four more with use_intensity; 0 streams every sample")
            .read(Read::Placement);
    }
}

/// A probability, with what to do about one that is none.
const PROBABILITY: Rule =
    Rule::within(0.0, 1.0).because("it is a probability: 0 switches it off, 1 applies it always");

section! {
    /// The probability with which a training patch undergoes each transform.
    #[serde(default)]
    AugmentationConfig {
        /// Mirrors left and right.
        horizontal_flip: f64 = 0.5, PROBABILITY;
        /// Mirrors top and bottom.
        vertical_flip: f64 = 0.5, PROBABILITY;
        /// Rotates by a random multiple of 90 degrees.
        rotation: f64 = 0.5, PROBABILITY;
        /// Displaces smoothly (Simard et al. 2003).
        elastic_transform: f64 = 0.25, PROBABILITY;
        /// Scales, shifts and rotates a little.
        affine_transform: f64 = 0.5, PROBABILITY;
        /// Blanks a few rectangles of the input.
        coarse_dropout: f64 = 0.2, PROBABILITY;
        /// Enlarges or shrinks more than the affine transform does.
        random_scale: f64 = 0.0, PROBABILITY;
        /// Multiplies the intensity channel.
        intensity_gain: f64 = 0.0, PROBABILITY.read(reads::INTENSITY);
        /// Raises the intensity channel to a power.
        intensity_gamma: f64 = 0.0, PROBABILITY.read(reads::INTENSITY);
        /// Adds Gaussian noise to the intensity channel.
        intensity_noise: f64 = 0.0, PROBABILITY.read(reads::INTENSITY);
        /// Blurs the intensity channel.
        intensity_blur: f64 = 0.0, PROBABILITY.read(reads::INTENSITY);
        /// How strong the transforms are.
        magnitudes: MagnitudeConfig = MagnitudeConfig::default(), Rule::any();
    }
}

section! {
    /// How strong the transforms are. Lengths in px are for patches of 512 px and shrink with the patch.
    #[serde(default)]
    MagnitudeConfig {
        /// Factor of the smoothed noise that displaces a patch, in px.
        elastic_alpha: f64 = 120.0, Rule::within(0.0, 10_000.0).read(reads::ELASTIC);
        /// Deviation of the Gaussian that smooths that noise, in px.
        elastic_sigma: f64 = 6.0, Rule::within(1.0, 32.0).read(reads::ELASTIC);
        /// How far the elastic transform's affine moves its control points, in px.
        elastic_affine: f64 = 3.6, Rule::within(0.0, 64.0).read(reads::ELASTIC);
        /// The affine transform scales by 1 minus to 1 plus this.
        affine_scale: f64 = 0.1, Rule::within(0.0, 0.9).read(reads::AFFINE);
        /// Shifts by up to this share of the side.
        affine_shift: f64 = 0.1, Rule::within(0.0, 1.0).read(reads::AFFINE);
        /// Rotates by up to so many degrees either way.
        affine_rotation: f64 = 15.0, Rule::within(0.0, 180.0).read(reads::AFFINE);
        /// Rectangles blanked, at most.
        dropout_holes: usize = 5, Rule::within(1.0, 5.0).read(reads::DROPOUT);
        /// Their shortest side, in px.
        dropout_least: f64 = 10.0, Rule::within(1.0, 512.0).read(reads::DROPOUT);
        /// Their longest side, in px.
        dropout_most: f64 = 40.0, Rule::within(1.0, 512.0).read(reads::DROPOUT);
        /// The random scale is from 1 minus to 1 plus this.
        scale: f64 = 0.25, Rule::within(0.0, 0.9).read(reads::SCALE);
        /// The intensity's gain is from 1 minus to 1 plus this.
        gain: f64 = 0.2, Rule::within(0.0, 1.0).read(reads::GAIN);
        /// Its exponent is from 1 minus to 1 plus this.
        gamma: f64 = 0.3, Rule::within(0.0, 0.9).read(reads::GAMMA);
        /// Largest deviation of the noise; intensities are at most 1.
        noise: f64 = 0.05, Rule::within(0.0, 1.0).read(reads::NOISE);
        /// Largest deviation of the blur, in px of the image.
        blur: f64 = 1.5, Rule::within(0.0, 8.0).read(reads::BLUR);
    }
}

impl AugmentationConfig {
    /// Some transform has a chance.
    pub fn any(&self) -> bool {
        let all = [
            self.horizontal_flip,
            self.vertical_flip,
            self.rotation,
            self.elastic_transform,
            self.affine_transform,
            self.coarse_dropout,
            self.random_scale,
            self.intensity_gain,
            self.intensity_gamma,
            self.intensity_noise,
            self.intensity_blur,
        ];
        all.iter().any(|probability| *probability > 0.0)
    }
}

/// An experiment with every setting resolved and checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// Names the output directory.
    pub name: String,
    /// What it is for, in the user's words.
    pub description: String,
    /// What the network is.
    pub model: ModelConfig,
    /// How it is trained.
    pub training: TrainingConfig,
}

impl Experiment {
    /// The built-in defaults under a name.
    pub fn defaults(name: &str) -> Self {
        Self {
            name: name.to_string(),
            description: String::new(),
            model: ModelConfig::default(),
            training: TrainingConfig::default(),
        }
    }

    /// Takes one key of an experiment or an override: a training setting, a model setting, or a mapping of either.
    pub(super) fn set(&mut self, key: &Key, node: &Node, at: &Place) -> Result<()> {
        let below = at.below(&key.name);
        match key.name.as_str() {
            "description" => return self.description.update(node, &Rule::any(), &below),
            "model" => return self.model.merge(node, &below),
            _ => {}
        }
        match self.training.field(&key.name).or_else(|| self.model.field(&key.name)) {
            Some((setting, rule)) => setting.update(node, &rule, &below),
            None => Err(at.unknown_key(key, &self.names())),
        }
    }

    /// The dotted names of the keys that an experiment may hold, besides its own `name`.
    pub(super) fn names(&self) -> Vec<String> {
        let own = std::iter::once("description".to_string());
        own.chain(self.training.names()).chain(self.model.names()).collect()
    }

    /// Whether the settings go together; `source` is where they came from.
    ///
    /// # Errors
    /// A user error that names two that do not.
    pub(super) fn check(&self, source: &str) -> Result<()> {
        let training = &self.training;
        let mistake = |key: &str, expected: String, found: String, remedy: &str| {
            Err(Error::user(format!("{source}: experiments[{}].{key}", self.name), expected, found, remedy))
        };
        let (least, rate) = (training.min_learning_rate, training.learning_rate);
        if least > rate {
            let expected = format!("at most the learning_rate, {rate}");
            return mistake("min_learning_rate", expected, least.to_string(), "lower it, or set it to 0");
        }
        let (warmup, epochs) = (training.warmup_epochs, training.num_epochs);
        if warmup > epochs as f64 {
            let expected = format!("at most num_epochs, {epochs}");
            let remedy = "lower it, or raise num_epochs: the learning rate would never reach its full size";
            return mistake("warmup_epochs", expected, warmup.to_string(), remedy);
        }
        if training.loss == Loss::Tversky && training.tversky_alpha + training.tversky_beta == 0.0 {
            let expected = "tversky_alpha and tversky_beta of which one is above 0".to_string();
            return mistake("loss", expected, "0 and 0".into(), "0.3 and 0.7 are the published ones");
        }
        let mut seeds = training.seeds.clone();
        seeds.sort_unstable();
        if let Some(pair) = seeds.windows(2).find(|pair| pair[0] == pair[1]) {
            let found = format!("{} twice", pair[0]);
            return mistake("seeds", "every seed once".into(), found, "take the repetition out of the list");
        }
        Ok(())
    }

    /// Input channels: boundaries, cells and, with `use_intensity`, intensity.
    pub fn input_channels(&self) -> usize {
        if self.model.use_intensity { 3 } else { 2 }
    }
}
