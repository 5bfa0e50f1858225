//! The autograd tape: a step is recorded once as a linear program of dispatches, planned, and replayed.
//!
//! The tape knows `dyn Op`, no concrete operation and nothing of wgpu. Recording runs nothing: an operation appends
//! dispatches, and [`Tape::backward`] asks each node, last to first, to append those of its gradient.

mod ahead;
mod array;
mod dispatch;
mod load;
mod op;
mod plan;
mod program;
mod reading;
mod record;
mod tensor;
mod tuning;

pub use ahead::Prepared;
pub use array::Array;
pub use dispatch::DispatchBuilder;
pub use load::{Loaded, SlotPool, Stores};
pub use op::{Case, CaseInput, Fill, Node, Op, OpEntry};
pub use plan::{Lifetime, MemoryPlan};
pub use program::{Arg, Dispatch, Flops, Phase, Program};
pub use reading::{Moments, Normalisation, Read};
pub use record::{Mode, Tape};
pub use tensor::{Element, Home, Layout, LayoutEntry, Shape, Store, TensorId, TensorInfo};
pub use tuning::Tuning;
