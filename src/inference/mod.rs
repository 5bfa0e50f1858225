//! A trained model at work: whole images of any size, in windows that overlap; what comes out as files, pictures and
//! scores.

mod engine;
mod evaluate;
mod evaluation_page;
mod input;
mod model;
mod objects;
mod predict;
mod scores;
mod surface;
mod sweep;
mod windows;

pub use engine::{Engine, EngineSettings};
pub use evaluate::{EvaluationRow, Scoring, evaluate, sweep};
pub use input::{Image, load_image, load_sample};
pub use model::Model;
pub use objects::{ObjectScores, components, drop_small, match_objects};
pub use predict::{Ensemble, Inputs, PredictionRow, Predictor, predict_all};
pub use scores::{PixelScores, average_precision};
pub use surface::{SurfaceScores, distance_to, surface_scores};
pub use sweep::{Sweep, SweepRow};
pub use windows::{TRANSFORMS, Windows};
