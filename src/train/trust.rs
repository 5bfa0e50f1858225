//! Whether a device computes what it should, before it trains or predicts for the first time.
//!
//! A driver may compute nonsense and say nothing. Scores do not tell: where kernels leave what they should write as it was, zeros, the
//! loss is 0 and the F1 is 1. So a case or two of every operation, and what makes patches, are compared with their f64 references first,
//! and steps of the whole network with PyTorch's ([`super::whole`]), once for an adapter, a driver and a version of rosette: with the form
//! of convolutions that every GPU starts from, since the tuner compares all others with it. The doctor does the same with all cases and
//! forms. Software adapters are examined by the doctor alone, as they are measured by `rosette tune` alone; what it found counts.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use super::doctor::{Examined, examine_briefly};
use super::tuning::TuningCache;
use crate::error::{Error, Result};
use crate::files;
use crate::gpu::{AdapterSummary, Gpu};
use crate::ops::choice::Form;
use crate::report::progress::{self, Mode, Work};
use crate::tape::Element;

const WRONG: &str = "computes wrongly";
/// Set to 1 a device is used whatever was found of it: to measure one whose error is known and small. It is not examined then: it may not survive that.
const ALL_THE_SAME: &str = "ROSETTE_USE_UNSOUND";

/// Examines a GPU where that was not done yet, for activations that are stored as `element`; `mode` says how that is shown.
///
/// # Errors
/// A failure with the operations that the device computes wrongly, or whose kernels its driver refuses; [`Error::Stopped`] where a signal
/// came meanwhile; where the device lacks memory, or was lost.
pub fn ensure_sound(gpu: &Gpu, element: Element, mode: Mode) -> Result<()> {
    TuningCache::load(gpu.summary()).ensure_sound(gpu, element, mode)
}

/// Whether an error, of another process too, says that a device is not to be trusted.
pub fn is_unsound(message: &str) -> bool {
    message.contains(WRONG)
}

impl TuningCache {
    /// [`ensure_sound`] of a device whose cache this is.
    ///
    /// # Errors
    /// As there.
    pub fn ensure_sound(&mut self, gpu: &Gpu, element: Element, mode: Mode) -> Result<()> {
        // Planes of one channel are f32 always. Who asks for f16 of a device that has none is told so where it is used.
        let half = (element == Element::F16 && gpu.limits().f16).then_some(Element::F16);
        let all_the_same = std::env::var(ALL_THE_SAME).as_deref() == Ok("1");
        for element in std::iter::once(Element::F32).chain(half) {
            if self.verdict(element).is_none() && !gpu.limits().software && !all_the_same {
                let work = Work::new(mode, 1, "operations");
                let (adapter, stored) = (gpu.summary(), element.word());
                work.message(&format!("checking once that {adapter} computes what it should in {stored}"));
                let found = examine_briefly(gpu, element)?;
                self.take_note(element, &found);
                self.save_or_warn();
            }
            let failures = self.verdict(element).unwrap_or_default();
            if failures.is_empty() {
                continue;
            }
            let error = unsound(gpu.summary(), element, failures);
            if !all_the_same {
                return Err(error);
            }
            progress::print_line(&format!("warning: used all the same ({ALL_THE_SAME}=1): {error}"));
        }
        Ok(())
    }

    /// Notes what an examination has found of activations stored as `element` that no other kernels can take the place of; whether that is
    /// nothing.
    pub fn take_note(&mut self, element: Element, found: &[Examined]) -> bool {
        if self.examined_by != examiner() {
            self.examined.clear();
            self.examined_by = examiner();
        }
        let is_wrong = |entry: &&Examined| !entry.failures.is_empty() && !is_spare(entry.form.as_deref());
        let words = |entry: &Examined| format!("{}: {}", entry.what, told(&entry.failures, "; "));
        let wrong: Vec<String> = found.iter().filter(is_wrong).map(words).collect();
        let is_sound = wrong.is_empty();
        self.examined.insert(examination(element), wrong);
        is_sound
    }

    /// What is wrong, where this version has examined the device.
    fn verdict(&self, element: Element) -> Option<&[String]> {
        let found = self.examined.get(&examination(element)).filter(|_| self.examined_by == examiner());
        found.map(Vec::as_slice)
    }
}

/// What is examined: a driver may be right with its checks of bounds alone.
fn examination(element: Element) -> String {
    let checks = if crate::gpu::checks_bounds() { ", with the driver's checks of bounds" } else { "" };
    format!("{}{checks}", element.word())
}

/// Who examines: another version has other kernels, or asks for more of them.
fn examiner() -> String {
    static EXAMINER: LazyLock<String> = LazyLock::new(|| {
        let golden = files::hex(&Sha256::digest(super::whole::GOLDEN_TEXT));
        format!("{}, whole steps {}", env!("CARGO_PKG_VERSION"), &golden[..8])
    });
    EXAMINER.clone()
}

/// Others can take the place of this form of convolutions: not of the one that every device has.
pub fn is_spare(form: Option<&str>) -> bool {
    form.is_some_and(|form| form != Form::Tiled.name())
}

/// The first few.
fn told(failures: &[String], between: &str) -> String {
    const TOLD: usize = 3;
    let first = failures[..failures.len().min(TOLD)].join(between);
    match failures.len().saturating_sub(TOLD) {
        0 => first,
        others => format!("{first}{between}and {others} more"),
    }
}

fn unsound(adapter: &AdapterSummary, element: Element, failures: &[String]) -> Error {
    let remedy = match element {
        Element::F32 => "",
        Element::F16 => "set precision to f32, in which it is right, or ",
    };
    Error::failure(format!(
        "{adapter} {WRONG} in {}, or refuses to (its driver is {}); nothing that came of it could be trusted:\n  {}\n  \
         help: {remedy}update its driver, or take another adapter (`rosette devices`); `rosette doctor` examines it anew, and {ALL_THE_SAME}=1 uses it all the same",
        element.word(),
        adapter.driver,
        told(failures, "\n  "),
    ))
}
