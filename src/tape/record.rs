//! Recording: operations append dispatches, `backward` appends those of the gradients.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::ahead::Ahead;
use super::dispatch::DispatchBuilder;
use super::op::{Node, Op};
use super::program::{Dispatch, Phase, Program};
use super::reading::{Deferred, Moments};
use super::tensor::{Element, Home, Layout, Shape, Store, TensorId, TensorInfo};
use super::tuning::Tuning;
use crate::gpu::{Kernel, Limits};

/// What a program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Forward and backward; `accumulate` adds to the weights' gradients instead of overwriting them.
    Train {
        /// Add to the gradients of the micro-batches before.
        accumulate: bool,
    },
    /// Forward only.
    Evaluate,
}

/// A recording in progress.
pub struct Tape {
    limits: Limits,
    mode: Mode,
    exact: bool,
    pub(super) recompute: bool,
    pub(super) defers: bool,
    stored: Element,
    tuning: Tuning,
    questions: BTreeSet<String>,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) nodes: Vec<Arc<Node>>,
    /// The node and the output that a tensor came from.
    pub(super) producers: HashMap<TensorId, (usize, usize)>,
    /// Tensors computed again for the node whose backward pass is being recorded.
    pub(super) again: HashMap<TensorId, TensorId>,
    /// Tensors that readers can make of another one.
    pub(super) deferred: HashMap<TensorId, Deferred>,
    pub(super) moments: HashMap<TensorId, Moments>,
    pub(super) dispatches: Vec<Dispatch>,
    /// Dispatches among them that may be given further jobs.
    pub(super) ahead: Vec<Ahead>,
    gradients: HashMap<TensorId, TensorId>,
    kept: Vec<TensorId>,
    inputs: Layout,
    outputs: Layout,
    pub(super) phase: Phase,
    pub(super) node_name: String,
    pub(super) operation: String,
}

impl Tape {
    /// An empty recording for a device with these limits.
    pub fn new(limits: Limits, mode: Mode) -> Self {
        Self {
            limits,
            mode,
            exact: false,
            recompute: false,
            defers: true,
            stored: Element::F32,
            tuning: Tuning::default(),
            questions: BTreeSet::new(),
            tensors: Vec::new(),
            nodes: Vec::new(),
            producers: HashMap::new(),
            again: HashMap::new(),
            deferred: HashMap::new(),
            moments: HashMap::new(),
            dispatches: Vec::new(),
            ahead: Vec::new(),
            gradients: HashMap::new(),
            kept: Vec::new(),
            inputs: Layout::default(),
            outputs: Layout::default(),
            phase: Phase::Forward,
            node_name: String::new(),
            operation: String::new(),
        }
    }

    /// The device's limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What the program is for.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether operations must pass over kernels that round more than plain sums do.
    pub fn exact(&self) -> bool {
        self.exact
    }

    /// Sets [`Tape::exact`], for what is recorded from here on.
    pub fn set_exact(&mut self, exact: bool) {
        self.exact = exact;
    }

    /// Lets the backward pass compute cheap tensors again instead of keeping them.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.recompute = recompute;
    }

    /// Whether [`Tape::set_recompute`] asked for less memory.
    pub fn recomputes(&self) -> bool {
        self.recompute
    }

    /// How activations and their gradients are stored.
    pub fn stored_element(&self) -> Element {
        self.stored
    }

    /// Sets [`Tape::stored_element`], for what is recorded from here on.
    pub fn set_stored_element(&mut self, element: Element) {
        self.stored = element;
    }

    /// Lets measurements of the device decide between kernels, for what is recorded from here on.
    pub fn set_tuning(&mut self, tuning: Tuning) {
        self.tuning = tuning;
    }

    /// What must never be taken on this device.
    pub fn banned(&self) -> &'static [String] {
        self.tuning.banned()
    }

    /// What was measured.
    pub fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// What was measured to be fastest, where it was; the program remembers what was asked.
    pub fn ask(&mut self, question: &str) -> Option<&'static str> {
        self.questions.insert(question.to_owned());
        self.tuning.answer(question)
    }

    /// Gradients of weights are added to what is there (1) or written over it (0), as kernels take it.
    pub fn accumulate(&self) -> u32 {
        u32::from(self.mode == Mode::Train { accumulate: true })
    }

    /// A tensor that the host uploads before each run.
    pub fn input(&mut self, name: &str, shape: Shape) -> TensorId {
        self.input_as(name, shape, Element::F32)
    }

    /// [`Tape::input`] of elements other than f32.
    pub fn input_as(&mut self, name: &str, shape: Shape, element: Element) -> TensorId {
        let offset_bytes = self.inputs.push_as(name, shape.clone(), element);
        let home = Home::Stored { store: Store::Inputs, offset_bytes };
        self.push(name, shape, element, home, false)
    }

    /// A tensor that the host reads back after each run.
    pub fn output(&mut self, name: &str, shape: Shape) -> TensorId {
        let offset_bytes = self.outputs.push(name, shape.clone());
        self.stored(name, shape, Store::Outputs, offset_bytes, true)
    }

    /// A range of a flat buffer.
    pub fn stored(
        &mut self,
        name: &str,
        shape: Shape,
        store: Store,
        offset_bytes: u64,
        differentiable: bool,
    ) -> TensorId {
        self.push(name, shape, Element::F32, Home::Stored { store, offset_bytes }, differentiable)
    }

    /// A tensor of f32 that lives from its first to its last use within the program: partial sums and the like.
    pub fn transient(&mut self, name: &str, shape: Shape) -> TensorId {
        self.transient_as(name, shape, Element::F32)
    }

    /// An activation or its gradient, stored as the program stores these, from its first to its last use.
    pub fn activation(&mut self, name: &str, shape: Shape) -> TensorId {
        let element = self.stored.of_activation(&shape);
        self.transient_as(name, shape, element)
    }

    fn transient_as(&mut self, name: &str, shape: Shape, element: Element) -> TensorId {
        let name = match (self.phase, self.node_name.as_str()) {
            (_, "") => name.to_owned(),
            (Phase::Backward, node) => format!("{node}:{name}'"),
            (_, node) => format!("{node}:{name}"),
        };
        self.push(&name, shape, element, Home::Transient, true)
    }

    pub(super) fn push(
        &mut self,
        name: &str,
        shape: Shape,
        element: Element,
        home: Home,
        differentiable: bool,
    ) -> TensorId {
        self.tensors.push(TensorInfo { name: name.to_owned(), shape, element, home, differentiable });
        TensorId(self.tensors.len() as u32 - 1)
    }

    /// The tensor's record.
    pub fn info(&self, id: TensorId) -> &TensorInfo {
        &self.tensors[id.0 as usize]
    }

    /// The tensor's shape.
    pub fn shape(&self, id: TensorId) -> &Shape {
        &self.info(id).shape
    }

    /// How the tensor's elements are stored.
    pub fn element(&self, id: TensorId) -> Element {
        self.info(id).element
    }

    /// Lets gradients flow to an input (for tests of gradients), or stops them.
    pub fn set_differentiable(&mut self, id: TensorId, differentiable: bool) {
        self.tensors[id.0 as usize].differentiable = differentiable;
    }

    /// Keeps a transient tensor whole until the end of the program.
    pub fn keep(&mut self, id: TensorId) {
        self.materialise(id);
        self.kept.push(id);
    }

    /// Applies an operation: infers, allocates its outputs and records its forward pass.
    ///
    /// # Panics
    /// Where the inputs do not fit the operation: the network is wrong.
    pub fn apply(&mut self, name: &str, op: impl Op + 'static, inputs: &[TensorId]) -> Vec<TensorId> {
        self.apply_boxed(name, Box::new(op), inputs)
    }

    /// [`Tape::apply`] for an operation that gives one output.
    pub fn apply1(&mut self, name: &str, op: impl Op + 'static, inputs: &[TensorId]) -> TensorId {
        let outputs = self.apply(name, op, inputs);
        assert_eq!(outputs.len(), 1, "{name} gives one output");
        outputs[0]
    }

    /// [`Tape::apply`] for an operation in a box.
    pub fn apply_boxed(&mut self, name: &str, op: Box<dyn Op>, inputs: &[TensorId]) -> Vec<TensorId> {
        let shapes: Vec<&Shape> = inputs.iter().map(|id| self.shape(*id)).collect();
        let shapes = op.infer(&shapes).unwrap_or_else(|e| panic!("{name} ({}): {e}", op.name()));
        self.node_name = name.to_owned();
        let outputs: Vec<TensorId> = shapes.into_iter().map(|s| self.activation(op.name(), s)).collect();
        self.record_node(op, inputs, outputs.clone());
        outputs
    }

    /// [`Tape::apply`] into tensors that exist already, such as outputs that the host reads.
    pub fn apply_into(
        &mut self,
        name: &str,
        op: impl Op + 'static,
        inputs: &[TensorId],
        outputs: &[TensorId],
    ) {
        self.node_name = name.to_owned();
        self.record_node(Box::new(op), inputs, outputs.to_vec());
    }

    fn record_node(&mut self, op: Box<dyn Op>, inputs: &[TensorId], outputs: Vec<TensorId>) {
        for (_, id) in inputs.iter().enumerate().filter(|(place, _)| !op.normalises(*place)) {
            self.materialise(*id);
        }
        self.operation = op.label();
        let saved = op.forward(self, inputs, &outputs);
        let differentiable = inputs.iter().any(|id| self.info(*id).differentiable);
        for id in &outputs {
            self.set_differentiable(*id, differentiable);
        }
        for (place, id) in outputs.iter().enumerate() {
            self.producers.insert(*id, (self.nodes.len(), place));
        }
        self.operation.clear();
        let name = std::mem::take(&mut self.node_name);
        self.nodes.push(Arc::new(Node { name, op, inputs: inputs.to_vec(), outputs, saved }));
    }

    /// Sets the part of the step that the dispatches from here on belong to.
    pub fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Appends the gradients of `output` with respect to every differentiable tensor, starting from `seed` (the
    /// gradient of `output` itself). `add` records the sum of two gradients of one tensor.
    pub fn backward(
        &mut self,
        output: TensorId,
        seed: TensorId,
        add: fn(&mut Tape, TensorId, TensorId) -> TensorId,
    ) {
        self.backward_from(&[(output, seed)], add);
    }

    /// [`Tape::backward`] from several outputs, each with its own gradient.
    pub fn backward_from(
        &mut self,
        seeds: &[(TensorId, TensorId)],
        add: fn(&mut Tape, TensorId, TensorId) -> TensorId,
    ) {
        self.phase = Phase::Backward;
        self.gradients.extend(seeds.iter().copied());
        for node in self.nodes.clone().iter().rev() {
            let dy: Vec<Option<TensorId>> = node.outputs.iter().map(|id| self.gradient(*id)).collect();
            if dy.iter().all(Option::is_none) {
                continue;
            }
            let needs: Vec<bool> = node.inputs.iter().map(|id| self.info(*id).differentiable).collect();
            self.node_name.clone_from(&node.name);
            self.operation = node.op.label();
            self.again.clear();
            let gradients = node.op.backward(self, node, &dy, &needs);
            for (input, gradient) in node.inputs.iter().zip(gradients) {
                let Some(gradient) = gradient else { continue };
                let total = match self.gradients.get(input) {
                    // The operation has added to it in place.
                    Some(other) if *other == gradient => gradient,
                    Some(other) => add(self, *other, gradient),
                    None => gradient,
                };
                self.gradients.insert(*input, total);
            }
        }
        self.node_name.clear();
        self.operation.clear();
    }

    /// The gradient that [`Tape::backward`] gave an activation.
    pub fn gradient(&self, id: TensorId) -> Option<TensorId> {
        self.gradients.get(&id).copied()
    }

    /// The gradient that an activation has so far, where an operation may add its own to it in place and return it: not
    /// where it is the gradient of another tensor too, as those of a sum's terms are.
    pub fn gradient_so_far(&self, id: TensorId) -> Option<TensorId> {
        let gradient = self.gradient(id)?;
        let owners = self.gradients.values().filter(|other| **other == gradient).count();
        (owners == 1 && self.info(gradient).home == Home::Transient).then_some(gradient)
    }

    /// Where the gradient of a weight goes: the range of the gradients' buffer at the weight's own offset.
    ///
    /// # Panics
    /// Where the tensor is no weight.
    pub fn weight_gradient(&mut self, weight: TensorId) -> TensorId {
        let info = self.info(weight).clone();
        let Home::Stored { store: Store::Weights, offset_bytes } = info.home else {
            panic!("{} is no weight", info.name)
        };
        let gradient =
            self.stored(&format!("{}'", info.name), info.shape, Store::Gradients, offset_bytes, false);
        self.gradients.insert(weight, gradient);
        gradient
    }

    /// The batch in as many parts as it takes for one part of each tensor to fit a storage binding and to start where a
    /// binding may: all of one length but for the last, which may be shorter.
    ///
    /// # Panics
    /// Where a single image does not fit, or no number of images ends on a boundary; training tells the user before it
    /// records.
    pub fn image_slices(&self, tensors: &[TensorId]) -> Vec<Range<usize>> {
        let count = self.shape(tensors[0]).dims()[0];
        let image_bytes = |id: &TensorId| self.info(*id).bytes() / count as u64;
        let most = tensors.iter().map(|id| self.limits.storage_binding_bytes / image_bytes(id)).min();
        let most = (most.expect("at least one tensor") as usize).min(count);
        assert!(most > 0, "{}: one image exceeds the binding limit", self.info(tensors[0]).name);
        let alignment = self.limits.offset_alignment_bytes;
        let aligned = |step: &usize| {
            *step >= count
                || tensors.iter().all(|id| (*step as u64 * image_bytes(id)).is_multiple_of(alignment))
        };
        // As even as can be, else the most that ends on a boundary.
        let even = count.div_ceil(count.div_ceil(most));
        let step = std::iter::once(even).chain((1..=most).rev()).find(aligned).unwrap_or_else(|| {
            panic!("{}: no number of images ends on a boundary", self.info(tensors[0]).name)
        });
        (0..count).step_by(step).map(|start| start..(start + step).min(count)).collect()
    }

    /// Starts a dispatch of `kernel`.
    pub fn dispatch(&mut self, kernel: Kernel) -> DispatchBuilder<'_> {
        DispatchBuilder::new(self, kernel)
    }

    /// Ends the recording.
    pub fn finish(mut self) -> Program {
        self.close_ahead();
        Program {
            tensors: self.tensors,
            dispatches: self.dispatches,
            kept: self.kept,
            questions: self.questions.into_iter().collect(),
            input_bytes: self.inputs.total_bytes(),
            output_bytes: self.outputs.total_bytes(),
        }
    }
}
