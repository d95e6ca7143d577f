//! `npzfs completions SHELL` and `npzfs man [COMMAND]`, for packages and for shells.

use std::{io, process::ExitCode};

use clap::{Args, Command};
use clap_complete::Shell;

/// Print the completions of a shell
#[derive(Debug, Args)]
#[command(
    after_help = "For bash: npzfs completions bash > ~/.local/share/bash-completion/completions/npzfs"
)]
pub(super) struct Completions {
    shell: Shell,
}

/// Print a manual page: npzfs man | man -l -
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The command whose page is printed [default: the page of npzfs]
    command: Option<String>,
}

pub(super) fn print_completions(arguments: &Completions, mut program: Command) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut program, "npzfs", &mut text);
    print(&text)
}

pub(super) fn print_page(arguments: &Man, mut program: Command) -> ExitCode {
    program.build();
    let page = match &arguments.command {
        None => program,
        Some(name) => match program.find_subcommand(name) {
            Some(command) => command.clone(),
            None => {
                super::print_error(format_args!("there is no command {name:?}"));
                return ExitCode::from(2);
            }
        },
    };
    let mut text = Vec::new();
    match clap_mangen::Man::new(page).render(&mut text) {
        Ok(()) => print(&text),
        Err(cause) => super::output_failed(&cause),
    }
}

fn print(text: &[u8]) -> ExitCode {
    match io::Write::write_all(&mut io::stdout(), text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => super::output_failed(&cause),
    }
}
