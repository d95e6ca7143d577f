//! The command line: one file a subcommand.

mod demo;
mod mount;
mod mount_options;
mod size;
mod unmount;

use std::{fmt::Display, process::ExitCode};

use clap::{Parser, Subcommand};

/// What `--version` says after the name.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("NPZFS_COMMIT"), ")");

/// Mount a data directory: every .npz is a directory of .npy files.
#[derive(Debug, Parser)]
#[command(
    name = "npzfs",
    version = VERSION,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
)]
struct Cli {
    #[command(flatten)]
    mount: mount::Arguments,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Unmount(unmount::Arguments),
    Demo(demo::Arguments),
}

/// Runs the program and says how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None => mount::run(cli.mount),
        Some(Command::Unmount(arguments)) => unmount::run(&arguments),
        Some(Command::Demo(arguments)) => demo::run(&arguments),
    }
}

/// One line on standard error.
fn complain(what: impl Display) {
    eprintln!("npzfs: {what}");
}

/// The end of a program that had this to do.
fn end(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}
