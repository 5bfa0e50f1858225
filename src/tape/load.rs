//! From a program to the device: slots get buffers, arguments become bindings, and the whole is ready to be replayed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use half::f16;

use super::plan::MemoryPlan;
use super::program::{Arg, Program};
use super::tensor::{Element, Home, Store, TensorId};
use crate::error::Result;
use crate::gpu::{Binding, Command, Executable, Gpu, SharedBuffer};

/// Operations that a GPU does while it moves a byte; in our kernels integrated ones do some 10, the fastest cards 50.
const OPERATIONS_A_BYTE: u64 = 16;

/// The flat buffers that programs share.
pub type Stores = HashMap<Store, SharedBuffer>;

/// Transient buffers that programs take turns with: the programs of one training never run at once.
#[derive(Debug, Default)]
pub struct SlotPool {
    buffers: Vec<SharedBuffer>,
}

impl SlotPool {
    /// One buffer for each slot: the smallest that fits among those not yet taken, or a new one.
    fn take(&mut self, gpu: &Gpu, slots: &[u64]) -> Result<Vec<SharedBuffer>> {
        let mut free: Vec<usize> = (0..self.buffers.len()).collect();
        let mut taken = Vec::with_capacity(slots.len());
        for &size in slots {
            let fits = |index: &&usize| self.buffers[**index].size_bytes() >= size;
            let best =
                free.iter().filter(fits).min_by_key(|index| self.buffers[**index].size_bytes()).copied();
            let index = match best {
                Some(index) => index,
                None => {
                    self.buffers.push(gpu.buffer("transient slot", size)?);
                    self.buffers.len() - 1
                }
            };
            free.retain(|other| *other != index);
            taken.push(self.buffers[index].clone());
        }
        Ok(taken)
    }

    /// Bytes of all buffers together.
    pub fn bytes(&self) -> u64 {
        self.buffers.iter().map(SharedBuffer::size_bytes).sum()
    }

    /// Fills every buffer with NaN, so that what nothing wrote shows.
    pub fn poison(&self, gpu: &Gpu) {
        for buffer in &self.buffers {
            gpu.fill(buffer, f32::NAN.to_bits());
        }
    }
}

/// A program on the device.
pub struct Loaded {
    /// What [`Gpu::run`] replays.
    pub executable: Executable,
    /// The recording it came from.
    pub program: Program,
    /// Its memory plan.
    pub plan: MemoryPlan,
    inputs: SharedBuffer,
    outputs: SharedBuffer,
    buffers: Vec<SharedBuffer>,
    tensors: Vec<Option<Binding>>,
}

impl Loaded {
    /// Plans a program and puts it on the device. `stores` must hold every flat buffer that it names, but for the
    /// inputs and the outputs, which are its own where they are not given.
    ///
    /// # Errors
    /// Where the device lacks the memory, binds no ranges as large as the program's, or refuses a kernel.
    pub fn new(gpu: &Gpu, program: Program, stores: &Stores, pool: &mut SlotPool) -> Result<Self> {
        program.check_bindings(gpu.limits())?;
        let plan = MemoryPlan::new(&program);
        let mut buffers = pool.take(gpu, &plan.slots)?;
        let mut stores = stores.clone();
        let own = [
            (Store::Inputs, "inputs", program.input_bytes),
            (Store::Outputs, "outputs", program.output_bytes),
        ];
        for (store, label, bytes) in own {
            if let Entry::Vacant(missing) = stores.entry(store) {
                missing.insert(gpu.buffer(label, bytes)?);
            }
            assert!(stores[&store].size_bytes() >= bytes, "{label} of another program");
        }
        let (inputs, outputs) = (stores[&Store::Inputs].clone(), stores[&Store::Outputs].clone());
        let mut first_of = HashMap::new();
        for (store, buffer) in stores {
            first_of.insert(store, buffers.len());
            buffers.push(buffer);
        }
        let tensors = place_tensors(&program, &plan, &first_of);
        let commands: Vec<Command> = program
            .dispatches
            .iter()
            .map(|dispatch| Command {
                kernel: dispatch.kernel.clone(),
                bindings: dispatch.args.iter().map(|arg| bind(arg, &tensors, &program)).collect(),
                params: dispatch.params.clone(),
                groups: dispatch.groups,
                operations: dispatch.flops.executed + OPERATIONS_A_BYTE * dispatch.bound_bytes(),
            })
            .collect();
        let executable = gpu.load(&commands, &buffers)?;
        Ok(Self { executable, program, plan, inputs, outputs, buffers, tensors })
    }

    /// The buffer that the host fills before a run.
    pub fn inputs(&self) -> &SharedBuffer {
        &self.inputs
    }

    /// The buffer that the host reads after a run.
    pub fn outputs(&self) -> &SharedBuffer {
        &self.outputs
    }

    /// Reads one tensor's values; a transient one must have been kept.
    ///
    /// # Errors
    /// Where the device was lost.
    pub fn read(&self, gpu: &Gpu, id: TensorId) -> Result<Vec<f32>> {
        self.read_part(gpu, id, 0..self.program.tensor(id).shape.len())
    }

    /// Reads some of one tensor's values, an even number of them from an even place on.
    ///
    /// # Errors
    /// Where the device was lost.
    pub fn read_part(&self, gpu: &Gpu, id: TensorId, part: Range<usize>) -> Result<Vec<f32>> {
        let binding = self.tensors[id.0 as usize].expect("something touches the tensor");
        let element = self.program.tensor(id).element;
        let [start, end] =
            [part.start, part.end].map(|place| binding.offset_bytes + place as u64 * element.bytes());
        let bytes = gpu.read(&self.buffers[binding.buffer], start..end)?;
        Ok(match element {
            Element::F32 => bytemuck::pod_collect_to_vec(&bytes),
            Element::F16 => {
                let bits: Vec<u16> = bytemuck::pod_collect_to_vec(&bytes);
                bits.into_iter().map(|bits| f16::from_bits(bits).to_f32()).collect()
            }
        })
    }

    /// Sets one tensor's values to zero before a run.
    pub fn clear(&self, gpu: &Gpu, id: TensorId) {
        let binding = self.tensors[id.0 as usize].expect("something touches the tensor");
        let range = binding.offset_bytes..binding.offset_bytes + binding.size_bytes;
        gpu.clear_range(&self.buffers[binding.buffer], range);
    }

    /// Writes one tensor's values before a run, rounded to its element type.
    pub fn write(&self, gpu: &Gpu, id: TensorId, values: &[f32]) {
        assert_eq!(self.program.tensor(id).shape.len(), values.len());
        self.write_again_and_again(gpu, id, values);
    }

    /// Writes these values as often as it takes to fill the tensor, the last time perhaps not all of them.
    pub fn write_again_and_again(&self, gpu: &Gpu, id: TensorId, values: &[f32]) {
        /// Enough for a write to be worth its while: 4 MiB of f32.
        const LEAST: usize = 1 << 20;
        let binding = self.tensors[id.0 as usize].expect("something touches the tensor");
        let element = self.program.tensor(id).element;
        let mut bytes: Cow<'_, [u8]> = match element {
            Element::F32 => bytemuck::cast_slice(values).into(),
            Element::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        };
        // An even number of times, since writes start at multiples of four bytes.
        if (bytes.len() as u64) < binding.size_bytes {
            bytes = bytes.repeat(LEAST.div_ceil(values.len()).next_multiple_of(2)).into();
        }
        let step = bytes.len() as u64;
        for offset in (0..binding.size_bytes).step_by(bytes.len()) {
            let len = step.min(binding.size_bytes - offset) as usize;
            gpu.write(&self.buffers[binding.buffer], binding.offset_bytes + offset, &bytes[..len]);
        }
    }
}

/// Where each tensor lives among the buffers: slots first, then the flat ones.
fn place_tensors(
    program: &Program,
    plan: &MemoryPlan,
    first_of: &HashMap<Store, usize>,
) -> Vec<Option<Binding>> {
    let mut places: Vec<Option<Binding>> = program
        .tensors
        .iter()
        .map(|info| match info.home {
            Home::Transient => None,
            Home::Stored { store, offset_bytes } => first_of.get(&store).map(|buffer| Binding {
                buffer: *buffer,
                offset_bytes,
                size_bytes: info.bytes(),
            }),
        })
        .collect();
    for life in &plan.lifetimes {
        let place = Binding { buffer: life.slot, offset_bytes: 0, size_bytes: life.bytes };
        places[life.tensor.0 as usize] = Some(place);
    }
    places
}

fn bind(arg: &Arg, tensors: &[Option<Binding>], program: &Program) -> Binding {
    let place = tensors[arg.tensor.0 as usize]
        .unwrap_or_else(|| panic!("{}: its flat buffer was not given", program.tensor(arg.tensor).name));
    Binding { offset_bytes: place.offset_bytes + arg.offset_bytes, size_bytes: arg.size_bytes, ..place }
}
