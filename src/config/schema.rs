//! A JSON schema of the configuration file, for editors that complete and check while one types. It follows from the
//! one declaration of settings. Draft 7: the one that the YAML language server completes from.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::config::experiment::Experiment;
use crate::config::file::FOREIGN_SECTIONS;
use crate::config::setting::{Rule, Section, Setting};

/// The first character and the others of an experiment's name; [`crate::config`] checks the same in words.
const NAME_PATTERN: &str = r"^[^\s./\\:*?<>|-][^\s/\\:*?<>|]*$";

/// The schema of a whole configuration file.
pub fn schema() -> Value {
    let base = Experiment::defaults("");
    let (model, training) = (base.model.properties(), base.training.properties());
    let mut experiment = Map::new();
    experiment.insert(
        "name".into(),
        described(
            json!({"type": "string", "pattern": NAME_PATTERN}),
            &["Names the directory of its results."],
        ),
    );
    experiment
        .insert("description".into(), described(base.description.schema(&Rule::any()), &["What it is for."]));
    experiment.insert(
        "model".into(),
        described(section_schema(model.clone()), &["Settings of the network that differ from the file's."]),
    );
    experiment.extend(training.clone());
    experiment.extend(model.clone());
    let mut item = object(experiment);
    item["required"] = json!(["name"]);
    let list = json!({"type": "array", "minItems": 1, "items": item});

    let mut sections = Map::new();
    sections.insert("model".into(), described(section_schema(model), &["The network."]));
    sections.insert(
        "default_training".into(),
        described(section_schema(training), &["How every experiment is trained unless it says otherwise."]),
    );
    sections.insert(
        "experiments".into(),
        described(list, &["One entry per experiment: its name, and what differs from the defaults."]),
    );
    for name in FOREIGN_SECTIONS {
        sections.insert(name.into(), described(json!({}), &["The pipeline's own; not read by rosette."]));
    }
    let mut all = object(sections);
    all["required"] = json!(["experiments"]);
    let mut root = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": format!("Configuration of rosette {}", env!("CARGO_PKG_VERSION")),
    });
    root.as_object_mut()
        .into_iter()
        .for_each(|root| root.extend(all.as_object().cloned().unwrap_or_default()));
    root
}

/// A mapping with these keys and no others.
fn object(properties: Map<String, Value>) -> Value {
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

/// A section of settings, which may also be left empty.
pub fn section_schema(properties: Map<String, Value>) -> Value {
    let mut schema = object(properties);
    schema["type"] = json!(["object", "null"]);
    schema
}

/// A few words, each with what it means.
pub fn choice_schema(default: &impl Serialize, words: &[(&str, String)]) -> Value {
    let (names, meanings): (Vec<&str>, Vec<&str>) =
        words.iter().map(|(word, doc)| (*word, doc.as_str())).unzip();
    json!({"type": "string", "enum": names, "enumDescriptions": meanings, "default": default})
}

/// A schema with a doc comment as its description.
pub fn described(mut schema: Value, doc: &[&str]) -> Value {
    schema["description"] = json!(joined(doc));
    schema
}

/// The lines of a doc comment as one text.
pub fn joined(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}
