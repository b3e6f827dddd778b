//! The binary as users run it, built beside the tests so that they can start and kill it.

use std::process::ExitCode;

fn main() -> ExitCode {
    smelt::cli::main()
}
