//! `npzfs unmount MOUNTPOINT`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueHint};

/// Unmount, and wait until the server has ended
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where it is mounted
    #[arg(value_hint = ValueHint::DirPath)]
    mountpoint: PathBuf,
    /// Out of sight at once, even while it is in use
    #[arg(short, long)]
    lazy: bool,
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    super::exit_code(crate::daemon::unmount(&arguments.mountpoint, arguments.lazy))
}
