//! A configuration file as a whole: its sections, its experiments, and how their settings come together.

use std::path::Path;

use crate::config::experiment::Experiment;
use crate::config::origin::Origins;
use crate::config::overrides;
use crate::config::setting::{Place, Rule, Section, Setting, entries, nearest};
use crate::config::yaml::{self, Key, Node, Value};
use crate::error::{Error, Result};
use crate::files;

/// Sections that are read here.
const SECTIONS: [&str; 3] = ["model", "default_training", "experiments"];

/// Sections that the pipeline keeps in the same file for its own use.
pub(super) const FOREIGN_SECTIONS: [&str; 5] = ["inputs", "outputs", "environment", "resources", "logging"];

/// A configuration file whose every experiment has been checked.
#[derive(Clone, Debug)]
pub struct Config {
    source: String,
    experiments: Vec<(Experiment, Origins)>,
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// A user error with file, line, column and key for the first mistake in any of its sections or experiments.
    pub fn load(path: &Path) -> Result<Self> {
        Self::parse(path, &files::read_text(path)?)
    }

    /// Checks the text of a configuration file; `path` only names it in errors.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let root = yaml::parse(path, text)?;
        let at = Place::root(path.display());
        let sections = Sections::of(&root, &at)?;
        let experiments = sections.experiments(&at)?;
        Ok(Self { source: path.display().to_string(), experiments })
    }

    /// The names of the experiments, in the file's order.
    pub fn names(&self) -> Vec<&str> {
        self.experiments.iter().map(|(e, _)| e.name.as_str()).collect()
    }

    /// The experiment of that name, with `key=value` overrides applied last, in their order.
    ///
    /// # Errors
    /// A user error where no experiment has the name, or an override has an unknown key or a wrong value.
    pub fn resolve(&self, name: &str, overrides: &[String]) -> Result<Experiment> {
        Ok(self.resolve_with_origins(name, overrides)?.0)
    }

    /// [`Config::resolve`], with where each value comes from.
    ///
    /// # Errors
    /// As [`Config::resolve`].
    pub fn resolve_with_origins(&self, name: &str, overrides: &[String]) -> Result<(Experiment, Origins)> {
        let found = self.experiments.iter().find(|(e, _)| e.name == name).ok_or_else(|| {
            let place = format!("{}: experiments", self.source);
            let expected = "the name of an experiment of this file";
            Error::user(place, expected, format!("\"{name}\""), nearest(name, &self.names()))
        })?;
        let (mut experiment, mut origins) = found.clone();
        overrides::apply(&mut experiment, &mut origins, overrides)?;
        experiment.check(&self.source)?;
        Ok((experiment, origins))
    }
}

/// The parts of the file's root.
struct Sections<'a> {
    model: Option<&'a Node>,
    training: Option<&'a Node>,
    experiments: &'a Node,
}

impl<'a> Sections<'a> {
    fn of(root: &'a Node, at: &Place) -> Result<Self> {
        let all = entries(root, at)?;
        let is_known = |key: &Key| SECTIONS.iter().chain(&FOREIGN_SECTIONS).any(|known| *known == key.name);
        if let Some((key, _)) = all.iter().find(|(key, _)| !is_known(key)) {
            return Err(at.unknown_key(key, &SECTIONS.map(String::from)));
        }
        let section = |name: &str| all.iter().find(|(key, _)| key.name == name).map(|(_, node)| node);
        let experiments = section("experiments").ok_or_else(|| {
            at.mistake(root, "a section `experiments`", "add `experiments:` with a list of `- name: ...`")
        })?;
        Ok(Self { model: section("model"), training: section("default_training"), experiments })
    }

    /// What every experiment starts from.
    fn defaults(&self, at: &Place) -> Result<(Experiment, Origins)> {
        let (mut base, mut origins) = (Experiment::defaults(""), Origins::default());
        if let Some(node) = self.model {
            refuse_other(
                node,
                &at.below("model"),
                &base.model.names(),
                &base.training.names(),
                "default_training",
            )?;
            base.model.merge(node, &at.below("model"))?;
            origins.note_section("model", node, "model");
        }
        if let Some(node) = self.training {
            refuse_other(
                node,
                &at.below("default_training"),
                &base.training.names(),
                &base.model.names(),
                "model",
            )?;
            base.training.merge(node, &at.below("default_training"))?;
            origins.note_section("", node, "default_training");
        }
        Ok((base, origins))
    }

    fn experiments(&self, at: &Place) -> Result<Vec<(Experiment, Origins)>> {
        let base = self.defaults(at)?;
        let at = at.below("experiments");
        let items = match &self.experiments.value {
            Value::List(items) if !items.is_empty() => items,
            _ => {
                let expected = "a list of at least one experiment";
                return Err(at.mistake(self.experiments, expected, "write `- name: ...` for each of them"));
            }
        };
        let mut experiments: Vec<(Experiment, Origins)> = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let (experiment, origins, name_node) = resolve_item(&base, item, index, &at)?;
            // `A` and `a` are one directory on macOS and Windows.
            let is_same = |other: &str| other.to_lowercase() == experiment.name.to_lowercase();
            if experiments.iter().any(|(other, _)| is_same(&other.name)) {
                let at = at.element(&experiment.name).below("name");
                let expected = "a name of its own for every experiment, upper and lower case aside";
                return Err(at.mistake(name_node, expected, "rename one of the two"));
            }
            experiments.push((experiment, origins));
        }
        Ok(experiments)
    }
}

/// Refuses a key that is none of a section's own and one of the other section's, `home`.
fn refuse_other(node: &Node, at: &Place, own: &[String], other: &[String], home: &str) -> Result<()> {
    let is_in = |names: &[String], key: &Key| {
        names.iter().any(|name| name.split('.').next() == Some(key.name.as_str()))
    };
    match entries(node, at)?.iter().find(|(key, _)| !is_in(own, key) && is_in(other, key)) {
        Some((key, _)) => Err(at.key_of_section(key, home)),
        None => Ok(()),
    }
}

/// One item of the list over the file's defaults, where its values come from, and the node of its name.
fn resolve_item<'a>(
    base: &(Experiment, Origins),
    item: &'a Node,
    index: usize,
    list: &Place,
) -> Result<(Experiment, Origins, &'a Node)> {
    let at = list.element(format!("item {}", index + 1));
    let all = entries(item, &at)?;
    let Some((_, name_node)) = all.iter().find(|(key, _)| key.name == "name") else {
        return Err(at.mistake(
            item,
            "an experiment with a key `name`",
            "add `name: ...`: it names the results",
        ));
    };
    let (mut experiment, mut origins) = base.clone();
    experiment.name = checked_name(name_node, &at.below("name"))?;
    let at = list.element(&experiment.name);
    for (key, node) in all.iter().filter(|(key, _)| key.name != "name") {
        experiment.set(key, node, &at)?;
        origins.note_key(key, node);
    }
    Ok((experiment, origins, name_node))
}

/// The name becomes a directory and a part of file names: what would leave or break that is refused.
fn checked_name(node: &Node, at: &Place) -> Result<String> {
    let mut name = String::new();
    name.update(node, &Rule::any(), at)?;
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.starts_with(['.', '-']) || !name.chars().all(is_plain) {
        let expected = "letters, digits, `_`, `-` and `.`, with a letter, a digit or `_` first";
        return Err(at.mistake(
            node,
            expected,
            "choose a plain name: the results go into a directory of that name",
        ));
    }
    if is_reserved(&name) {
        let expected = "a name that no file beside the experiments' directories has";
        return Err(at.mistake(
            node,
            expected,
            "choose another name: the results go into a directory of that name",
        ));
    }
    Ok(name)
}

/// Whether `rosette run` writes a file of that name, upper and lower case aside, where the experiments' directories are.
pub fn is_reserved(name: &str) -> bool {
    let name = name.to_lowercase();
    matches!(name.as_str(), "experiment_summary.csv" | "model_training.flag" | "report.html")
        || (name.starts_with("split_manifest_") && name.ends_with(".json"))
}
