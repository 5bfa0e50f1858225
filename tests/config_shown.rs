//! What is told about a configuration: the origin of every value, and the schema that editors complete from.

use std::path::{Path, PathBuf};
use std::process::Command;

use rosette::config::{Config, Experiment, Origin, schema};
use serde_json::Value;

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

const LAYERED: &str = "\
model:
  patch_size: 64
  skip: pooled
default_training:
  batch_size: 2
  seed: 3
  augmentation:
    rotation: 0.1
    vertical_flip: 0.2
experiments:
  - name: first
    seed: 4
    skip: full
    model: {base_channels: 8}
    augmentation:
      rotation: 0.3
      magnitudes: {blur: 1}
  - name: second
";

#[test]
fn every_value_knows_the_last_place_that_set_it() {
    let config = Config::parse(Path::new("config.yaml"), LAYERED).unwrap();
    let overrides = ["num_epochs=2", "model.base_channels=16", "augmentation={vertical_flip: 1}"];
    let overrides = overrides.map(String::from);
    let (experiment, origins) = config.resolve_with_origins("first", &overrides).unwrap();
    let given = |at: usize| Origin::Override(overrides[at].clone());
    let expected = [
        ("model.patch_size", Origin::File("model", 2)),
        ("model.skip", Origin::File("experiment", 13)),
        ("model.base_channels", given(1)),
        ("model.use_intensity", Origin::Default),
        ("num_epochs", given(0)),
        ("batch_size", Origin::File("default_training", 5)),
        ("seed", Origin::File("experiment", 12)),
        ("augmentation.rotation", Origin::File("experiment", 16)),
        ("augmentation.vertical_flip", given(2)),
        ("augmentation.magnitudes.blur", Origin::File("experiment", 17)),
        ("augmentation.magnitudes.noise", Origin::Default),
    ];
    for (name, origin) in expected {
        assert_eq!(origins.of(name), origin, "{name}");
    }
    // Nothing is noted under a name that no setting has.
    let names: Vec<String> = experiment.values().into_iter().map(|(name, _)| name).collect();
    assert!(origins.in_words().keys().all(|name| names.contains(name)), "{:?}", origins.in_words());
    let (_, second) = config.resolve_with_origins("second", &[]).unwrap();
    assert_eq!(second.of("seed"), Origin::File("default_training", 6), "an experiment's own stay its own");
    assert_eq!(second.of("num_epochs"), Origin::Default, "overrides do not stay");
}

/// What differs from the built-in defaults comes from somewhere.
#[test]
fn values_without_an_origin_are_the_defaults() {
    let config = Config::parse(Path::new("config.yaml"), LAYERED).unwrap();
    let (experiment, origins) = config.resolve_with_origins("first", &["patience=3".into()]).unwrap();
    let defaults = Experiment::defaults("first").values();
    for ((name, value), (_, default)) in experiment.values().into_iter().zip(defaults) {
        assert!(origins.of(&name) != Origin::Default || value == default, "{name}");
    }
}

#[test]
fn the_command_prints_a_table_and_json() {
    let run = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_rosette"))
            .args(["config", "higher_lr", "--config", "config.yaml", "--override", "num_epochs=3"])
            .args(more)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let table = run(&[]);
    let line =
        |name: &str| table.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}"));
    assert!(line(" num_epochs ").contains("--override num_epochs=3"), "{table}");
    assert!(
        line(" learning_rate ").contains(" 0.01 ") && line(" learning_rate ").contains("experiment, line")
    );
    let json: Value = serde_json::from_str(&run(&["--json"])).unwrap();
    let settings = json["settings"].as_array().unwrap();
    let setting = |name: &str| settings.iter().find(|s| s["name"] == name).unwrap();
    assert_eq!(setting("num_epochs")["value"], 3);
    assert_eq!(setting("num_epochs")["override"], "num_epochs=3");
    assert_eq!(setting("learning_rate")["origin"], "experiment");
    let text = std::fs::read_to_string(root("config.yaml")).unwrap();
    let at = setting("learning_rate")["line"].as_u64().unwrap() as usize;
    assert_eq!(text.lines().nth(at - 1).unwrap().trim(), "learning_rate: 0.01");
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// What the schema has against a value. Knows the words of draft 7 that the schema uses, and panics at others.
fn faults(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut check = |holds: bool, word: &str| out.extend((!holds).then(|| format!("{at}: {word}")));
    let number = |limit: &Value| (value.as_f64().unwrap_or(0.0), limit.as_f64().expect("a number"));
    for (word, limit) in schema.as_object().expect("a schema is an object") {
        match word.as_str() {
            "$schema" | "title" | "description" | "default" | "enumDescriptions" | "properties" | "items" => {
            }
            "type" => {
                let allowed = limit.as_array().map_or_else(|| vec![limit], |list| list.iter().collect());
                check(allowed.iter().any(|name| is_of_type(value, name.as_str().expect("a name"))), word);
            }
            "enum" => check(limit.as_array().expect("a list").contains(value), word),
            "minimum" => check(number(limit).0 >= number(limit).1, word),
            "maximum" => check(number(limit).0 <= number(limit).1, word),
            "exclusiveMinimum" => check(number(limit).0 > number(limit).1, word),
            "exclusiveMaximum" => check(number(limit).0 < number(limit).1, word),
            "multipleOf" => check(number(limit).0 % number(limit).1 == 0.0, word),
            "minItems" => {
                check(value.as_array().is_none_or(|list| list.len() as u64 >= limit.as_u64().unwrap()), word)
            }
            "pattern" => {
                let pattern = regex::Regex::new(limit.as_str().expect("a text")).expect("a pattern");
                check(value.as_str().is_none_or(|text| pattern.is_match(text)), word);
            }
            "required" => {
                let names =
                    limit.as_array().expect("a list").iter().map(|name| name.as_str().expect("a name"));
                names
                    .for_each(|name| check(value.as_object().is_none_or(|map| map.contains_key(name)), name));
            }
            "additionalProperties" => {
                assert_eq!(limit, false);
                let known = &schema["properties"];
                let keys = value.as_object().into_iter().flat_map(|map| map.keys());
                keys.for_each(|key| check(known.get(key).is_some(), key));
            }
            other => panic!("the check does not know {other}"),
        }
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        if let Some(schema) = schema["properties"].get(key) {
            out.extend(faults(schema, inner, &format!("{at}.{key}")));
        }
    }
    if let Some(items) = schema.get("items") {
        let all = value.as_array().into_iter().flatten().enumerate();
        out.extend(all.flat_map(|(i, item)| faults(items, item, &format!("{at}[{i}]"))));
    }
    out
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|x| x.fract() == 0.0),
        other => panic!("no type of JSON: {other}"),
    }
}

fn against_schema(text: &str) -> Vec<String> {
    faults(&schema(), &yaml(text), "")
}

#[test]
fn files_that_load_satisfy_the_schema() {
    for name in [
        "config.yaml",
        "tests/fixtures/config/pipeline.yaml",
        "tests/fixtures/config/description.yaml",
        "src/train/demo.yaml",
    ] {
        let text = std::fs::read_to_string(root(name)).unwrap();
        assert_eq!(against_schema(&text), [""; 0], "{name}");
    }
    assert_eq!(against_schema(LAYERED), [""; 0]);
    assert_eq!(against_schema("{model: , experiments: [{name: bare, augmentation: }]}"), [""; 0]);
}

#[test]
fn broken_files_fail_the_schema_and_the_parser_alike() {
    let broken = [
        "experiments: []",
        "model: {}",
        "experiments: [{description: nameless}]",
        "experiments: [{name: a/b}]",
        "experiments: [{name: a, num_epoch: 3}]",
        "experiments: [{name: a, num_epochs: 0}]",
        "experiments: [{name: a, num_epochs: 1.5}]",
        "experiments: [{name: a, learning_rate: 0}]",
        "experiments: [{name: a, val_split: 1.0}]",
        "experiments: [{name: a, patch_size: 100}]",
        "experiments: [{name: a, skip: half}]",
        "experiments: [{name: a, use_intensity: 1}]",
        "experiments: [{name: a, rotation: 0.5}]",
        "experiments: [{name: a, augmentation: {rotation: 2}}]",
        "experiments: [{name: a, augmentation: 0.5}]",
        "experiments: [{name: a, model: {batch_size: 2}}]",
        "{modle: {}, experiments: [{name: a}]}",
        "{default_training: {seed: -1}, experiments: [{name: a}]}",
        "{default_training: [], experiments: [{name: a}]}",
        "- name: a",
    ];
    for text in broken {
        assert!(!against_schema(text).is_empty(), "the schema takes {text}");
        assert!(Config::parse(Path::new("config.yaml"), text).is_err(), "the parser takes {text}");
    }
}

/// The schema and the structures come from one declaration; this holds that nothing is lost on the way.
#[test]
fn the_schema_has_every_setting_with_its_default_and_a_description() {
    let schema = schema();
    for (name, default) in Experiment::defaults("x").values() {
        let (section, path) = match name.strip_prefix("model.") {
            Some(inner) => ("model", inner),
            None if name == "description" => continue,
            None => ("default_training", name.as_str()),
        };
        let mut found = &schema["properties"][section];
        for key in path.split('.') {
            found = &found["properties"][key];
        }
        assert_eq!(found["default"], default, "{name}");
        assert!(found["description"].as_str().is_some_and(|text| text.len() > 10), "{name}: {found}");
        let words = found["enum"].as_array().map_or(0, Vec::len);
        assert_eq!(words, found["enumDescriptions"].as_array().map_or(0, Vec::len), "{name}");
    }
}
