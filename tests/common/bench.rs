//! One operation on a device, forward and backward, with values of the test's choice.

use rosette::gpu::{Gpu, SharedBuffer};
use rosette::tape::{Layout, Loaded, Mode, Op, Shape, SlotPool, Store, Stores, Tape, TensorId};

/// An input of the operation.
#[derive(Debug, Clone)]
pub struct Input {
    pub shape: Shape,
    pub store: Store,
    pub values: Vec<f32>,
    /// Its gradient is wanted.
    pub gradient: bool,
}

impl Input {
    /// An activation, with a gradient.
    pub fn activation(shape: Shape, values: Vec<f32>) -> Self {
        Self { shape, store: Store::Inputs, values, gradient: true }
    }

    /// A trained parameter, with a gradient.
    pub fn weight(shape: Shape, values: Vec<f32>) -> Self {
        Self { shape, store: Store::Weights, values, gradient: true }
    }

    /// Neither, in the flat buffer `store`.
    pub fn constant(shape: Shape, store: Store, values: Vec<f32>) -> Self {
        Self { shape, store, values, gradient: false }
    }
}

/// The operation, recorded and loaded.
pub struct Bench<'a> {
    gpu: &'a Gpu,
    pub loaded: Loaded,
    inputs: Vec<TensorId>,
    outputs: Vec<TensorId>,
    gradients: Vec<Option<TensorId>>,
}

impl<'a> Bench<'a> {
    /// Records `op` on `inputs`, and its backward pass from the gradient `dy` of the first output where one is given.
    /// What no kernel writes is NaN.
    pub fn new(gpu: &'a Gpu, op: Box<dyn Op>, inputs: &[Input], dy: Option<&[f32]>) -> Self {
        let mut tape = Tape::new(gpu.limits(), Mode::Train { accumulate: false });
        let mut layouts = Layouts::default();
        let ids: Vec<TensorId> = inputs.iter().map(|input| layouts.add(&mut tape, input)).collect();
        let outputs = tape.apply_boxed("op", op, &ids);
        let seed = dy.map(|_| {
            let seed = tape.input("dy", tape.shape(outputs[0]).clone());
            tape.backward(outputs[0], seed, |_, _, _| unreachable!("one node has no sums of gradients"));
            seed
        });
        let gradients: Vec<Option<TensorId>> = ids.iter().map(|id| tape.gradient(*id)).collect();
        outputs.iter().chain(gradients.iter().flatten()).for_each(|id| tape.keep(*id));
        let mut pool = SlotPool::default();
        let loaded =
            Loaded::new(gpu, tape.finish(), &layouts.buffers(gpu), &mut pool).expect("a device with memory");
        pool.poison(gpu);
        let bench = Self { gpu, loaded, inputs: ids, outputs, gradients };
        inputs.iter().enumerate().for_each(|(place, input)| bench.write(place, &input.values));
        if let (Some(id), Some(dy)) = (seed, dy) {
            bench.loaded.write(gpu, id, dy);
        }
        bench
    }

    /// Gives an input other values.
    pub fn write(&self, input: usize, values: &[f32]) {
        self.loaded.write(self.gpu, self.inputs[input], values);
    }

    /// Runs everything once.
    pub fn run(&self) {
        self.gpu.run(&self.loaded.executable);
    }

    pub fn output(&self, place: usize) -> Vec<f32> {
        self.read(self.outputs[place])
    }

    /// An input as it is now: operations change some in place.
    pub fn input(&self, place: usize) -> Vec<f32> {
        self.read(self.inputs[place])
    }

    /// The gradient of an input.
    pub fn gradient(&self, place: usize) -> Vec<f32> {
        self.read(self.gradients[place].expect("a gradient was recorded"))
    }

    fn read(&self, id: TensorId) -> Vec<f32> {
        self.loaded.read(self.gpu, id).expect("a device that works")
    }
}

/// The flat buffers' ranges as they fill up.
#[derive(Default)]
struct Layouts(Vec<(Store, Layout)>);

impl Layouts {
    fn add(&mut self, tape: &mut Tape, input: &Input) -> TensorId {
        let Input { shape, store, gradient, .. } = input;
        if *store == Store::Inputs {
            let id = tape.input("input", shape.clone());
            tape.set_differentiable(id, *gradient);
            return id;
        }
        let place = self.0.iter().position(|(other, _)| other == store).unwrap_or_else(|| {
            self.0.push((*store, Layout::default()));
            self.0.len() - 1
        });
        let offset_bytes = self.0[place].1.push("input", shape.clone());
        tape.stored("input", shape.clone(), *store, offset_bytes, *gradient)
    }

    /// The buffers, with one more for gradients at the weights' offsets.
    fn buffers(&self, gpu: &Gpu) -> Stores {
        let buffer = |size_bytes: u64| -> SharedBuffer {
            let buffer = gpu.buffer("flat", size_bytes).expect("a device with memory");
            gpu.fill(&buffer, f32::NAN.to_bits());
            buffer
        };
        let mut stores: Stores =
            self.0.iter().map(|(store, layout)| (*store, buffer(layout.total_bytes()))).collect();
        let weights = self.0.iter().find(|(store, _)| *store == Store::Weights);
        if let Some((_, layout)) = weights {
            stores.entry(Store::Gradients).or_insert_with(|| buffer(layout.total_bytes()));
        }
        stores
    }
}

/// The largest difference of two arrays over the largest magnitude of the second; infinite where one is not a number.
pub fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len(), "as many values");
    let scale = expected.iter().fold(1e-30_f64, |most, v| most.max(f64::from(v.abs())));
    let error = |(a, b): (&f32, &f32)| {
        let error = (f64::from(*a) - f64::from(*b)).abs() / scale;
        if error.is_nan() { f64::INFINITY } else { error }
    };
    found.iter().zip(expected).map(error).fold(0.0, f64::max)
}
