//! What a run tells people and other programs: progress on the terminal, `training.log`, `metrics.csv`,
//! `training_plots.png`, `predictions.png`, `config.json`, `report.html`, TensorBoard's events and those of `--json`.

mod canvas;
pub mod config_json;
pub mod contact_sheet;
pub mod events;
pub mod experiment_page;
pub mod html;
pub mod logging;
pub mod metrics;
pub mod overlay;
pub mod plots;
pub mod prediction_sheet;
pub mod progress;
pub mod svg;
pub mod tensorboard;

pub use config_json::{BestEpoch, GivenWeights, RunRecord};
pub use events::Event;
pub use logging::LogGuard;
pub use metrics::{EpochRow, MetricsLog};
pub use overlay::Prediction;
pub use progress::{Mode, Progress};
