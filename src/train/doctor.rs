//! Is this device to be trusted: every operation and every variant against its f64 reference, on the device itself.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::ops::choice::Form;
use crate::ops::{OPS, check};
use crate::tape::{Case, Element, OpEntry, Program};

/// Gradients are compared with differences, which round more.
const GRADIENT_ROOM: f64 = 5.0;

/// How one variant of an operation fared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Examined {
    /// The operation; of a convolution with its form.
    pub what: String,
    /// The form, where there are several.
    pub form: Option<String>,
    /// How activations are stored, `f32` or `f16`.
    pub precision: &'static str,
    /// Cases that agree with the reference.
    pub passed: usize,
    /// What is wrong with the others.
    pub failures: Vec<String>,
    /// Largest error of outputs, relative to the largest magnitude.
    pub forward: f64,
    /// Largest error of gradients.
    pub backward: f64,
}

impl Examined {
    /// A form that cannot be examined without harm.
    fn broken(form: Form, why: &str) -> Self {
        Self {
            what: form.name().to_owned(),
            form: Some(form.name().to_owned()),
            precision: "f16",
            passed: 0,
            failures: vec![format!("{}: {why}", form.name())],
            forward: 0.0,
            backward: 0.0,
        }
    }
}

/// Runs every case of every operation, in f32 and where the device has it in f16, but for the forms that are `broken`: those have
/// failed. `told` hears of each operation before it is examined.
///
/// # Errors
/// Where the device lacks memory, or was lost. A kernel that its driver refuses is a failure of the case.
pub fn examine(gpu: &Gpu, broken: &[(Form, String)], mut told: impl FnMut(&str)) -> Result<Vec<Examined>> {
    let is_whole = |form: Form| broken.iter().all(|(broken, _)| *broken != form);
    let mut all: Vec<Examined> = broken.iter().map(|(form, why)| Examined::broken(*form, why)).collect();
    for element in [Element::F32, Element::F16] {
        if element == Element::F16 && !gpu.limits().f16 {
            continue;
        }
        for op in OPS {
            told(op.name);
            compile(gpu, op, element, is_whole)?;
            all.extend(examine_operation(gpu, op, element, is_whole)?);
        }
    }
    Ok(all)
}

/// The same of one form of the convolutions, whose activations are stored as `element`.
///
/// # Errors
/// As [`examine`].
pub fn examine_form(gpu: &Gpu, element: Element, form: Form) -> Result<Vec<Examined>> {
    let has_it = |op: &&OpEntry| (op.cases)().iter().any(|case| form_of(case) == Some(form));
    let mut all = Vec::new();
    for op in OPS.iter().filter(has_it) {
        compile(gpu, op, element, |other| other == form)?;
        all.extend(examine_operation(gpu, op, element, |other| other == form)?);
    }
    Ok(all)
}

/// Makes the pipelines of an operation's cases ahead, several at once.
fn compile(gpu: &Gpu, op: &OpEntry, element: Element, wanted: impl Fn(Form) -> bool) -> Result<()> {
    let cases = (op.cases)().into_iter().filter(|case| form_of(case).is_none_or(&wanted));
    let programs = cases.map(|case| check::record(case, gpu.limits(), element).0.program);
    gpu.compile_ahead(programs.flat_map(Program::into_kernels))
}

/// [`examine`] for one operation whose activations are stored as `element`, and of convolutions only forms that are `wanted`.
///
/// # Errors
/// Where the device lacks memory, or was lost. A kernel that its driver refuses is a failure of the case.
pub fn examine_operation(
    gpu: &Gpu,
    op: &OpEntry,
    element: Element,
    wanted: impl Fn(Form) -> bool,
) -> Result<Vec<Examined>> {
    let precision = if element == Element::F16 { "f16" } else { "f32" };
    let mut found: Vec<Examined> = Vec::new();
    for place in 0..(op.cases)().len() {
        let make = || -> Case { (op.cases)().swap_remove(place) };
        let case = make();
        let form = form_of(&case);
        if !form.is_none_or(|form| wanted(form) && form.runs_on(element == Element::F16, gpu.limits())) {
            continue;
        }
        let rounding = if element == Element::F16 { check::F16_ROUNDING } else { 0.0 };
        let tolerance = case.tolerance + rounding;
        let name = form.map(|form| form.name().to_owned());
        let what = name.as_ref().map_or(op.name.to_owned(), |form| format!("{} {form}", op.name));
        if found.last().is_none_or(|last| last.what != what) {
            let (passed, failures, form) = (0, Vec::new(), name);
            found.push(Examined { what, form, precision, passed, failures, forward: 0.0, backward: 0.0 });
        }
        let entry = found.last_mut().expect("just pushed");
        let report = match check::compare(gpu, element, make) {
            Ok(report) => report,
            Err(Error::Refused(why)) => {
                entry.failures.push(format!("{}: {}", case.label, why.lines().next().unwrap_or_default()));
                continue;
            }
            Err(error) => return Err(error),
        };
        let backward = report.backward.unwrap_or(0.0);
        entry.forward = entry.forward.max(report.forward);
        entry.backward = entry.backward.max(backward);
        match report.forward <= tolerance && backward <= GRADIENT_ROOM * tolerance {
            true => entry.passed += 1,
            false => entry.failures.push(format!(
                "{}: forward {:.1e}, gradient {backward:.1e}, allowed {tolerance:.0e}",
                case.label, report.forward
            )),
        }
    }
    Ok(found)
}

/// The form that a convolution's case asks for: its label begins with it.
fn form_of(case: &Case) -> Option<Form> {
    let word = case.label.split(' ').next()?;
    Form::ALL.into_iter().find(|form| format!("{form:?}") == word)
}
