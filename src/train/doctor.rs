//! Is this device to be trusted: every operation and every variant against its f64 reference, on the device itself.

use serde::Serialize;

use super::patching::examine_patches;
use super::stop;
use super::whole::examine_whole;
use crate::config::Skip;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Kernel, Limits};
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
    /// Nothing was examined yet.
    pub(super) fn new(what: String, form: Option<Form>, element: Element) -> Self {
        let (form, precision) = (form.map(|form| form.name().to_owned()), element.word());
        Self { what, form, precision, passed: 0, failures: Vec::new(), forward: 0.0, backward: 0.0 }
    }

    /// A form that cannot be examined without harm.
    fn broken(form: Form, why: &str) -> Self {
        let failures = vec![why.to_owned()];
        Self { failures, ..Self::new(form.name().to_owned(), Some(form), Element::F16) }
    }
}

/// Runs every case of every operation, the whole network by every form, and what makes patches, in f32 and where the device has it in
/// f16, but for the forms that are `broken`: those have failed. `told` hears of each before it is examined, and `found` has all that was
/// examined, also where it ends before all are.
///
/// # Errors
/// Where the device lacks memory, or was lost. A kernel that its driver refuses is a failure of the case.
pub fn examine(
    gpu: &Gpu,
    broken: &[(Form, String)],
    mut told: impl FnMut(&str),
    found: &mut Vec<Examined>,
) -> Result<()> {
    let is_whole = |form: Form| broken.iter().all(|(broken, _)| *broken != form);
    found.extend(broken.iter().map(|(form, why)| Examined::broken(*form, why)));
    for element in [Element::F32, Element::F16] {
        if element == Element::F16 && !gpu.limits().f16 {
            continue;
        }
        for op in OPS {
            told(&format!("{} in {}", op.name, element.word()));
            found.extend(examine_operation(gpu, op, element, is_whole)?);
        }
        let runs = |form: &Form| is_whole(*form) && form.runs_on(element == Element::F16, gpu.limits());
        for form in Form::ALL.into_iter().filter(runs) {
            told(&format!("whole steps in {}, {}", element.word(), form.name()));
            found.extend(examine_steps(gpu, element, form)?);
        }
    }
    told("patches");
    found.push(examine_patches(gpu)?);
    Ok(())
}

/// The whole network's steps, with skips of both kinds, where activations are stored as `element` and convolutions have this form if it can
/// compute them.
///
/// # Errors
/// As [`examine`].
pub fn examine_steps(gpu: &Gpu, element: Element, form: Form) -> Result<Vec<Examined>> {
    let examine = |skip| {
        stop_if_asked()?;
        examine_whole(gpu, element, form, skip)
    };
    [Skip::Full, Skip::Pooled].into_iter().map(examine).collect()
}

fn stop_if_asked() -> Result<()> {
    match stop::is_requested() {
        true => Err(Error::Stopped("stopped by a signal, before anything was begun".into())),
        false => Ok(()),
    }
}

/// Runs all that [`examine`] runs for one form of the convolutions, whose activations are stored as `element`, whatever comes of it. `told` hears
/// what comes next.
///
/// # Errors
/// As [`examine`].
pub(super) fn examine_form(
    gpu: &Gpu,
    element: Element,
    form: Form,
    mut told: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    let has_it = |op: &&OpEntry| (op.cases)().iter().any(|case| form_of(case) == Some(form));
    for op in OPS.iter().filter(has_it) {
        told(op.name)?;
        examine_operation(gpu, op, element, |other| other == form)?;
    }
    told("whole steps")?;
    examine_steps(gpu, element, form)?;
    Ok(())
}

/// The same of a case or two of each operation, and of the one form of the convolutions that every device has: small ones, of what is read as
/// it lies there and of what is normalised as it is read.
///
/// # Errors
/// As [`examine`]; [`Error::Stopped`] where a signal came meanwhile.
pub fn examine_briefly(gpu: &Gpu, element: Element) -> Result<Vec<Examined>> {
    let wanted = |form: Form| form == Form::Tiled;
    let places = |op: &OpEntry| representatives(op, &places(gpu.limits(), op, element, wanted));
    let chosen: Vec<(&OpEntry, Vec<usize>)> = OPS.iter().map(|op| (op, places(op))).collect();
    let kernels = chosen.iter().flat_map(|(op, places)| kernels(gpu, op, element, places));
    gpu.compile_ahead(kernels.collect::<Vec<_>>())?;
    let mut all = Vec::new();
    for (op, places) in chosen {
        stop_if_asked()?;
        all.extend(examine_cases(gpu, op, element, places)?);
    }
    all.extend(examine_steps(gpu, element, Form::Tiled)?);
    stop_if_asked()?;
    if element == Element::F32 {
        all.push(examine_patches(gpu)?);
    }
    Ok(all)
}

/// The cases of an operation that say most for their time, of those that a device with these limits can run.
pub fn representative_cases(op: &OpEntry, element: Element, limits: Limits) -> Vec<usize> {
    representatives(op, &places(limits, op, element, |_| true))
}

/// Of these cases of an operation those that say most for their time: of each form, normalising as it reads or not, the largest of the
/// small ones.
fn representatives(op: &OpEntry, places: &[usize]) -> Vec<usize> {
    /// Elements of all inputs together: the reference takes milliseconds.
    const SMALL: usize = 1 << 13;
    let cases = (op.cases)();
    let size = |place: &usize| cases[*place].inputs.iter().map(|input| input.shape.len()).sum::<usize>();
    let kind = |place: &usize| {
        let case = &cases[*place];
        (form_of(case), case.inputs.iter().any(|input| input.deferred.is_some()))
    };
    let mut small: Vec<usize> = places.iter().copied().filter(|place| size(place) <= SMALL).collect();
    small.sort_by_key(|place| (kind(place), std::cmp::Reverse(size(place))));
    small.dedup_by_key(|place| kind(place));
    small
}

/// The cases of an operation that a device can run, of convolutions only forms that are `wanted`.
fn places(limits: Limits, op: &OpEntry, element: Element, wanted: impl Fn(Form) -> bool) -> Vec<usize> {
    let runs = |form: Form| wanted(form) && form.runs_on(element == Element::F16, limits);
    let cases = (op.cases)();
    (0..cases.len()).filter(|place| form_of(&cases[*place]).is_none_or(runs)).collect()
}

/// What these cases of an operation run.
fn kernels(gpu: &Gpu, op: &OpEntry, element: Element, places: &[usize]) -> Vec<Kernel> {
    let cases = (op.cases)().into_iter().enumerate().filter(|(place, _)| places.contains(place));
    let programs = cases.map(|(_, case)| check::record(case, gpu.limits(), element).0.program);
    programs.flat_map(Program::into_kernels).collect()
}

/// [`examine`] for one operation whose activations are stored as `element`, and of convolutions only forms that are `wanted`.
///
/// # Errors
/// As [`examine`].
pub fn examine_operation(
    gpu: &Gpu,
    op: &OpEntry,
    element: Element,
    wanted: impl Fn(Form) -> bool,
) -> Result<Vec<Examined>> {
    let places = places(gpu.limits(), op, element, wanted);
    // Several pipelines at once.
    gpu.compile_ahead(kernels(gpu, op, element, &places))?;
    examine_cases(gpu, op, element, places)
}

/// Runs these cases of an operation.
fn examine_cases(gpu: &Gpu, op: &OpEntry, element: Element, places: Vec<usize>) -> Result<Vec<Examined>> {
    let mut found: Vec<Examined> = Vec::new();
    for place in places {
        let make = || -> Case { (op.cases)().swap_remove(place) };
        let case = make();
        let form = form_of(&case);
        let rounding = if element == Element::F16 { check::F16_ROUNDING } else { 0.0 };
        let tolerance = case.tolerance + rounding;
        let what = form.map_or(op.name.to_owned(), |form| format!("{} {}", op.name, form.name()));
        if found.last().is_none_or(|last| last.what != what) {
            found.push(Examined::new(what, form, element));
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{AttentionUNet, Spec};
    use crate::ops::warp::PatchSource;
    use crate::train::step::{StepSettings, record_evaluation, record_training, record_update};
    use crate::train::{patching, whole};

    #[test]
    fn a_brief_examination_has_every_operation_and_both_ways_to_read() {
        let limits = Limits { f16: true, subgroup_lanes: 32, ..Limits::WEBGPU };
        for (op, element) in OPS.iter().flat_map(|op| [(op, Element::F32), (op, Element::F16)]) {
            let all = places(limits, op, element, |_| true);
            let brief = representatives(op, &all);
            let cases = (op.cases)();
            let normalises = |places: &[usize]| {
                places.iter().any(|at| cases[*at].inputs.iter().any(|input| input.deferred.is_some()))
            };
            assert!(!brief.is_empty(), "{}: no small case", op.name);
            assert_eq!(normalises(&brief), normalises(&all), "{}", op.name);
            let forms = |places: &[usize]| -> BTreeSet<Option<Form>> {
                places.iter().map(|at| form_of(&cases[*at])).collect()
            };
            assert_eq!(forms(&brief), forms(&all), "{}", op.name);
            assert!(brief.len() <= 2 * forms(&all).len(), "{}: {brief:?}", op.name);
        }
    }

    /// It ran no convolution that gathers moments, no norm that pools, no statistics of an evaluation, and made no patches.
    #[test]
    fn a_brief_examination_runs_every_kernel_of_a_training() {
        let names = |kernels: Vec<Kernel>| kernels.iter().map(Kernel::name).collect::<BTreeSet<String>>();
        let gpu = Limits { f16: true, subgroup_lanes: 32, ..Limits::WEBGPU };
        for (limits, element) in [gpu, Limits { few_registers: true, ..gpu }]
            .into_iter()
            .flat_map(|limits| [(limits, Element::F32), (limits, Element::F16)])
        {
            let of_operations = OPS.iter().flat_map(|op| {
                let places = representatives(op, &places(limits, op, element, |form| form == Form::Tiled));
                let cases =
                    (op.cases)().into_iter().enumerate().filter(move |(place, _)| places.contains(place));
                cases.flat_map(move |(_, case)| check::record(case, limits, element).0.program.into_kernels())
            });
            let mut examined = names(of_operations.collect());
            examined.extend(names(whole::kernels(limits, element, Form::Tiled)));
            examined.extend(names(patching::kernels(limits)));
            for (skip, clip_norm, ema_decay, accumulates) in
                [(Skip::Full, 0.0, 0.0, false), (Skip::Pooled, 1.0, 0.9, false), (Skip::Full, 1.0, 0.9, true)]
            {
                let net = AttentionUNet::new(Spec { in_channels: 2, base_channels: 16, skip });
                let radius = (!accumulates).then_some(4);
                let patches = Some(PatchSource { chunks: 1, chunk_words: 1000, radius });
                let settings = StepSettings {
                    element,
                    clip_norm,
                    ema_decay,
                    accumulates,
                    patches,
                    ..StepSettings::new(128)
                };
                let mut programs = vec![
                    record_training(&net, limits, &settings, 2).program,
                    record_evaluation(&net, limits, &settings, 2).program,
                ];
                if accumulates {
                    programs.push(record_update(&net, limits, &settings).program);
                }
                let used = names(programs.into_iter().flat_map(Program::into_kernels).collect());
                assert!(used.len() > 20);
                assert_eq!(used.difference(&examined).collect::<Vec<_>>(), [""; 0], "{element:?}");
            }
        }
    }
}
