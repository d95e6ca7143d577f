//! `npzfs demo`.

use std::process::ExitCode;

use clap::Args;

/// Make a small data directory, mount it and show it
#[derive(Debug, Args)]
pub struct Arguments {
    /// Do not wait for Ctrl-C at the end
    #[arg(long)]
    once: bool,
}

pub fn run(arguments: &Arguments) -> ExitCode {
    let _ = arguments.once;
    super::complain("the demo is not there yet");
    ExitCode::FAILURE
}
