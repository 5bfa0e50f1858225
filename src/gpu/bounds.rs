//! Accesses beyond the end of an array, found: for tests. A device opened for training has neither wgpu nor its driver check
//! bounds ([`super::vulkan`]), so that a kernel has to stay within its buffers by itself; a check that makes an access harmless
//! would hide that it does not.
//!
//! Every index of an array in storage goes through a function that counts those beyond the end. Each kernel has a count of its
//! own, in a second bind group.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::kernel::Kernel;
use super::wide::{Element, code, declaration, is_member, words};

/// Offsets of bindings are multiples of this on every device.
const SLOT_BYTES: u64 = 256;
const MOST_KERNELS: u64 = 1 << 13;

/// An invocation counts for itself, without a branch: with an atomic at every access the driver worked on kernels for two or three times
/// as long.
const COUNT: &str = "
@group(1) @binding(0) var<storage, read_write> beyond_end: atomic<u32>;
var<private> beyond_end_here: u32 = 0u;

fn counted_index(index: u32, length: u32) -> u32 {
    beyond_end_here += select(0u, 1u, index >= length);
    return min(index, length - 1u);
}

fn tell_count() {
    if (beyond_end_here > 0u) {
        atomicAdd(&beyond_end, beyond_end_here);
    }
}
";

/// A shader's text whose accesses beyond the end of an array in storage are counted, and go to its last element.
pub(crate) fn watched(text: &str) -> String {
    let code = code(text).join("\n");
    let arrays: Vec<&str> = code.lines().filter_map(|line| declaration(line)).map(|(name, _)| name).collect();
    telling(&rewritten(&code, &arrays)) + COUNT
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
        text.push_str(&rest[..body]);
        text.push_str(&rest[body..end].replace("return;", "{ tell_count(); return; }"));
        text.push_str("    tell_count();\n");
        rest = &rest[end..];
    }
    text + rest
}

fn rewritten(code: &str, arrays: &[&str]) -> String {
    let mut text = String::new();
    let mut done = 0;
    for (at, word) in words(code) {
        if at < done || is_member(code, at) || !arrays.contains(&word) {
            continue;
        }
        let Some(element) = Element::at(code, at + word.len()) else { continue };
        let index = rewritten(&code[element.index.clone()], arrays);
        text.push_str(&code[done..element.index.start]);
        text.push_str(&format!("counted_index(u32({index}), arrayLength(&{word}))"));
        done = element.index.end;
    }
    text + &code[done..]
}

/// Accesses to storage in a text that do not go through the function that counts.
#[cfg(test)]
pub(crate) fn unwatched(text: &str) -> Vec<String> {
    use naga::{AddressSpace, Expression, Function, TypeInner};
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(text)));
    let in_storage = |space| matches!(space, AddressSpace::Storage { .. });
    let of_function = |function: &Function| -> Vec<String> {
        let name = function.name.clone().unwrap_or_default();
        let array = |base| match function.expressions[base] {
            Expression::GlobalVariable(global) => {
                let global = &module.global_variables[global];
                in_storage(global.space).then(|| global.name.clone().unwrap_or_default())
            }
            _ => None,
        };
        let is_counted = |index| match function.expressions[index] {
            Expression::CallResult(called) => {
                module.functions[called].name.as_deref() == Some("counted_index")
            }
            _ => false,
        };
        let accesses = function.expressions.iter().filter_map(|(_, expression)| match *expression {
            Expression::Access { base, index } => array(base).filter(|_| !is_counted(index)),
            Expression::AccessIndex { base, .. } => array(base),
            _ => None,
        });
        let is_pointer = |argument: &&naga::FunctionArgument| match module.types[argument.ty].inner {
            TypeInner::Pointer { space, .. } | TypeInner::ValuePointer { space, .. } => in_storage(space),
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
                module.functions[*function].name.as_deref() == Some("tell_count")
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
pub(super) struct Bounds {
    counts: wgpu::Buffer,
    /// Their slots.
    kernels: Mutex<HashMap<Kernel, u64>>,
}

impl Bounds {
    pub(super) fn new(device: &wgpu::Device) -> Self {
        let counts = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("accesses beyond the end"),
            size: SLOT_BYTES * MOST_KERNELS,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Self { counts, kernels: Mutex::default() }
    }

    /// The count of a kernel, as its pipeline binds it.
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
            size: std::num::NonZeroU64::new(4),
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
    /// Where a kernel accessed what is beyond the end of an array.
    pub(super) fn check(&self, counts: &[u8]) {
        let kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |slot: u64| {
            let at = (slot * SLOT_BYTES) as usize;
            counts.get(at..at + 4).map_or(0, bytemuck::pod_read_unaligned::<u32>)
        };
        let found: Vec<String> = kernels
            .iter()
            .map(|(kernel, slot)| (kernel, count(*slot)))
            .filter(|(_, count)| *count > 0)
            .map(|(kernel, count)| format!("{kernel}: {count}"))
            .collect();
        assert!(found.is_empty(), "accesses beyond the end of an array: {}", found.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(statement: &str) -> String {
        let text = format!("{X}\n{Y}\n@compute @workgroup_size(1)\nfn f() {{\n{statement}\n}}\n");
        let watched = watched(&text);
        if let Err(e) = naga::front::wgsl::parse_str(&watched) {
            panic!("{}", e.emit_to_string(&watched));
        }
        let (_, body) = watched.split_once("fn f() {\n").expect("the function");
        body.split_once("\n}").expect("its end").0.to_owned()
    }

    const X: &str = "@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;";
    const Y: &str = "@group(0) @binding(1) var<storage, read_write> y: array<f32>;";
    #[test]
    fn every_index_is_counted_also_one_within_another() {
        let found = body("y[u32(x[2].y)] = x[1u].x; // y[3u]");
        assert_eq!(
            found,
            "y[counted_index(u32(u32(x[counted_index(u32(2), arrayLength(&x))].y)), arrayLength(&y))] = \
             x[counted_index(u32(1u), arrayLength(&x))].x;\n    tell_count();"
        );
    }
}
