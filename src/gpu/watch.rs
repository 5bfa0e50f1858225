//! What a test's device watches kernels for: accesses beyond the end of an array ([`super::bounds`]), and memory of a workgroup that
//! one invocation reads while another writes it ([`super::races`]).
//!
//! Each kernel has counts of its own, in a second bind group.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::kernel::Kernel;
use super::wide::code;
use super::{bounds, races};

/// Offsets of bindings are multiples of this on every device.
const SLOT_BYTES: u64 = 256;
const MOST_KERNELS: u64 = 1 << 13;
/// What is counted, in the order of the counts in a slot.
const FAULTS: [&str; 3] = [
    "accesses beyond the end of an array",
    "races in a workgroup's memory",
    "reads of a workgroup's memory before anything set it",
];

const TELLING: &str = "
struct Faults {
    beyond_end: atomic<u32>,
    races: atomic<u32>,
    unset_reads: atomic<u32>,
}

@group(1) @binding(0) var<storage, read_write> faults: Faults;

fn tell_faults() {
    if ((beyond_end | races | unset_reads) > 0u) {
        atomicAdd(&faults.beyond_end, beyond_end);
        atomicAdd(&faults.races, races);
        atomicAdd(&faults.unset_reads, unset_reads);
    }
}
";

/// What a device's kernels are watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// Accesses beyond the end of an array in storage, which go to its last element.
    Bounds,
    /// The same in a workgroup's memory, and there also races and reads before anything set it. The driver takes three times as long
    /// for a kernel that has such memory.
    BoundsAndRaces,
}

/// A shader's text that counts what its kernels do wrong.
pub(crate) fn watched(text: &str, what: Watched) -> String {
    let code = code(text).join("\n");
    let code = match what {
        Watched::Bounds => code + races::NOT_COUNTING,
        Watched::BoundsAndRaces => races::counted(&code),
    };
    telling(&bounds::counted(&code)) + TELLING
}

/// The code with every way out of an entry point telling what the invocation counted. Unrolled rounds begin and end at the margin as a
/// function does: only braces say where one ends.
fn telling(code: &str) -> String {
    let mut text = String::new();
    let mut rest = code;
    while let Some(entry) = rest.find("@compute") {
        let body = entry + rest[entry..].find('{').expect("a body");
        let mut depth = 0;
        let is_end = |(_, c): &(usize, char)| {
            depth += i32::from(*c == '{') - i32::from(*c == '}');
            depth == 0
        };
        let end = body + rest[body..].char_indices().find(is_end).expect("an end").0;
        text.push_str(&rest[..body + 1]);
        if let Some(lane) = lane_of(&rest[entry..body]) {
            text.push_str(&format!("\n    lane_here = {lane};"));
        }
        text.push_str(&rest[body + 1..end].replace("return;", "{ tell_faults(); return; }"));
        text.push_str("    tell_faults();\n");
        rest = &rest[end..];
    }
    text + rest
}

/// An invocation's number in its workgroup, as an entry point that is told it calls it.
fn lane_of(signature: &str) -> Option<String> {
    let (name, _) = signature.split_once(": Invocation")?;
    Some(format!("{}.lane", name.rsplit(['(', ' ']).next()?))
}

/// Accesses in a text to arrays in storage or in a workgroup's memory that do not go through what looks at them. Matrix units load and
/// store by themselves: a text for them is asked about storage alone.
#[cfg(test)]
pub(crate) fn unwatched(text: &str) -> Vec<String> {
    use naga::{AddressSpace, Expression, Function, TypeInner};
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
    let is_for_matrix_units = text.contains("enable wgpu_cooperative_matrix");
    let is_shared = |space| match space {
        AddressSpace::WorkGroup => !is_for_matrix_units,
        AddressSpace::Storage { .. } => true,
        _ => false,
    };
    let of_function = |function: &Function| -> Vec<String> {
        let name = function.name.clone().unwrap_or_default();
        let array = |base| match function.expressions[base] {
            Expression::GlobalVariable(global) => {
                let global = &module.global_variables[global];
                let is_array = matches!(module.types[global.ty].inner, TypeInner::Array { .. });
                let name = global.name.clone().unwrap_or_default();
                (is_shared(global.space) && is_array && !name.starts_with("seen_")).then_some(name)
            }
            _ => None,
        };
        let is_looked_at = |index| match function.expressions[index] {
            Expression::CallResult(called) => {
                let called = module.functions[called].name.as_deref().unwrap_or_default();
                ["counted_index", "read_of_", "set_of_"].iter().any(|known| called.starts_with(known))
            }
            _ => false,
        };
        let accesses = function.expressions.iter().filter_map(|(_, expression)| match *expression {
            Expression::Access { base, index } => array(base).filter(|_| !is_looked_at(index)),
            Expression::AccessIndex { base, .. } => array(base),
            _ => None,
        });
        let is_pointer = |argument: &&naga::FunctionArgument| match module.types[argument.ty].inner {
            TypeInner::Pointer { space, .. } | TypeInner::ValuePointer { space, .. } => is_shared(space),
            _ => false,
        };
        let pointers =
            function.arguments.iter().filter(is_pointer).filter_map(|argument| argument.name.clone());
        accesses.chain(pointers).map(|what| format!("{what} in {name}")).collect()
    };
    let functions = module.functions.iter().map(|(_, function)| function);
    functions.chain(module.entry_points.iter().map(|point| &point.function)).flat_map(of_function).collect()
}

/// The entry points of a watched text that can be left without telling what was counted.
#[cfg(test)]
pub(crate) fn untold(text: &str) -> Vec<String> {
    use naga::{Block, Module, Statement};
    fn tells_before_it_returns(module: &Module, block: &Block) -> bool {
        let is_telling = |statement: &Statement| match statement {
            Statement::Call { function, .. } => {
                module.functions[*function].name.as_deref() == Some("tell_faults")
            }
            _ => false,
        };
        let nested = |statement: &Statement| match statement {
            Statement::Block(block) => tells_before_it_returns(module, block),
            Statement::If { accept, reject, .. } => {
                [accept, reject].into_iter().all(|block| tells_before_it_returns(module, block))
            }
            Statement::Switch { cases, .. } => {
                cases.iter().all(|case| tells_before_it_returns(module, &case.body))
            }
            Statement::Loop { body, continuing, .. } => {
                [body, continuing].into_iter().all(|block| tells_before_it_returns(module, block))
            }
            _ => true,
        };
        let is_return = |statement: &Statement| matches!(statement, Statement::Return { .. });
        let returns = (0..block.len()).filter(|at| is_return(&block[*at]));
        let told = |at: usize| at > 0 && is_telling(&block[at - 1]);
        returns.into_iter().all(told) && block.iter().all(nested)
    }
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
    let untold = |point: &&naga::EntryPoint| {
        let body = &point.function.body;
        !matches!(body.last(), Some(Statement::Return { .. })) || !tells_before_it_returns(&module, body)
    };
    module.entry_points.iter().filter(untold).map(|point| point.name.clone()).collect()
}

/// The counts of a device's kernels.
pub(super) struct Watch {
    pub(super) what: Watched,
    counts: wgpu::Buffer,
    /// Their slots.
    kernels: Mutex<HashMap<Kernel, u64>>,
}

impl Watch {
    pub(super) fn new(device: &wgpu::Device, what: Watched) -> Self {
        let counts = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("what kernels did wrong"),
            size: SLOT_BYTES * MOST_KERNELS,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Self { what, counts, kernels: Mutex::default() }
    }

    /// A workgroup's memory has to begin with nothing seen.
    pub(super) fn needs_zeros(&self) -> bool {
        self.what == Watched::BoundsAndRaces
    }

    /// The counts of a kernel, as its pipeline binds it.
    ///
    /// # Panics
    /// After thousands of kernels.
    pub(super) fn bind_group(
        &self,
        device: &wgpu::Device,
        kernel: &Kernel,
        pipeline: &wgpu::ComputePipeline,
    ) -> wgpu::BindGroup {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let next = kernels.len() as u64;
        let slot = *kernels.entry(kernel.clone()).or_insert(next);
        assert!(slot < MOST_KERNELS, "more kernels than counts");
        let binding = wgpu::BufferBinding {
            buffer: &self.counts,
            offset: slot * SLOT_BYTES,
            size: std::num::NonZeroU64::new(4 * FAULTS.len() as u64),
        };
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(1),
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(binding) }],
        })
    }

    /// The counts, and how many bytes of them are of use; none before the first kernel.
    pub(super) fn counts(&self) -> Option<(wgpu::Buffer, u64)> {
        let kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        (!kernels.is_empty()).then(|| (self.counts.clone(), kernels.len() as u64 * SLOT_BYTES))
    }

    /// # Panics
    /// Where something was counted.
    pub(super) fn check(&self, counts: &[u8]) {
        let kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let found: Vec<String> = (0..FAULTS.len())
            .filter_map(|fault| {
                let count = |slot: u64| {
                    let at = (slot * SLOT_BYTES) as usize + 4 * fault;
                    counts.get(at..at + 4).map_or(0, bytemuck::pod_read_unaligned::<u32>)
                };
                let kernels = kernels.iter().map(|(kernel, slot)| (kernel, count(*slot)));
                let found: Vec<String> = kernels
                    .filter(|(_, count)| *count > 0)
                    .map(|(kernel, count)| format!("{kernel}: {count}"))
                    .collect();
                (!found.is_empty()).then(|| format!("{}: {}", FAULTS[fault], found.join(", ")))
            })
            .collect();
        assert!(found.is_empty(), "{}", found.join("; "));
    }
}
