//! The `npzfs` program: sets up the allocator, then runs the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    npzfs::malloc::give_back_spans();
    npzfs::cli::main()
}
