//! What is to be done about the experiments of a configuration: their splits, their members, and why each has to be
//! trained. Nothing is written.

use std::collections::BTreeMap;
use std::path::Path;

use super::decide::{Decision, Inputs, decide};
use super::members::{known_manifest, members};
use super::run::MatrixRun;
use crate::config::{Config, Experiment, Origins};
use crate::data::loader::Dataset;
use crate::data::residency::SampleSize;
use crate::data::sample::discover;
use crate::data::split::Manifest;
use crate::error::{Error, Result};
use crate::report::events;

/// An experiment, or one of its members, with what is to be done about it.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Every setting.
    pub experiment: Experiment,
    /// The member's name, where the experiment is trained several times.
    pub member: Option<String>,
    /// Where the settings come from.
    pub origins: Origins,
    /// Its split.
    pub manifest: Manifest,
    /// Whether the manifest in the output directory is another one, or none.
    pub is_new_split: bool,
    /// Whether it has to be trained.
    pub decision: Decision,
    /// The memory that its training samples take on a device.
    pub sample_sizes: Vec<SampleSize>,
    /// Whether it is among those that this run is asked for.
    pub is_asked: bool,
}

/// What is to be done about all experiments of a configuration.
#[derive(Debug)]
pub struct Plan {
    /// The trainings, those that this run is not asked for included.
    pub parts: Vec<Planned>,
    /// Experiments that cannot be planned, with the reason.
    pub failures: Vec<(String, Error)>,
}

impl Plan {
    /// Whether every experiment of the configuration is done and unchanged.
    pub fn is_all_done(&self) -> bool {
        self.failures.is_empty() && self.parts.iter().all(|part| part.decision == Decision::Keep)
    }

    /// The experiments that this run is asked for and that cannot be planned.
    pub fn asked_failures<'a>(&'a self, run: &'a MatrixRun) -> impl Iterator<Item = &'a (String, Error)> {
        self.failures.iter().filter(|(name, _)| run.is_asked(name))
    }

    /// The trainings that this run is asked for.
    pub fn asked(&self) -> impl Iterator<Item = &Planned> {
        self.parts.iter().filter(|part| part.is_asked)
    }
}

impl Planned {
    /// To be kept until it is decided otherwise.
    fn new(experiment: Experiment, origins: Origins, member: Option<String>, manifest: Manifest) -> Self {
        Self {
            experiment,
            member,
            origins,
            manifest,
            is_new_split: true,
            decision: Decision::Keep,
            sample_sizes: Vec::new(),
            is_asked: true,
        }
    }

    /// `experiment` or `experiment/member`.
    pub fn label(&self) -> String {
        events::label(&self.experiment.name, self.member.as_deref())
    }
}

/// Splits the samples for each experiment of the configuration and decides what has to be trained; writes nothing. An
/// experiment with a mistake does not stop the others.
///
/// # Errors
/// A user error where the configuration or the samples are wrong, or every experiment that is asked for is.
pub fn plan_matrix(run: &MatrixRun) -> Result<Plan> {
    let config = Config::load(&run.config)?;
    // Settings are quick to mend: what is asked for is checked as a whole before anything is done.
    let every = config.names().into_iter().filter(|_| run.only.is_empty());
    for name in every.chain(run.only.iter().map(String::as_str)) {
        config.resolve(name, &run.overrides)?;
    }
    let samples = discover(&run.data_dir)?;
    let mut digests = Digests { data_dir: &run.data_dir, known: BTreeMap::new() };
    let mut all = Plan { parts: Vec::new(), failures: Vec::new() };
    for name in config.names() {
        let planned = config
            .resolve_with_origins(name, &run.overrides)
            .and_then(|experiment| plan(run, &samples, &mut digests, experiment));
        match planned {
            Ok(parts) => all.parts.extend(parts),
            Err(error) => all.failures.push((name.to_string(), error)),
        }
    }
    if all.asked().next().is_none()
        && let Some(at) = all.failures.iter().position(|(name, _)| run.is_asked(name))
    {
        return Err(all.failures.swap_remove(at).1);
    }
    Ok(all)
}

fn plan(
    run: &MatrixRun,
    samples: &[String],
    digests: &mut Digests,
    (experiment, origins): (Experiment, Origins),
) -> Result<Vec<Planned>> {
    let split = plain_split(samples, &experiment)?;
    let members = members(&experiment, &split)?;
    let mut planned: Vec<Planned> = members
        .into_iter()
        .map(|plan| Planned::new(plan.experiment, origins.clone(), Some(plan.name), plan.manifest))
        .collect();
    if planned.is_empty() {
        planned.push(Planned::new(experiment, origins, None, split));
    }
    for planned in &mut planned {
        planned.is_asked = run.is_asked(&planned.experiment.name);
        let path = run.manifest_path(planned);
        (planned.manifest, planned.is_new_split) = known_manifest(&path, planned.manifest.clone());
        let use_intensity = planned.experiment.model.use_intensity;
        let train = digests.of(&planned.manifest.train_sample_list, use_intensity)?;
        let val = digests.of(&planned.manifest.val_sample_list, use_intensity)?;
        planned.sample_sizes = train.sizes;
        let inputs = Inputs { initial: None, data: [train.digest, val.digest] };
        planned.decision =
            decide(&planned.experiment, &run.dir(planned), &inputs, run.force && planned.is_asked);
    }
    Ok(planned)
}

pub fn plain_split(samples: &[String], experiment: &Experiment) -> Result<Manifest> {
    Manifest::create(samples, experiment.training.val_split, u64::from(experiment.training.seed))
}

/// What planning needs to know of a list of samples.
#[derive(Clone)]
struct Samples {
    digest: String,
    sizes: Vec<SampleSize>,
}

/// Lists of samples, each read once: experiments share them.
struct Digests<'a> {
    data_dir: &'a Path,
    known: BTreeMap<(Vec<String>, bool), Samples>,
}

impl Digests<'_> {
    fn of(&mut self, names: &[String], use_intensity: bool) -> Result<Samples> {
        let key = (names.to_vec(), use_intensity);
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let dataset = Dataset::load(self.data_dir, names, use_intensity, threads)?;
        let sizes = dataset.samples().iter().map(SampleSize::of).collect();
        let samples = Samples { digest: dataset.digest(), sizes };
        self.known.insert(key, samples.clone());
        Ok(samples)
    }
}
