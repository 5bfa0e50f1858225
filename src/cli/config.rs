//! `rosette config`: what an experiment resolves to. `rosette schema`: the JSON schema of configuration files.

use std::path::PathBuf;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};

use super::say;
use crate::config::{Config, Experiment, Origin, Origins, schema as schema_of_files};
use crate::error::Result;

/// Show what every setting of an experiment is, and where its value comes from.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArgs {
    /// The experiment.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Change a setting, e.g. num_epochs=1 or augmentation.rotation=0; repeatable.
    #[arg(long = "override", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// Print the JSON schema of configuration files, from which editors complete and check.
#[derive(Debug, Clone, clap::Args)]
pub struct SchemaArgs {}

/// Resolves and prints.
///
/// # Errors
/// Those of the configuration.
pub fn run(args: &ConfigArgs) -> Result<()> {
    let (experiment, origins) =
        Config::load(&args.config)?.resolve_with_origins(&args.name, &args.overrides)?;
    if args.json {
        let settings: Vec<Value> =
            experiment.values().into_iter().map(|(name, value)| entry(&origins, &name, &value)).collect();
        let all = json!({"experiment": experiment.name, "config": args.config, "settings": settings});
        return say(format!("{all:#}"));
    }
    say(table(&experiment, &origins))
}

fn entry(origins: &Origins, name: &str, value: &Value) -> Value {
    match origins.of(name) {
        Origin::Default => json!({"name": name, "value": value, "origin": "default"}),
        Origin::File(section, line) => json!({"name": name, "value": value, "origin": section, "line": line}),
        Origin::Override(text) => {
            json!({"name": name, "value": value, "origin": "override", "override": text})
        }
    }
}

fn table(experiment: &Experiment, origins: &Origins) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["setting", "value", "from"]);
    for (name, value) in experiment.values() {
        let shown = value.as_str().map_or_else(|| value.to_string(), String::from);
        table.add_row([name.clone(), shown, origins.of(&name).to_string()]);
    }
    table
}

/// Prints the schema.
///
/// # Errors
/// A failure where standard output takes no more.
pub fn schema(_: &SchemaArgs) -> Result<()> {
    say(format!("{:#}", schema_of_files()))
}
