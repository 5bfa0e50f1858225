//! `rosette probe`: what a process of its own runs before this program trusts a driver with it. Not for users.

use super::say;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::ops::choice::Form;
use crate::train::run_probe;

/// Run some forms of the convolutions, saying which; for rosette itself, which goes on where a driver crashes here.
#[derive(Debug, Clone, clap::Args)]
pub struct ProbeArgs {
    /// Names of forms.
    #[arg(value_name = "FORM", required = true, value_parser = form)]
    pub forms: Vec<Form>,
    /// Number or part of the name of the adapter (see `rosette devices`).
    #[arg(long, env = "ROSETTE_ADAPTER", value_name = "ADAPTER")]
    pub adapter: Option<String>,
    /// Ends at once where standard input does: with the process that started this one.
    #[arg(long)]
    pub until_stdin_ends: bool,
}

/// Runs them.
///
/// # Errors
/// Where the device is lost or cannot be had.
pub fn run(args: &ProbeArgs) -> Result<()> {
    let gpu = Gpu::open(args.adapter.as_deref())?;
    // Once the driver is loaded: on Windows libraries may ask for standard input as they are, and would wait for who reads it.
    if args.until_stdin_ends {
        std::thread::spawn(|| {
            if std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).is_ok() {
                // There is nothing to be saved, and a driver that hangs would not let the process exit.
                std::process::abort();
            }
        });
    }
    run_probe(&gpu, &args.forms, say)
}

fn form(name: &str) -> std::result::Result<Form, String> {
    Form::named(name).ok_or_else(|| {
        let names: Vec<&str> = Form::ALL.iter().map(|form| form.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}
