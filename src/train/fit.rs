//! Whether a batch fits the device, and into which micro-batches it is cut where it does not.

use std::fmt;

use super::accumulation::parts;
use super::plan::estimate_batch;
use crate::config::{BatchFit, Experiment, TrainingConfig};
use crate::error::{Error, Result};
use crate::gpu::Limits;
use crate::report::{MicroBatch, RunRecord};

/// Where a device refuses a plan that should fit, the next one takes at most this share of it.
const NEXT_SHARE: f64 = 0.8;

/// How a batch fits a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Patches on the device at once: those of the batch, or fewer.
    pub most_patches: usize,
    /// What the plan for them takes, with the training samples.
    pub planned_bytes: u64,
    /// Why the batch is cut, with its plan's numbers; none where it is whole.
    pub reason: Option<String>,
    batch_size: usize,
    planned: Planned,
}

/// What the settings alone come to, before the device refused anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Planned {
    /// Patches on the device at once.
    patches: usize,
    /// The least limit that leads to as many, ...
    from_bytes: u64,
    /// ... and the least that leads to more, where one does.
    below_bytes: Option<u64>,
}

impl Fit {
    /// Plans a training with so many bytes of samples on the device.
    ///
    /// # Errors
    /// A user error where one patch does not fit, or where the batch does not and `batch_fit` is `error`.
    pub fn plan(experiment: &Experiment, limits: Limits, sample_bytes: u64) -> Result<Self> {
        let training = &experiment.training;
        let batch_size = training.batch_size;
        let planned = |patches| planned_bytes(experiment, limits, patches, sample_bytes);
        let reason = match planned(batch_size) {
            Ok(bytes) if fits(experiment, bytes) => {
                return Ok(Self::whole(batch_size, bytes));
            }
            Ok(bytes) => format!(
                "a batch of {batch_size} takes {:.2} GiB, memory_limit is {} GiB",
                gib(bytes),
                training.memory_limit
            ),
            Err(error) if batch_size == 1 => return Err(error),
            Err(error) => {
                let said = error.to_string();
                format!("a batch of {batch_size}: {}", said.lines().next().unwrap_or_default())
            }
        };
        let one = planned(1)?;
        if !fits(experiment, one) {
            let expected = format!("at least {:.2} GiB, which a single patch takes", gib(one));
            let remedy = "raise it, or reduce patch_size or base_channels, or set precision: f16";
            return Err(Error::user("memory_limit", expected, training.memory_limit, remedy));
        }
        let does_fit = |patches| planned(patches).is_ok_and(|bytes| fits(experiment, bytes));
        let most = largest(batch_size, does_fit);
        let fit = Self::whole(batch_size, one).cut(experiment, most, planned, reason)?;
        // The fewest patches that make a part less.
        let more = batch_size.div_ceil(parts(batch_size, fit.most_patches).len() - 1);
        let below_bytes = [more, batch_size].into_iter().filter_map(|patches| planned(patches).ok()).min();
        let (patches, from_bytes) = (fit.most_patches, fit.planned_bytes);
        Ok(Self { planned: Planned { patches, from_bytes, below_bytes }, ..fit })
    }

    fn whole(batch_size: usize, planned_bytes: u64) -> Self {
        let planned = Planned { patches: batch_size, from_bytes: planned_bytes, below_bytes: None };
        Self { most_patches: batch_size, planned_bytes, reason: None, batch_size, planned }
    }

    /// Patches on the device at once by the settings alone: more than [`Fit::most_patches`] where the device refused them.
    pub fn planned_patches(&self) -> usize {
        self.planned.patches
    }

    /// The next smaller plan, after the device refused this one.
    ///
    /// # Errors
    /// Where there is none, or where the batch may not be cut.
    pub(super) fn smaller(
        self,
        experiment: &Experiment,
        limits: Limits,
        sample_bytes: u64,
        why: &str,
    ) -> Result<Self> {
        let planned = |patches| planned_bytes(experiment, limits, patches, sample_bytes);
        let most = (self.planned_bytes as f64 * NEXT_SHARE) as u64;
        let does_fit = |patches| planned(patches).is_ok_and(|bytes| bytes <= most);
        if self.most_patches == 1 {
            return Err(Error::OutOfMemory(why.into()));
        }
        let next = if does_fit(1) { largest(self.most_patches, does_fit) } else { 1 };
        let reason = format!(
            "the device has no memory for {} patches, {:.2} GiB: {why}",
            self.most_patches,
            gib(self.planned_bytes)
        );
        self.cut(experiment, next, planned, reason)
    }

    fn cut(
        self,
        experiment: &Experiment,
        most: usize,
        planned: impl Fn(usize) -> Result<u64>,
        reason: String,
    ) -> Result<Self> {
        if experiment.training.batch_fit == BatchFit::Error {
            let remedy = format!(
                "set batch_size to {most} ({:.2} GiB), or batch_fit to auto, which trains such a batch in parts, \
                 or take another adapter (`rosette devices`)",
                gib(planned(most)?)
            );
            return Err(Error::user("batch_size", "a batch that fits the device", reason, remedy));
        }
        // As even as can be: a part of one patch has poor statistics.
        let most_patches = parts(self.batch_size, most)[0];
        let planned_bytes = planned(most_patches)?;
        Ok(Self { most_patches, planned_bytes, reason: Some(reason), ..self })
    }

    /// For the record of the run, where the batch is cut.
    pub fn record(&self) -> Option<MicroBatch> {
        let reason = self.reason.clone()?;
        Some(MicroBatch {
            patches: self.most_patches,
            planned_bytes: self.planned_bytes,
            reason,
            same_from_bytes: Some(self.planned.from_bytes),
            same_below_bytes: self.planned.below_bytes,
        })
    }

    /// Whether the batch is cut.
    pub fn is_cut(&self) -> bool {
        self.most_patches < self.batch_size
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<String> =
            parts(self.batch_size, self.most_patches).iter().map(usize::to_string).collect();
        match &self.reason {
            None => write!(f, "a batch of {} fits: {:.2} GiB", self.batch_size, gib(self.planned_bytes)),
            Some(reason) => write!(
                f,
                "{reason}; it is trained in micro-batches of {} patches, {:.2} GiB: gradients add up to those of the \
                 batch, batch normalisation sees one micro-batch at a time",
                sizes.join(" + "),
                gib(self.planned_bytes)
            ),
        }
    }
}

/// Whether settings that differ from those of a record in where things lie, and in nothing else, cut a batch as it was
/// cut. A device that refused a plan will do so again: what it left stays.
pub fn is_cut_alike(record: &RunRecord, training: &TrainingConfig) -> bool {
    let (old, limit) = (&record.training, training.memory_limit);
    let plans_alike =
        old.recompute == training.recompute && old.data.memory_budget == training.data.memory_budget;
    let keeps = |bytes: u64| limit == 0.0 || gib(bytes) <= limit;
    let Some(cut) = &record.micro_batch else {
        return limit == 0.0 || plans_alike && record.device_memory_bytes.is_some_and(keeps);
    };
    if training.batch_fit == BatchFit::Error || !plans_alike {
        return false;
    }
    let is_between = |from| keeps(from) && cut.same_below_bytes.is_none_or(|below| !keeps(below));
    old.memory_limit == limit || cut.same_from_bytes.is_some_and(is_between)
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

fn fits(experiment: &Experiment, bytes: u64) -> bool {
    let limit = experiment.training.memory_limit;
    limit == 0.0 || gib(bytes) <= limit
}

fn planned_bytes(experiment: &Experiment, limits: Limits, patches: usize, sample_bytes: u64) -> Result<u64> {
    Ok(estimate_batch(experiment, limits, patches)?.total_bytes() + sample_bytes)
}

/// The largest number below `end` that fits, where 1 does and what is larger than one that does not does not either.
fn largest(end: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (1, end);
    while high - low > 1 {
        let middle = usize::midpoint(low, high);
        if fits(middle) { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experiment(batch_size: usize, memory_limit: f64) -> Experiment {
        let mut experiment = Experiment::defaults("x");
        (experiment.model.base_channels, experiment.model.patch_size) = (8, 64);
        (experiment.training.batch_size, experiment.training.memory_limit) = (batch_size, memory_limit);
        experiment
    }

    fn plan(experiment: &Experiment) -> Result<Fit> {
        Fit::plan(experiment, Limits::WEBGPU, 0)
    }

    #[test]
    fn a_batch_is_cut_into_the_largest_parts_that_keep_the_limit() {
        let bytes = |patches| planned_bytes(&experiment(8, 0.0), Limits::WEBGPU, patches, 0).expect("a plan");
        assert!(!plan(&experiment(8, 0.0)).expect("no limit").is_cut());
        let just = gib(bytes(8)) * 1.000_001;
        assert!(!plan(&experiment(8, just)).expect("it fits").is_cut());
        // Room for three of eight, of which 3 + 3 + 2 are made, and for five, of which 4 + 4 are.
        for (room, expected) in [(3, 3), (5, 4), (1, 1)] {
            let limit = gib(bytes(room)) * 1.01;
            let fit = plan(&experiment(8, limit)).expect("parts");
            assert!(fit.is_cut() && gib(fit.planned_bytes) <= limit, "{fit}");
            assert_eq!(fit.most_patches, expected, "{fit}");
            assert!(fit.to_string().contains("memory_limit is"), "{fit}");
        }
        let said = plan(&experiment(8, gib(bytes(1)) * 0.9)).expect_err("not one patch").to_string();
        assert!(said.contains("memory_limit: expected at least"), "{said}");
    }

    /// The record of a training whose batch was planned so; `fit` as the device left it.
    fn record(experiment: &Experiment, fit: &Fit) -> RunRecord {
        let mut record = RunRecord::new(experiment, 1, "a device");
        (record.micro_batch, record.device_memory_bytes) = (fit.record(), Some(fit.planned_bytes));
        record
    }

    /// Every limit on either side of every plan: where the record says that the batch is cut alike, it is, and vice versa.
    #[test]
    fn another_memory_limit_counts_where_it_cuts_the_batch_otherwise() {
        let bytes = |patches| planned_bytes(&experiment(8, 0.0), Limits::WEBGPU, patches, 0).expect("a plan");
        let limits: Vec<f64> = (1..=8).flat_map(|n| [gib(bytes(n)), gib(bytes(n)) * 1.001]).collect();
        let (mut alike, mut other) = (0, 0);
        for old in limits.iter().chain(&[0.0]) {
            let before = plan(&experiment(8, *old)).expect("a plan");
            let record = record(&experiment(8, *old), &before);
            for new in limits.iter().chain(&[0.0]) {
                let after = plan(&experiment(8, *new)).expect("a plan");
                let is_same = before.most_patches == after.most_patches;
                assert_eq!(is_cut_alike(&record, &experiment(8, *new).training), is_same, "{old} {new}");
                *(if is_same { &mut alike } else { &mut other }) += 1;
            }
        }
        assert!(alike > 17 && other > 17, "{alike} {other}");
    }

    #[test]
    fn a_batch_that_the_device_refused_is_not_trained_anew_each_time() {
        let asked = experiment(8, 0.0);
        let refused = plan(&asked).expect("no limit").smaller(&asked, Limits::WEBGPU, 0, "refused");
        let fit = refused.expect("a smaller one");
        assert!(fit.is_cut() && fit.planned_patches() == 8);
        let record = record(&asked, &fit);
        assert!(is_cut_alike(&record, &asked.training));
        // A limit that would have kept the whole batch changes nothing; one below it, or a refusal, does.
        let whole = gib(planned_bytes(&asked, Limits::WEBGPU, 8, 0).expect("a plan"));
        for (limit, is_alike) in [(whole * 1.1, true), (whole * 0.99, false)] {
            assert_eq!(is_cut_alike(&record, &experiment(8, limit).training), is_alike, "{limit}");
        }
        let strict = TrainingConfig { batch_fit: BatchFit::Error, ..asked.training.clone() };
        assert!(!is_cut_alike(&record, &strict));
    }

    #[test]
    fn where_samples_lie_is_no_reason_to_train_until_a_limit_makes_it_one() {
        let asked = experiment(8, 0.0);
        let streamed = |limit: f64| {
            let mut streamed = experiment(8, limit).training;
            streamed.data.memory_budget = 0.0;
            streamed
        };
        let record = record(&asked, &plan(&asked).expect("no limit"));
        assert!(is_cut_alike(&record, &streamed(0.0)) && !is_cut_alike(&record, &streamed(4000.0)));
    }

    #[test]
    fn a_batch_that_is_refused_is_told_with_one_that_fits() {
        let mut experiment = experiment(8, 0.0);
        let bytes = planned_bytes(&experiment, Limits::WEBGPU, 3, 0).expect("a plan");
        experiment.training.memory_limit = gib(bytes) * 1.01;
        experiment.training.batch_fit = BatchFit::Error;
        let said = plan(&experiment).expect_err("refused").to_string();
        assert!(said.contains("a batch of 8 takes") && said.contains("set batch_size to 3 ("), "{said}");
    }

    #[test]
    fn what_the_device_refuses_gives_way_to_smaller_parts_down_to_one_patch() {
        let experiment = experiment(8, 0.0);
        let mut fit = plan(&experiment).expect("no limit");
        let mut sizes = vec![fit.most_patches];
        while fit.most_patches > 1 {
            let before = fit.planned_bytes;
            fit = fit.smaller(&experiment, Limits::WEBGPU, 0, "refused").expect("a smaller one");
            assert!(fit.planned_bytes < before);
            sizes.push(fit.most_patches);
        }
        assert!(sizes.len() > 2, "{sizes:?}");
        assert!(matches!(fit.smaller(&experiment, Limits::WEBGPU, 0, "again"), Err(Error::OutOfMemory(_))));
    }
}
