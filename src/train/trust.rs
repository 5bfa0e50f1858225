//! Whether a device computes what it should, before it trains or predicts for the first time.
//!
//! A driver may compute nonsense and say nothing. Scores do not tell: where kernels leave what they should write as it was, zeros, the
//! loss is 0 and the F1 is 1. So some cases of every operation are compared with their f64 references first, once for an adapter, a
//! driver and a set of shaders. The doctor does the same with all cases. Software adapters are left to it, as they are to the tuner.

use super::doctor::{Examined, examine_briefly};
use super::tuning::TuningCache;
use crate::error::{Error, Result};
use crate::gpu::{AdapterSummary, Gpu};
use crate::ops::choice::Form;
use crate::report::progress::{Mode, Work};
use crate::tape::Element;

/// Examines a device where that was not done yet, for activations that are stored as `element`; `mode` says how that is shown.
///
/// # Errors
/// A failure with the operations that the device computes wrongly, or whose kernels its driver refuses, where no other kernels can
/// take their place; [`Error::Stopped`] where a signal came meanwhile; where the device lacks memory, or was lost.
pub fn ensure_sound(gpu: &Gpu, element: Element, mode: Mode) -> Result<()> {
    if gpu.limits().software {
        return Ok(());
    }
    TuningCache::load(gpu.summary()).ensure_sound(gpu, element, mode)
}

impl TuningCache {
    /// [`ensure_sound`] of a device whose cache this is.
    ///
    /// # Errors
    /// As there.
    pub fn ensure_sound(&mut self, gpu: &Gpu, element: Element, mode: Mode) -> Result<()> {
        // Planes of one channel are f32 always. Who asks for f16 of a device that has none is told so where it is used.
        let half = (element == Element::F16 && gpu.limits().f16).then_some(Element::F16);
        for element in std::iter::once(Element::F32).chain(half) {
            if !self.examined.contains_key(element.word()) {
                if element == Element::F16 {
                    // Matrix units run then, which a driver may not survive.
                    self.probe_shown(gpu, mode)?;
                }
                let work = Work::new(mode, 1, "operations");
                let (adapter, stored) = (gpu.summary(), element.word());
                work.message(&format!("checking once that {adapter} computes what it should in {stored}"));
                let found = examine_briefly(gpu, element, &self.unusable())?;
                self.ban_spare(&found);
                self.take_note(element, &found);
                self.save_or_warn();
            }
            let failures = &self.examined[element.word()];
            if !failures.is_empty() {
                return Err(unsound(gpu.summary(), failures));
            }
        }
        Ok(())
    }

    /// Forms that are wrong are not used again.
    fn ban_spare(&mut self, found: &[Examined]) {
        let mut banned = self.banned.clone();
        banned.extend(failed(found).filter(|entry| is_spare(entry)).filter_map(|entry| entry.form.clone()));
        banned.sort();
        banned.dedup();
        self.ban(banned);
    }

    /// Notes what an examination has found of activations stored as `element` that no other form can take the place of.
    pub fn take_note(&mut self, element: Element, found: &[Examined]) {
        let words = |entry: &Examined| format!("{}: {}", entry.what, entry.failures.join("; "));
        let for_good = failed(found).filter(|entry| !is_spare(entry)).map(words);
        self.examined.insert(element.word().to_owned(), for_good.collect());
    }
}

fn failed(found: &[Examined]) -> impl Iterator<Item = &Examined> {
    found.iter().filter(|entry| !entry.failures.is_empty())
}

/// Others can take its place: of the forms of convolutions there is one that every device has.
fn is_spare(entry: &Examined) -> bool {
    entry.form.as_deref().is_some_and(|form| form != Form::Tiled.name())
}

fn unsound(adapter: &AdapterSummary, failures: &[String]) -> Error {
    const TOLD: usize = 3;
    let others = match failures.len().saturating_sub(TOLD) {
        0 => String::new(),
        others => format!("\n  and {others} more"),
    };
    let told: Vec<&str> = failures.iter().take(TOLD).map(String::as_str).collect();
    Error::failure(format!(
        "{adapter} computes wrongly (its driver is {}), and nothing that it trained or predicted could be trusted:\n  {}{others}\n  \
         help: update its driver, or take another adapter (`rosette devices`); `rosette doctor` examines it anew",
        adapter.driver,
        told.join("\n  "),
    ))
}
