//! Training: one step on the device, the schedule, the metrics, and the loop that composes them.

mod accumulation;
mod bench;
mod beside;
mod checkpoint;
mod contents;
mod demo;
mod diary;
mod doctor;
mod epoch;
mod fit;
mod keeper;
mod kept;
mod loaded;
mod lock;
mod metrics;
mod numbers;
mod plan;
mod predict;
mod preview;
mod probe;
mod recovery;
mod run;
mod schedule;
mod session;
mod shown;
mod start;
mod step;
mod stop;
mod training;
mod tuning;
mod weights;

pub use accumulation::Accumulation;
pub use bench::{KernelTime, Spent, StepBench, StepTimes, bench_step};
pub use checkpoint::{setting_differences, split_difference};
pub use contents::Buffers;
pub use demo::{DemoPlan, demo};
pub use doctor::{Examined, examine, examine_operation};
pub use fit::Fit;
pub use keeper::{give_up_unfinished, is_unfinished};
pub use loaded::planned_fit;
pub use lock::DirLock;
pub use metrics::{Metrics, Tally};
pub use plan::{
    MemoryEstimate, describe_plan, element_of, estimate_memory, experiment_questions, network, stored_element,
};
pub use predict::{Probability, probabilities};
pub use preview::{Preview, preview};
pub use probe::run_probe;
pub use run::{CHECKPOINT_EVERY, Outcome, TrainRun, train};
pub use schedule::{EarlyStopping, Plateau, Schedule};
pub use session::{PendingStep, Place, Session, StepResult};
pub use shown::forget_shown;
pub use step::{Recorded, StepSettings, record_evaluation, record_training};
pub use stop::{is_requested as stop_is_requested, listen as listen_for_signals, listen_to_stdin};
pub use tuning::{PROBING, TuningCache, choose as choose_form};
pub use weights::{find_record, load_weights, save_weights, state_dict, weights_file};
