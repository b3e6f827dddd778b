//! The binary `smelt`. All it does is start the command line with the allocator that the engine is measured with.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    smelt::cli::main()
}
