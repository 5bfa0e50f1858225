//! `rosette devices`: the adapters of the machine.

use comfy_table::{Table, presets};

use super::say;
use crate::error::Result;
use crate::gpu::{AdapterSummary, MatrixUnits, list_adapters};

/// List the adapters that could train, the one taken by default first.
#[derive(Debug, Clone, clap::Args)]
pub struct DevicesArgs {}

/// Prints a table of the adapters.
///
/// # Errors
/// A failure where standard output cannot be written. Without an adapter it says what to install.
pub fn run(_: &DevicesArgs) -> Result<()> {
    let adapters = list_adapters();
    if adapters.is_empty() {
        return say(
            "no adapter speaks Vulkan, Metal or DX12 here: install the GPU's driver, or on Debian and Ubuntu\n\
             the software adapter: apt-get install mesa-vulkan-drivers libvulkan1",
        );
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["#", "adapter", "backend", "kind", "driver", "binding", "buffer", "features"]);
    for adapter in &adapters {
        let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
        let limits = adapter.limits;
        table.add_row([
            adapter.index.to_string(),
            adapter.name.clone(),
            adapter.backend.clone(),
            adapter.kind.to_owned(),
            adapter.driver.clone(),
            mib(limits.storage_binding_bytes),
            mib(limits.buffer_bytes),
            features(adapter),
        ]);
    }
    say(table)
}

fn features(adapter: &AdapterSummary) -> String {
    let subgroups = adapter.subgroup.map(|(least, most)| match least == most {
        true => format!("subgroups of {least}"),
        false => format!("subgroups of {least} to {most}"),
    });
    let flag = |has: bool, name: &str| has.then(|| name.to_owned());
    let all = [
        flag(adapter.f16, "f16"),
        subgroups,
        flag(adapter.timestamps, "timestamps"),
        flag(adapter.matrix_units != MatrixUnits::None, "matrix units"),
    ];
    all.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
