//! The command line: one file per subcommand, each a thin layer over the library.

pub mod bench;
pub mod check;
pub mod config;
pub mod demo;
pub mod devices;
pub mod doctor;
pub mod exchange;
pub mod predict;
pub mod preview;
pub mod probe;
pub mod run;
pub mod split;
pub mod synth;
pub mod train;
pub mod tune;

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};
use crate::report::progress;

/// Train the Attention U-Net that finds multicellular rosettes, on any GPU.
#[derive(Debug, Parser)]
#[command(name = "rosette", version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Run(run::RunArgs),
    Summary(run::SummaryArgs),
    Train(Box<train::TrainArgs>),
    Check(check::CheckArgs),
    Config(config::ConfigArgs),
    Schema(config::SchemaArgs),
    Split(split::SplitArgs),
    Preview(preview::PreviewArgs),
    Predict(Box<predict::PredictArgs>),
    Evaluate(Box<predict::EvaluateArgs>),
    Threshold(Box<predict::ThresholdArgs>),
    Export(Box<exchange::ExportArgs>),
    Import(exchange::ImportArgs),
    Synth(synth::SynthArgs),
    Devices(devices::DevicesArgs),
    Doctor(Box<doctor::DoctorArgs>),
    Tune(tune::TuneArgs),
    Bench(bench::BenchArgs),
    #[command(hide = true)]
    Probe(probe::ProbeArgs),
}

/// Parses the arguments, runs the subcommand and turns its result into an exit code:
/// 0 done, 1 a failure of the machine, 2 a mistake in what the user gave.
pub fn main() -> ExitCode {
    // clap itself exits with 2 on arguments that it does not understand.
    let command = Cli::parse().command;
    let before = match &command {
        Command::Train(args) if args.until_stdin_ends => crate::matrix::CHILD_ERROR,
        _ => "error: ",
    };
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress::print_line(&format!("{before}{error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Summary(args) => run::summary(&args),
        Command::Train(args) => train::run(&args),
        Command::Split(args) => split::run(&args),
        Command::Preview(args) => preview::run(&args),
        Command::Predict(args) => predict::predict(&args),
        Command::Evaluate(args) => predict::run_evaluate(&args),
        Command::Threshold(args) => predict::threshold(&args),
        Command::Export(args) => exchange::run_export(&args),
        Command::Import(args) => exchange::run_import(&args),
        Command::Check(args) => check::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Schema(args) => config::schema(&args),
        Command::Synth(args) => synth::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Devices(args) => devices::run(&args),
    }
}

/// Parses the value of an option that is a count.
///
/// # Errors
/// What would have been right, in words.
fn whole_number(text: &str) -> std::result::Result<u64, String> {
    text.parse().map_err(|_| "a whole number from 0 up is wanted".into())
}

/// Writes a line to standard output. A reader that has left (`| head`) has seen enough: that is no error.
///
/// # Errors
/// A failure where standard output takes no more, e.g. because it is a file on a full disk.
fn say(line: impl Display) -> Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::failure(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}
