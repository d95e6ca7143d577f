//! The `npzfs` program.

mod malloc;

use std::process::ExitCode;

fn main() -> ExitCode {
    malloc::give_back_spans();
    npzfs::cli::main()
}
