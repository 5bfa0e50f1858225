//! `--override key=value`: the last word on a setting, in the same types and ranges as the file.

use crate::config::experiment::Experiment;
use crate::config::origin::Origins;
use crate::config::setting::Place;
use crate::config::yaml::{self, Key, Node, Value};
use crate::error::{Error, Result};

/// Applies `key=value` texts in their order. Keys are dotted (`augmentation.rotation`, `model.skip`) or bare.
pub fn apply(experiment: &mut Experiment, origins: &mut Origins, overrides: &[String]) -> Result<()> {
    overrides.iter().try_for_each(|text| apply_one(experiment, origins, text))
}

fn apply_one(experiment: &mut Experiment, origins: &mut Origins, text: &str) -> Result<()> {
    let source = format!("--override {text}");
    let malformed = |found: &str| {
        Error::user(
            &source,
            "key=value",
            found,
            "write e.g. --override num_epochs=1 or augmentation.rotation=0.0",
        )
    };
    let (path, given) = text.split_once('=').ok_or_else(|| malformed("no `=`"))?;
    let (path, given) = (path.trim(), given.trim());
    if path.is_empty() || path.split('.').any(str::is_empty) {
        return Err(malformed("no key, or an empty part in it"));
    }
    if given.is_empty() {
        return Err(malformed("no value"));
    }
    let value = yaml::parse_scalar(given).unwrap_or_else(|| Value::Text(given.to_string()));
    // The file's names of the two sections lead to the same settings as the bare keys.
    let inner =
        path.strip_prefix("default_training.").or_else(|| path.strip_prefix("training.")).unwrap_or(path);
    let (key, node) = nest(inner, value);
    experiment.set(&key, &node, &Place::root(source))?;
    origins.note_override(&key, &node, text);
    Ok(())
}

/// `a.b.c` and a value as the mapping `a: {b: {c: value}}`.
fn nest(path: &str, value: Value) -> (Key, Node) {
    let key = |name: &str| Key { name: name.to_string(), line: 0, column: 0 };
    let mut parts = path.rsplit('.');
    let last = parts.next().unwrap_or(path);
    let leaf = (key(last), Node::unplaced(value));
    parts.fold(leaf, |inner, name| (key(name), Node::unplaced(Value::Map(vec![inner]))))
}
