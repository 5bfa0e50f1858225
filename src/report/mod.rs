//! What a run tells people and other programs: progress on the terminal, `training.log`, `metrics.csv`,
//! `training_plots.png`, `predictions.png` and `config.json`.

mod canvas;
pub mod config_json;
pub mod contact_sheet;
pub mod logging;
pub mod metrics;
pub mod overlay;
pub mod plots;
pub mod prediction_sheet;
pub mod progress;

pub use config_json::{BestEpoch, GivenWeights, RunRecord};
pub use logging::LogGuard;
pub use metrics::{EpochRow, MetricsLog};
pub use overlay::Prediction;
pub use progress::{Mode, Progress};
