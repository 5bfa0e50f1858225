//! What an operation is to the tape, and what the tests want of it.

use std::fmt::Debug;

use super::array::Array;
use super::reading::Read;
use super::record::Tape;
use super::tensor::{Shape, Store, TensorId};

/// A differentiable operation. The implementations live in `ops/`, one file each.
pub trait Op: Debug + Send + Sync {
    /// Its name: also its file, its shader and its label.
    fn name(&self) -> &'static str;

    /// Its name with what decides what it costs, for tables of times.
    fn label(&self) -> String {
        self.name().to_owned()
    }

    /// Shapes of the outputs for given inputs, or why these inputs do not fit.
    fn infer(&self, inputs: &[&Shape]) -> Result<Vec<Shape>, String>;

    /// Appends the forward dispatches. Returns what the backward pass needs besides inputs and outputs.
    fn forward(&self, tape: &mut Tape, inputs: &[TensorId], outputs: &[TensorId]) -> Vec<TensorId>;

    /// Appends the dispatches of the gradients. `dy` has one entry for each output, `None` where no gradient comes;
    /// `needs` says for each input whether its gradient is wanted. Gradients of weights go to
    /// [`Tape::weight_gradient`] and are not returned; those of activations are returned.
    fn backward(
        &self,
        tape: &mut Tape,
        node: &Node,
        dy: &[Option<TensorId>],
        needs: &[bool],
    ) -> Vec<Option<TensorId>>;

    /// Whether [`Op::recompute`] is worth it for that output: a pass or two over memory. The outputs for which it is come
    /// first.
    fn recomputes(&self, _output: usize) -> bool {
        false
    }

    /// Records those outputs of `node` once more, from `inputs` (which stand in for its own; normalised as they are read where it
    /// [normalises](Op::normalises)) and what was saved, to the same bits: so that they need not live until the backward pass.
    fn recompute(&self, _: &mut Tape, node: &Node, _: &[Read]) -> Vec<TensorId> {
        unreachable!("{} is not computed again", node.name)
    }

    /// Whether the operation can normalise that input as it reads it, by [`Tape::read`], forward and backward.
    fn normalises(&self, _input: usize) -> bool {
        false
    }

    /// Writes the outputs of `node` that its forward pass left to their readers ([`Tape::defer`]).
    fn write_deferred(&self, _: &mut Tape, node: &Node) {
        unreachable!("{} was written", node.name)
    }

    /// Inputs that the forward pass changes in place.
    fn mutates(&self) -> &'static [usize] {
        &[]
    }

    /// The forward pass in plain f64 loops: the outputs, then the new values of the inputs that it changes.
    fn reference(&self, inputs: &[Array]) -> Vec<Array>;
}

/// An operation applied: one line of the tape.
#[derive(Debug)]
pub struct Node {
    /// Its place in the network, such as `enc1.0`.
    pub name: String,
    /// What was applied.
    pub op: Box<dyn Op>,
    /// To what.
    pub inputs: Vec<TensorId>,
    /// Giving what.
    pub outputs: Vec<TensorId>,
    /// What its forward pass kept for the backward pass.
    pub saved: Vec<TensorId>,
}

/// How a test fills an input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// Normal with that mean and deviation.
    Normal(f64, f64),
    /// Normal, but at least that far from zero: away from the kink of ReLU.
    AwayFromZero(f64),
    /// All values apart from each other by at least that much: away from the ties of pooling.
    Distinct(f64),
    /// Uniform between two values.
    Uniform(f64, f64),
    /// 0 or 1, with some -1 (ignored pixels) where the flag is set.
    Target(bool),
    /// The same value everywhere.
    Constant(f64),
    /// Normal, but for the last element.
    NormalButLast(f64),
    /// These values, one for each element.
    Listed(&'static [f64]),
}

/// An input of a case: its shape, where it lives, and how it is filled.
#[derive(Debug, Clone)]
pub struct CaseInput {
    /// As the kernels see it.
    pub shape: Shape,
    /// Where it lives.
    pub store: Store,
    /// Its values.
    pub fill: Fill,
    /// Whether its gradient is checked.
    pub differentiable: bool,
    /// It is what a batch norm left to its readers, with a ReLU or without: `fill` fills what was not normalised yet.
    pub deferred: Option<bool>,
}

impl CaseInput {
    /// An activation, normal, with a gradient.
    pub fn activation(shape: Shape) -> Self {
        Self {
            shape,
            store: Store::Inputs,
            fill: Fill::Normal(0.0, 1.0),
            differentiable: true,
            deferred: None,
        }
    }

    /// A parameter, normal with that deviation, with a gradient.
    pub fn weight(shape: Shape, deviation: f64) -> Self {
        Self {
            shape,
            store: Store::Weights,
            fill: Fill::Normal(0.0, deviation),
            differentiable: true,
            deferred: None,
        }
    }

    /// Neither: no gradient is wanted.
    pub fn constant(shape: Shape, store: Store, fill: Fill) -> Self {
        Self { shape, store, fill, differentiable: false, deferred: None }
    }

    /// The same with another fill.
    pub fn filled(self, fill: Fill) -> Self {
        Self { fill, ..self }
    }
}

/// A shape worth testing and timing: awkward ones first.
#[derive(Debug)]
pub struct Case {
    /// What is particular about it.
    pub label: String,
    /// The operation with its settings.
    pub op: Box<dyn Op>,
    /// Its inputs.
    pub inputs: Vec<CaseInput>,
    /// Allowed relative error of outputs and gradients, against the largest magnitude of the array.
    pub tolerance: f64,
    /// Too large for gradient checks by differences; forward against the reference only.
    pub forward_only: bool,
    /// So many of the outputs, from the first on, take part in the loss that gradients are checked of.
    pub outputs_with_gradient: usize,
}

impl Case {
    /// A case with the usual tolerance.
    pub fn new(label: impl Into<String>, op: impl Op + 'static, inputs: Vec<CaseInput>) -> Self {
        Self {
            label: label.into(),
            op: Box::new(op),
            inputs,
            tolerance: 2e-5,
            forward_only: false,
            outputs_with_gradient: 1,
        }
    }

    /// The same with gradients through so many outputs, from the first on.
    pub fn with_gradients_of(self, outputs: usize) -> Self {
        Self { outputs_with_gradient: outputs, ..self }
    }

    /// The case with some of its inputs left to the operation by batch norms, with a ReLU or without.
    pub fn deferred(mut self, inputs: &[usize], relu: bool) -> Self {
        self.label += if relu { " normalised, ReLU" } else { " normalised" };
        inputs.iter().for_each(|place| self.inputs[*place].deferred = Some(relu));
        self
    }

    /// Marks a case that is only compared forward.
    pub fn forward_only(self) -> Self {
        Self { forward_only: true, ..self }
    }
}

/// An operation in the one list of all.
#[derive(Debug, Clone, Copy)]
pub struct OpEntry {
    /// Its name.
    pub name: &'static str,
    /// Its cases.
    pub cases: fn() -> Vec<Case>,
}
