//! `npzfs run SOURCE -- COMMAND`.

use std::{convert::Infallible, ffi::OsString, io, path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum, ValueHint};

use super::{mount, print_error};
use crate::{
    daemon::{self, Access, Error, Log, Options},
    tree::Layout,
};

/// The exit code for an error of npzfs itself. This code and the next two are those of env(1).
pub(super) const FAILURE: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// The text of `npzfs run --help` after the options.
const NOTES: &str = "\
COMMAND and its children see SOURCE with every .npz as a file with its members decoded
(--layout stored), under the same path. No other process sees a change, and nothing is left.
It needs no root, no fusermount3 and no mountpoint. The log goes to standard error.

The exit code is that of COMMAND; 125 if npzfs fails, 126 if COMMAND cannot be run, 127 if it
is not found.";

/// Run a command that reads SOURCE decoded, under its own path
#[derive(Debug, Args)]
#[command(
    override_usage = "npzfs run [OPTIONS] SOURCE -- COMMAND [ARGS]...",
    after_help = NOTES,
    mut_arg("while_locked", |option| option.hide(true)),
)]
pub(super) struct Arguments {
    /// Directory with the archives
    #[arg(value_hint = ValueHint::DirPath)]
    source: PathBuf,
    /// Command to run, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Let COMMAND write under SOURCE; what it writes goes to DIR/upper
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    writable: Option<PathBuf>,
    /// Mount options, separated by commas (see npzfs --help)
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub mount_options: Vec<OsString>,
    #[command(flatten)]
    options: mount::MountOptions,
    /// Log more: -v what happens, -vv and -vvv for debugging
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    #[arg(long, hide = true, value_enum, default_value = "caller")]
    role: Role,
}

/// What this process does for `npzfs run`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Makes the mount and becomes the command.
    Caller,
    /// Starts the server.
    Starter,
    /// Serves the mount.
    Server,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    let Arguments { role, command, writable, .. } = arguments;
    let level = mount::level(arguments.verbose);
    let source = arguments.source;
    let options = arguments.options.of_mount(source.clone(), source, Layout::Stored);
    let options = options.and_then(|both| match &both.0 {
        Options { while_locked: Some(_), .. } => {
            Err("npzfs run ends with its command, and takes no --while-locked".into())
        }
        // An overlayfs asks for files as the user who mounted it, for every reader.
        Options { access: Access::OwnerAndRoot, .. } if writable.is_some() => {
            Err("allow_root cannot be kept with --writable, where only file modes decide who may \
                 read; leave it out"
                .into())
        }
        _ => Ok(both),
    });
    let (options, log_file) = match options {
        Ok(both) => both,
        Err(error) => {
            print_error(error);
            return ExitCode::from(FAILURE);
        }
    };
    let writable = writable.as_deref();
    let result: Result<Infallible, Error> = match role {
        Role::Caller => daemon::run(options, writable, &this_line(Role::Starter), &command),
        Role::Starter => {
            daemon::launch_server(&this_line(Role::Server));
            return ExitCode::SUCCESS;
        }
        Role::Server => {
            let log = log_file.map_or(Log::Stderr, Log::File);
            daemon::serve_command(options, writable, &log, level);
            return ExitCode::SUCCESS;
        }
    };
    let Err(error) = result;
    print_error(&error);
    ExitCode::from(match error {
        Error::Command(_, cause) if cause.kind() == io::ErrorKind::NotFound => NOT_FOUND,
        Error::Command(..) => NOT_EXECUTABLE,
        _ => FAILURE,
    })
}

/// The arguments of this process for one with another role.
fn this_line(role: Role) -> Vec<OsString> {
    let role = role.to_possible_value().map_or(String::new(), |value| value.get_name().into());
    let mut line = vec!["run".into(), OsString::from(format!("--role={role}"))];
    // The first argument is "run". Of two roles the last one would count, so the role of this
    // process, which comes next, is left out.
    let is_role = |argument: &OsString| argument.as_encoded_bytes().starts_with(b"--role=");
    line.extend(std::env::args_os().skip(2).skip_while(is_role));
    line
}
