//! The `npzfs` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    npzfs::cli::main()
}
