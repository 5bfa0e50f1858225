//! Where the value of each setting comes from.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value as Json;

use crate::config::experiment::Experiment;
use crate::config::setting::Section;
use crate::config::yaml::{Key, Node, Value};

/// Where a value was set last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the built-in one.
    Default,
    /// In a section of the file (`model`, `default_training`, `experiment`), on this line.
    File(&'static str, u64),
    /// By `--override`, as it was given.
    Override(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(section, line) => write!(f, "{section}, line {line}"),
            Self::Override(text) => write!(f, "--override {text}"),
        }
    }
}

/// The origins of all settings that are not at their built-in default, by dotted name (`num_epochs`,
/// `augmentation.rotation`, `model.patch_size`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where a setting's value comes from.
    pub fn of(&self, name: &str) -> Origin {
        self.0.get(name).cloned().unwrap_or(Origin::Default)
    }

    /// All of them in words, for `config.json`.
    pub fn in_words(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(name, origin)| (name.clone(), origin.to_string())).collect()
    }

    /// Notes a section of the file, `name` being the dotted name of what it holds.
    pub(super) fn note_section(&mut self, name: &str, node: &Node, section: &'static str) {
        self.note(name, node, &|key| Origin::File(section, key.map_or(node.line, |key| key.line)));
    }

    /// Notes one key of an experiment.
    pub(super) fn note_key(&mut self, key: &Key, node: &Node) {
        let from = |inner: Option<&Key>| Origin::File("experiment", inner.unwrap_or(key).line);
        self.note(&full_name(&key.name), node, &from);
    }

    /// Notes an override, given as `text`.
    pub(super) fn note_override(&mut self, key: &Key, node: &Node, text: &str) {
        self.note(&full_name(&key.name), node, &|_| Origin::Override(text.to_string()));
    }

    fn note(&mut self, name: &str, node: &Node, origin: &dyn Fn(Option<&Key>) -> Origin) {
        match &node.value {
            Value::Map(entries) => {
                for (key, inner) in entries {
                    let below =
                        if name.is_empty() { key.name.clone() } else { format!("{name}.{}", key.name) };
                    self.note(&below, inner, &|deeper| origin(Some(deeper.unwrap_or(key))));
                }
            }
            // A section that was left empty.
            Value::Null => {}
            _ => drop(self.0.insert(name.to_string(), origin(None))),
        }
    }
}

/// The dotted name of a key of an experiment, where settings of the network may stand without their section.
fn full_name(key: &str) -> String {
    let mut defaults = Experiment::defaults("");
    if defaults.training.field(key).is_none() && defaults.model.field(key).is_some() {
        return format!("model.{key}");
    }
    key.to_string()
}

impl Experiment {
    /// Every setting's dotted name with its value, in the order of the declaration.
    pub fn values(&self) -> Vec<(String, Json)> {
        let mut out = vec![("description".to_string(), Json::from(self.description.as_str()))];
        let sections =
            [("model", serde_json::to_value(&self.model)), ("", serde_json::to_value(&self.training))];
        for (name, section) in sections {
            flatten(name, section.expect("settings are numbers and text"), &mut out);
        }
        out
    }
}

fn flatten(name: &str, value: Json, out: &mut Vec<(String, Json)>) {
    match value {
        Json::Object(entries) => {
            for (key, inner) in entries {
                let below = if name.is_empty() { key } else { format!("{name}.{key}") };
                flatten(&below, inner, out);
            }
        }
        value => out.push((name.to_string(), value)),
    }
}
