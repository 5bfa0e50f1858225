//! Which settings have an influence on what a training learns: many matter only beside others. What has none is no reason
//! to train again, and a warning where somebody set it.
//!
//! [`crate::config::experiment`] says of every setting when it is read; the conditions are here.

use crate::config::experiment::{Experiment, Loss, Scheduler};
use crate::config::origin::{Origin, Origins};
use crate::config::setting::Section;

/// When a setting has an influence on what is learnt.
#[derive(Clone, Copy, Debug)]
pub enum Read {
    /// In every training.
    Always,
    /// Only where this holds, which the words say.
    With(&'static str, fn(&Experiment) -> bool),
    /// Only where it decides into which parts a batch is cut: it says where things lie, and what is learnt is the same to
    /// the bit.
    Placement,
    /// By the split alone: it changes the samples, or nothing.
    Split,
}

/// The loss has the two parts.
pub const BCE_DICE: Read = Read::With("loss: bce_dice", |e| e.training.loss == Loss::BceDice);
/// The loss has cross-entropy in it.
pub const CROSS_ENTROPY: Read = Read::With("loss: bce_dice and a dice_weight below 1", |e| {
    e.training.loss == Loss::BceDice && e.training.dice_weight < 1.0
});
/// The loss is focal.
pub const FOCAL: Read = Read::With("loss: focal", |e| e.training.loss == Loss::Focal);
/// The loss is Tversky's.
pub const TVERSKY: Read = Read::With("loss: tversky", |e| e.training.loss == Loss::Tversky);
/// The learning rate falls.
pub const FALLING: Read =
    Read::With("scheduler: plateau, cosine or poly", |e| e.training.scheduler != Scheduler::Constant);
/// It falls by a power.
pub const POLY: Read = Read::With("scheduler: poly", |e| e.training.scheduler == Scheduler::Poly);
/// There is an intensity.
pub const INTENSITY: Read = Read::With("use_intensity: true", |e| e.model.use_intensity);
/// Patches are displaced.
pub const ELASTIC: Read =
    Read::With("an elastic_transform above 0", |e| e.training.augmentation.elastic_transform > 0.0);
/// Patches undergo the affine transform.
pub const AFFINE: Read =
    Read::With("an affine_transform above 0", |e| e.training.augmentation.affine_transform > 0.0);
/// Rectangles are blanked. The exposure is drawn after them, and a draw from another range may take one number more.
pub const DROPOUT: Read = Read::With("a coarse_dropout above 0", |e| {
    let exposed = [GAIN, GAMMA, NOISE, BLUR].iter().any(|read| read.holds(e));
    e.training.augmentation.coarse_dropout > 0.0 || exposed
});
/// Patches are scaled.
pub const SCALE: Read = Read::With("a random_scale above 0", |e| e.training.augmentation.random_scale > 0.0);
/// The intensity is made brighter or darker.
pub const GAIN: Read = Read::With("use_intensity: true and an intensity_gain above 0", |e| {
    e.model.use_intensity && e.training.augmentation.intensity_gain > 0.0
});
/// The intensity is raised to a power.
pub const GAMMA: Read = Read::With("use_intensity: true and an intensity_gamma above 0", |e| {
    e.model.use_intensity && e.training.augmentation.intensity_gamma > 0.0
});
/// Noise is added to the intensity.
pub const NOISE: Read = Read::With("use_intensity: true and an intensity_noise above 0", |e| {
    e.model.use_intensity && e.training.augmentation.intensity_noise > 0.0
});
/// The intensity is blurred.
pub const BLUR: Read = Read::With("use_intensity: true and an intensity_blur above 0", |e| {
    e.model.use_intensity && e.training.augmentation.intensity_blur > 0.0
});

impl Read {
    /// Whether the training of an experiment reads such a setting itself.
    fn holds(&self, experiment: &Experiment) -> bool {
        match self {
            Self::Always => true,
            Self::With(_, holds) => holds(experiment),
            Self::Placement | Self::Split => false,
        }
    }
}

impl Experiment {
    /// Whether a setting, by its dotted name (`focal_gamma`, `augmentation.magnitudes.blur`), may have an influence on
    /// what is learnt beyond what it does to the samples and to the parts of a batch.
    pub fn reads(&self, name: &str) -> bool {
        self.rule_of(name).is_none_or(|read| read.holds(self))
    }

    /// Whether a setting only says where things lie on the device: it changes what is learnt where it changes the parts
    /// into which a batch is cut, and not else.
    pub fn is_placement(&self, name: &str) -> bool {
        matches!(self.rule_of(name), Some(Read::Placement))
    }

    fn rule_of(&self, name: &str) -> Option<Read> {
        self.training.rules().into_iter().find(|(known, _)| known == name).map(|(_, rule)| rule.read)
    }

    /// A line for each setting that somebody gave another value than the built-in one and that the training does not
    /// read: where it was set, and beside what it would be read.
    pub fn without_effect(&self, origins: &Origins) -> Vec<String> {
        let builtin = Self::defaults("").values();
        let rules = self.training.rules();
        let unread = |name: &str| match rules.iter().find(|(known, _)| known == name)?.1.read {
            Read::With(with, holds) if !holds(self) => Some(with),
            _ => None,
        };
        let mut lines = Vec::new();
        for ((name, value), (_, default)) in self.values().iter().zip(&builtin) {
            let origin = origins.of(name);
            if value != default
                && origin != Origin::Default
                && let Some(with) = unread(name)
            {
                lines.push(format!("{name}: {value} ({origin}) has no effect here: it is read with {with}"));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_is_told_from_its_opposite_by_some_experiment() {
        // Each setting with a condition is unread by one of these and read by another.
        let mut all = vec![Experiment::defaults("plain")];
        for loss in [Loss::Dice, Loss::Focal, Loss::Tversky] {
            let mut experiment = Experiment::defaults("loss");
            experiment.training.loss = loss;
            (experiment.training.scheduler, experiment.model.use_intensity) = (Scheduler::Poly, true);
            let augmentation = &mut experiment.training.augmentation;
            (augmentation.random_scale, augmentation.intensity_gain) = (0.5, 0.5);
            (augmentation.intensity_gamma, augmentation.intensity_noise) = (0.5, 0.5);
            augmentation.intensity_blur = 0.5;
            all.push(experiment);
        }
        let mut still = Experiment::defaults("still");
        still.training.scheduler = Scheduler::Constant;
        let augmentation = &mut still.training.augmentation;
        (augmentation.elastic_transform, augmentation.affine_transform) = (0.0, 0.0);
        augmentation.coarse_dropout = 0.0;
        all.push(still);
        let mut checked = 0;
        for (name, rule) in Experiment::defaults("").training.rules() {
            if let Read::With(with, _) = rule.read {
                let reading = all.iter().filter(|experiment| experiment.reads(&name)).count();
                assert!(reading > 0 && reading < all.len(), "{name}, with {with}: {reading}");
                checked += 1;
            }
        }
        assert!(checked > 20, "{checked}");
    }

    #[test]
    fn cross_entropy_without_a_share_weighs_nothing() {
        let mut experiment = Experiment::defaults("x");
        assert!(experiment.reads("pos_weight") && experiment.reads("learning_rate"));
        experiment.training.dice_weight = 1.0;
        assert!(!experiment.reads("pos_weight") && experiment.reads("dice_weight"));
        assert!(experiment.is_placement("data.memory_budget") && !experiment.reads("val_split"));
        assert!(!experiment.is_placement("winograd") && experiment.reads("base_channels"));
    }
}
