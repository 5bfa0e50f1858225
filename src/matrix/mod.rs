//! The experiment matrix: every experiment of a configuration, split, trained and compared, as one command that can be
//! given again at any time. What is done and unchanged is left alone.

mod children;
mod decide;
mod members;
mod page;
mod plan;
mod run;
mod summary;

pub use children::CHILD_ERROR;
pub use decide::{Decision, Inputs, decide};
pub use members::{MemberPlan, has_members, members, train_members, trainings};
pub use page::write_page;
pub use plan::{Plan, Planned, plan_matrix};
pub use run::{MatrixOutcome, MatrixRun, experiment_of, run_matrix};
pub use summary::{SummaryRow, rebuild, summary_table, write_summary};
