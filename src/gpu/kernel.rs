//! A kernel: one entry point of one shader in one variant, with what naga reads from its text. Bindings and workgroup
//! sizes are never typed twice.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};

use super::shader::{Composed, ShaderSource, Variant, compose};

/// A parameter block: plain 4-byte scalars, in the order of the shader's `struct Params`.
pub trait Params: bytemuck::Pod {
    /// Names of the fields, in order.
    const FIELDS: &'static [&'static str];
}

/// Declares a parameter block once: the struct, its byte layout and its list of fields.
#[macro_export]
macro_rules! params {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($field:ident: $kind:ty),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(C)]
        $vis struct $name { $($vis $field: $kind),+ }
        impl $crate::gpu::Params for $name {
            const FIELDS: &'static [&'static str] = &[$(stringify!($field)),+];
        }
    };
}

/// How a kernel uses a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BindingKind {
    /// `var<uniform>`
    Uniform,
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    ReadWrite,
}

/// One binding of group 0 that the entry point uses.
#[derive(Debug, Clone)]
pub struct BindingInfo {
    /// Its number.
    pub index: u32,
    /// Its name in the shader; `params` is the parameter block.
    pub name: String,
    /// How it is used.
    pub kind: BindingKind,
}

/// What the shader's text says about an entry point.
#[derive(Debug)]
pub struct Reflection {
    /// Invocations a workgroup.
    pub workgroup_size: u32,
    /// Bindings used, by number.
    pub bindings: Vec<BindingInfo>,
    /// Fields of `struct Params`, or none where the kernel takes no parameters.
    pub params: Vec<String>,
}

/// A kernel, cheap to clone; equal kernels compare equal and share one pipeline.
#[derive(Clone)]
pub struct Kernel(Arc<Inner>);

struct Inner {
    source: ShaderSource,
    entry: &'static str,
    variant: Variant,
    text: String,
    reflection: Reflection,
}

type Key = (&'static str, &'static str, Variant);
static KERNELS: LazyLock<Mutex<HashMap<Key, Kernel>>> = LazyLock::new(Mutex::default);

impl Kernel {
    /// The kernel of `entry` in `source`, with the variant's constants. Parsed once for each distinct kernel.
    ///
    /// # Panics
    /// Where the shader does not parse or validate with its loops as they are, or lacks the entry point.
    pub fn new(source: ShaderSource, entry: &'static str, variant: Variant) -> Self {
        let key = (source.name, entry, variant);
        let mut known = KERNELS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = known.get(&key) {
            // Shaders of one name, after different imports, differ in a constant that the variant names.
            assert_eq!(kernel.0.source.text, source.text, "{kernel}: two shaders by one name");
            return kernel.clone();
        }
        let (_, _, variant) = key.clone();
        let Composed { text, rolled, module } = compose(source, &variant);
        let reflection = reflect(source.name, &rolled, &module, entry);
        let kernel = Self(Arc::new(Inner { source, entry, variant, text, reflection }));
        known.insert(key, kernel.clone());
        kernel
    }

    /// `shader/entry`, as the profiler and the tables say it.
    pub fn name(&self) -> String {
        format!("{}/{}", self.0.source.name, self.0.entry)
    }

    /// The entry point's name.
    pub fn entry(&self) -> &'static str {
        self.0.entry
    }

    /// The variant.
    pub fn variant(&self) -> &Variant {
        &self.0.variant
    }

    /// The composed WGSL.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// What naga read from the text, before its loops were unrolled.
    pub fn reflection(&self) -> &Reflection {
        &self.0.reflection
    }

    /// Bindings without the parameter block, in order: what a dispatch has to name.
    pub fn tensor_bindings(&self) -> impl Iterator<Item = &BindingInfo> {
        self.0.reflection.bindings.iter().filter(|binding| binding.name != "params")
    }

    /// Checks a parameter block's fields against the shader's.
    ///
    /// # Panics
    /// Where they differ.
    pub fn check_params(&self, fields: &[&str]) {
        assert_eq!(self.0.reflection.params, fields, "{self}: Params in Rust and in WGSL differ");
    }
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Kernel {}

impl std::hash::Hash for Kernel {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.name(), self.0.variant)
    }
}

/// What a module says of an entry point, `text` being what it was read from.
fn reflect(shader: &str, text: &str, module: &naga::Module, entry: &str) -> Reflection {
    let info = Validator::new(ValidationFlags::all(), Capabilities::all())
        .validate(module)
        .unwrap_or_else(|e| panic!("shader {shader}: {}", e.emit_to_string(text)));
    let index = module
        .entry_points
        .iter()
        .position(|point| point.name == entry)
        .unwrap_or_else(|| panic!("shader {shader}: no entry point '{entry}'"));
    let [x, y, z] = module.entry_points[index].workgroup_size;
    let bindings = used_bindings(module, &info, index);
    let takes_params = bindings.iter().any(|binding| binding.name == "params");
    let params = if takes_params { params_fields(module) } else { Vec::new() };
    Reflection { workgroup_size: x * y * z, bindings, params }
}

fn used_bindings(module: &naga::Module, info: &ModuleInfo, entry: usize) -> Vec<BindingInfo> {
    let uses = info.get_entry_point(entry);
    let mut bindings: Vec<BindingInfo> = module
        .global_variables
        .iter()
        .filter(|(handle, _)| !uses[*handle].is_empty())
        .filter_map(|(_, global)| {
            let index = global.binding.as_ref()?.binding;
            let kind = match global.space {
                naga::AddressSpace::Uniform => BindingKind::Uniform,
                naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => {
                    BindingKind::ReadWrite
                }
                _ => BindingKind::Read,
            };
            Some(BindingInfo { index, name: global.name.clone().unwrap_or_default(), kind })
        })
        .collect();
    bindings.sort_by_key(|binding| binding.index);
    bindings
}

/// The fields of `struct Params`; each is a 4-byte scalar, so that order alone fixes the layout. The last may be an array of such structs,
/// whose fields are told as `array.field`.
fn params_fields(module: &naga::Module) -> Vec<String> {
    let (_, params) = module
        .types
        .iter()
        .find(|(_, kind)| kind.name.as_deref() == Some("Params"))
        .expect("a shader with a `params` binding declares `struct Params`");
    let name = |member: &naga::StructMember| member.name.clone().unwrap_or_default();
    let members = scalars(params);
    let Some((last, first)) = members.split_last() else { return Vec::new() };
    let naga::TypeInner::Array { base, stride, .. } = module.types[last.ty].inner else {
        return members.iter().map(name).collect();
    };
    let each = scalars(&module.types[base]);
    assert_eq!(stride as usize, 4 * each.len(), "nothing between the structs of an array");
    let each = each.iter().map(|member| format!("{}.{}", name(last), name(member)));
    first.iter().map(name).chain(each).collect()
}

/// The members of a struct, one every four bytes.
fn scalars(kind: &naga::Type) -> &[naga::StructMember] {
    let naga::TypeInner::Struct { members, .. } = &kind.inner else { panic!("Params is a struct") };
    for (place, member) in members.iter().enumerate() {
        assert_eq!(member.offset as usize, 4 * place, "Params holds 4-byte scalars only");
    }
    members
}
