//! Where measurements of a device are kept, and which of them a training goes by.
//!
//! A cache is a file for each adapter, driver and set of shaders. One that is missing, damaged or another device's is an
//! empty one. A training that was interrupted goes on with what it started with, so that its bytes stay the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::keeper::is_unfinished;
use super::probe::{probe, risky};
use super::step::{StepSettings, record_evaluation, record_training};
use super::stop;
use crate::error::{Error, Result};
use crate::files;
use crate::gpu::{AdapterSummary, Gpu, Limits};
use crate::model::AttentionUNet;
use crate::ops::choice::{Form, Question};
use crate::ops::tune::{Timing, kernels, measure, shader_digest};
use crate::report::progress::{self, Work};
use crate::tape::Tuning;

/// Beside a training's checkpoints: the answers that it goes by.
const KEPT: &str = ".tuning.json";
/// A form must beat the device's usual one by this to be taken, so that noise changes nothing.
const WORTH_IT: f64 = 0.97;
/// The same on a processor, where a step shares Winograd's transforms, which a form alone pays for: forms that were up to 1.3 times
/// as fast alone made steps slower.
const WORTH_IT_SOFTWARE: f64 = 0.6;

/// Questions whose pipelines are made together, several at once.
const AHEAD: usize = 8;

/// What is said before [`TuningCache::probe`].
pub const PROBING: &str = "trying matrix units in a process of its own, once: a driver that crashes at them must not take more along";

/// What was measured on one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TuningCache {
    /// The adapter's name and backend.
    pub adapter: String,
    /// Its driver.
    pub driver: String,
    /// A hash of the shaders that competed.
    pub shaders: String,
    /// For each question (see [`Question::key`]) every form that was measured, fastest first.
    pub timings: BTreeMap<String, Vec<Timing>>,
    /// Forms that computed something else than their reference on this device (see [`super::examine`]).
    #[serde(default)]
    pub banned: Vec<String>,
    /// Forms that a process of their own has run (see [`Self::probe`]), and what went wrong, if anything.
    #[serde(default)]
    pub probed: BTreeMap<String, Option<String>>,
    /// By how activations are stored, where the device was examined: what it computes wrongly that no other form can take the place of (see
    /// [`Self::ensure_sound`]).
    #[serde(default)]
    pub examined: BTreeMap<String, Vec<String>>,
    /// The version that has examined it, and how.
    #[serde(default)]
    pub examined_by: String,
    #[serde(skip)]
    path: Option<PathBuf>,
}

impl TuningCache {
    /// What is known of a device of which nothing was measured. It is kept nowhere.
    pub fn empty(adapter: &AdapterSummary) -> Self {
        Self {
            adapter: adapter.to_string(),
            driver: adapter.driver.clone(),
            shaders: shader_digest(),
            timings: BTreeMap::new(),
            banned: Vec::new(),
            probed: BTreeMap::new(),
            examined: BTreeMap::new(),
            examined_by: String::new(),
            path: None,
        }
    }

    /// The cache of a device; an empty one where there is none.
    pub fn load(adapter: &AdapterSummary) -> Self {
        let empty = Self::empty(adapter);
        let path = files::cache_dir().map(|dir| dir.join(empty.file_name()));
        let found = path.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        let found = found.and_then(|text| serde_json::from_str::<Self>(&text).ok());
        let own = found.filter(|found| found.is_of(&empty));
        Self { path, ..own.unwrap_or(empty) }
    }

    fn file_name(&self) -> String {
        let parts = [&self.adapter, &self.driver, &self.shaders].map(String::as_str).join("\n");
        format!("tuning-{}.json", &files::hex(&Sha256::digest(parts))[..16])
    }

    fn is_of(&self, other: &Self) -> bool {
        (&self.adapter, &self.driver, &self.shaders) == (&other.adapter, &other.driver, &other.shaders)
    }

    /// Where it is kept; none where the system has no place for caches.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Writes it to its place, where it has one.
    ///
    /// # Errors
    /// Where the disk takes no more.
    pub fn save(&self) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        files::write_atomic(path, serde_json::to_string_pretty(self).expect("numbers and text").as_bytes())
    }

    /// The answers: where a form beats the usual one clearly, and computes what it does.
    pub fn tuning(&self, limits: Limits) -> Tuning {
        let unusable = self.unusable();
        let answers = self.timings.iter().filter_map(|(key, timings)| {
            let usual = Question::from_key(key)?.usual(limits).name();
            let trusted: Vec<Timing> =
                timings.iter().filter(|timing| !unusable.contains(&timing.form)).cloned().collect();
            Some((key.clone(), choose(&trusted, usual, limits)?.form.clone()))
        });
        Tuning::new(answers.collect(), unusable.clone())
    }

    /// No answers: the device's limits decide among the forms that are not banned.
    pub fn by_limits(&self) -> Tuning {
        Tuning::new(BTreeMap::new(), self.unusable())
    }

    /// Sets the forms that are wrong on the device; what was measured beside other ones is forgotten.
    pub fn ban(&mut self, forms: Vec<String>) {
        if self.banned != forms {
            self.timings.clear();
            self.banned = forms;
        }
    }

    /// Forms that are wrong on the device, or that its driver does not survive.
    pub fn unusable(&self) -> Vec<String> {
        let broken = self.probed.iter().filter_map(|(form, found)| found.as_ref().map(|_| form));
        let mut all: Vec<String> = self.banned.iter().chain(broken).cloned().collect();
        all.sort();
        all.dedup();
        all
    }

    /// Has a process of its own run the forms that a driver may not survive, once, or `again`. What was found is kept at once, since
    /// this process runs them next. All forms that the driver does not survive, and how it failed.
    ///
    /// # Errors
    /// [`Error::Stopped`] where a signal came meanwhile.
    pub fn probe(&mut self, gpu: &Gpu, again: bool) -> Result<Vec<(Form, String)>> {
        let found = probe(gpu, &self.unprobed(gpu, again));
        if !found.is_empty() {
            let before = self.unusable();
            self.probed.extend(found.into_iter().map(|(form, verdict)| (form.name().to_owned(), verdict)));
            // What was measured beside other forms is forgotten, as in [`Self::ban`].
            if self.unusable() != before {
                self.timings.clear();
            }
            self.save_or_warn();
        }
        if stop::is_requested() {
            return Err(Error::Stopped("stopped by a signal, before anything was begun".into()));
        }
        let broken =
            |(name, verdict): (&String, &Option<String>)| Some((Form::named(name)?, verdict.clone()?));
        Ok(self.probed.iter().filter_map(broken).collect())
    }

    /// The forms that [`Self::probe`] would run.
    pub fn unprobed(&self, gpu: &Gpu, again: bool) -> Vec<Form> {
        let is_open = |form: &Form| again || !self.probed.contains_key(form.name());
        risky(gpu).into_iter().filter(is_open).collect()
    }

    /// [`Self::probe`] of a training that asks these, which says so. In f32 nothing runs on matrix units.
    fn probe_shown(&mut self, gpu: &Gpu, questions: &[Question], mode: progress::Mode) -> Result<()> {
        if !questions.iter().any(|question| question.half) || self.unprobed(gpu, false).is_empty() {
            return Ok(());
        }
        let work = Work::new(mode, 1, "matrix units");
        work.message(PROBING);
        for (form, why) in self.probe(gpu, false)? {
            work.message(&format!("passed over: {}: {why}", form.name()));
        }
        Ok(())
    }

    /// Writes it to its place, and says whether it is there; a place that takes nothing is told of once, and costs nothing but a measurement
    /// next time.
    pub fn save_or_warn(&self) -> bool {
        let Err(error) = self.save() else { return self.path.is_some() };
        // No log may have been started yet.
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            progress::print_line(&format!("warning: what was found of the device is not kept: {error}"));
        });
        false
    }

    /// Measures the questions that are not answered yet, or all of them, and keeps each answer at once; `told` hears of each, with its place.
    ///
    /// # Errors
    /// Where the device was lost.
    pub fn measure(
        &mut self,
        gpu: &Gpu,
        questions: &[Question],
        again: bool,
        mut told: impl FnMut(usize, &Question, &[Timing]),
    ) -> Result<()> {
        let unusable = self.unusable();
        for (place, question) in questions.iter().enumerate() {
            if place.is_multiple_of(AHEAD) {
                let next = &questions[place..questions.len().min(place + AHEAD)];
                let is_open = |question: &&Question| again || !self.timings.contains_key(&question.key());
                let open = next.iter().filter(is_open);
                gpu.compile_ahead(open.flat_map(|question| kernels(gpu, question, &unusable)))?;
            }
            let key = question.key();
            if !again && let Some(known) = self.timings.get(&key) {
                told(place, question, known);
                continue;
            }
            let timings = measure(gpu, question, &unusable)?;
            told(place, question, &timings);
            // What had no memory, perhaps beside another program, is tried again next time.
            if !timings.iter().any(|timing| timing.is_transient) {
                self.timings.insert(key, timings);
                // Who stops half-way keeps the half.
                self.save_or_warn();
            }
        }
        Ok(())
    }

    /// Measures what a training asks before it starts, and keeps it.
    fn measure_shown(&mut self, gpu: &Gpu, open: &[Question], mode: progress::Mode) -> Result<()> {
        let mut work = Work::new(mode, 1, "convolutions");
        work.message(&format!(
            "measuring which kernels are fastest on {}, once for this and later trainings",
            gpu.summary()
        ));
        work.started("measuring", open.len());
        let started = Instant::now();
        let mut failures: BTreeSet<String> = BTreeSet::new();
        let measured = self.measure(gpu, open, false, |_, _, timings| {
            failures.extend(timings.iter().filter_map(Timing::told_failure));
            work.advance(1);
        });
        let seconds = started.elapsed().as_secs_f64();
        work.finished(&format!("{} convolutions asked for, {}", open.len(), progress::duration(seconds)));
        failures.iter().for_each(|failure| work.message(&format!("passed over: {failure}")));
        measured
    }
}

/// The form to take: the fastest sound one, or the usual one where that is as good as fast.
pub fn choose<'a>(timings: &'a [Timing], usual: &str, limits: Limits) -> Option<&'a Timing> {
    let worth_it = if limits.software { WORTH_IT_SOFTWARE } else { WORTH_IT };
    let fastest = timings.first().filter(|timing| timing.sound)?;
    let usual = timings.iter().find(|timing| timing.sound && timing.form == usual);
    Some(usual.filter(|usual| fastest.ms > usual.ms * worth_it).unwrap_or(fastest))
}

/// What the steps of a training ask, in training and in evaluation, at these batch sizes.
pub fn questions(
    net: &AttentionUNet,
    limits: Limits,
    settings: &StepSettings,
    batches: &[usize],
) -> Vec<Question> {
    let mut asked: Vec<String> = Vec::new();
    for batch in batches {
        asked.extend(record_training(net, limits, settings, *batch).program.questions);
        asked.extend(record_evaluation(net, limits, settings, *batch).program.questions);
    }
    asked.sort();
    asked.dedup();
    asked.iter().filter_map(|key| Question::from_key(key)).collect()
}

/// What a training in `dir` goes by: what it started with where it goes on, else the device's cache.
///
/// On a GPU, where it takes seconds to a minute, what is not in the cache is measured now, and `mode` says how that is shown.
///
/// # Errors
/// Where the device was lost.
pub fn of_training(
    dir: &Path,
    restart: bool,
    gpu: &Gpu,
    questions: &[Question],
    mode: progress::Mode,
) -> Result<Tuning> {
    if restart || !is_unfinished(dir) {
        return measured(gpu, questions, mode);
    }
    let mut cache = TuningCache::load(gpu.summary());
    // Of what goes on too: its driver may be another one now.
    cache.probe_shown(gpu, questions, mode)?;
    let kept = std::fs::read_to_string(dir.join(KEPT)).ok();
    let answers = kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    Ok(Tuning::new(answers, cache.unusable()))
}

/// What a device's cache answers to these questions; on a GPU what is not in it is measured first, and kept.
///
/// # Errors
/// Where the device was lost; [`Error::Stopped`] where a signal came meanwhile.
pub fn measured(gpu: &Gpu, questions: &[Question], mode: progress::Mode) -> Result<Tuning> {
    let mut cache = TuningCache::load(gpu.summary());
    cache.probe_shown(gpu, questions, mode)?;
    let is_open = |question: &&Question| !cache.timings.contains_key(&question.key());
    let open: Vec<Question> = questions.iter().filter(is_open).cloned().collect();
    if !gpu.limits().software && !open.is_empty() {
        cache.measure_shown(gpu, &open, mode)?;
    }
    // What others have asked since would otherwise decide on a short last batch, and the same command give other bytes.
    let own: BTreeSet<String> = questions.iter().map(Question::key).collect();
    let all = cache.tuning(gpu.limits());
    let answers = all.answers().filter(|(key, _)| own.contains(*key));
    let answers = answers.map(|(key, form)| (key.to_owned(), form.to_owned())).collect();
    Ok(Tuning::new(answers, cache.unusable()))
}

/// Keeps what a training goes by beside its checkpoints.
///
/// # Errors
/// Where the disk takes no more.
pub fn keep(dir: &Path, tuning: Tuning) -> Result<()> {
    let answers: BTreeMap<&str, &str> = tuning.answers().collect();
    files::write_atomic(&dir.join(KEPT), serde_json::to_string(&answers).expect("text").as_bytes())
}

/// Forgets it, once the training has ended.
pub fn forget(dir: &Path) {
    let _ = std::fs::remove_file(dir.join(KEPT));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(form: &str, ms: f64, sound: bool) -> Timing {
        Timing { form: form.into(), ms, difference: 0.0, sound, failure: None, is_transient: false }
    }

    #[test]
    fn a_form_that_the_doctor_has_found_wrong_is_not_taken() {
        let question = r#"{"pass":"forward","kernel":1,"squares":false,"image":[1,1,1],"sources":[4],"out_channels":4,"half":false,"exact":false}"#;
        let timings = vec![timing("direct", 1.0, true), timing("tiled", 9.0, true)];
        let mut cache = TuningCache {
            adapter: String::new(),
            driver: String::new(),
            shaders: String::new(),
            timings: BTreeMap::from([(question.to_owned(), timings)]),
            banned: Vec::new(),
            probed: BTreeMap::new(),
            examined: BTreeMap::new(),
            examined_by: String::new(),
            path: None,
        };
        assert_eq!(cache.tuning(Limits::WEBGPU).answer(question), Some("direct"));
        cache.banned.push("direct".into());
        assert_eq!(cache.tuning(Limits::WEBGPU).answer(question), Some("tiled"));
        cache.banned.clear();
        cache.probed.insert("direct".into(), None);
        assert_eq!(cache.tuning(Limits::WEBGPU).answer(question), Some("direct"));
        cache.probed.insert("direct".into(), Some("the driver ended the process".into()));
        assert_eq!(cache.tuning(Limits::WEBGPU).answer(question), Some("tiled"));
        assert_eq!(cache.by_limits().banned(), ["direct"]);
    }

    #[test]
    fn the_usual_form_stays_unless_another_is_clearly_faster_and_sound() {
        let chosen = |timings: &[Timing]| choose(timings, "tiled", Limits::WEBGPU).map(|t| t.form.clone());
        let [fast, usual] = [timing("direct", 1.0, true), timing("tiled", 1.01, true)];
        assert_eq!(chosen(&[fast.clone(), usual.clone()]).as_deref(), Some("tiled"), "as good as fast");
        assert_eq!(chosen(&[fast.clone(), timing("tiled", 1.2, true)]).as_deref(), Some("direct"));
        assert_eq!(chosen(&[fast, timing("tiled", 1.0, false)]).as_deref(), Some("direct"));
        assert_eq!(chosen(&[timing("direct", 1.0, false)]), None, "wrong results are never taken");
        assert_eq!(chosen(&[]), None);
        // Taken on a processor, forms that were a little faster alone made steps slower.
        let processor = Limits { software: true, ..Limits::WEBGPU };
        let timings = [timing("direct", 1.0, true), timing("tiled", 1.3, true)];
        assert_eq!(choose(&timings, "tiled", processor).map(|t| t.form.as_str()), Some("tiled"));
    }
}
