//! The `npzfs` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    npzfs::malloc::give_back_spans();
    npzfs::cli::main()
}
