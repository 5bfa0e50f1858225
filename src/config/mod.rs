//! The configuration file: `model`, `default_training` and a list of `experiments`, each of which may override any
//! setting. A setting is the last of: the built-in default, the file's default, the experiment's own, `--override`.
//! Mappings merge key by key, so that an experiment which sets one augmentation keeps the others.
//!
//! [`experiment`] is where a setting is added.

pub mod experiment;
mod file;
mod origin;
mod overrides;
mod reads;
mod schema;
mod setting;
mod yaml;

pub use experiment::{
    Architecture, AugmentationConfig, BatchFit, DataConfig, Experiment, Loss, MagnitudeConfig, ModelConfig,
    Precision, Recompute, ReportConfig, Scheduler, Skip, TrainingConfig,
};
pub use file::{Config, is_reserved};
pub use origin::{Origin, Origins};
pub use schema::schema;
