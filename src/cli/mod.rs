//! The command line, with a file for each subcommand. Outside `cli`, only the log prints to the
//! terminal.

mod advice;
mod demo;
mod documents;
mod index;
mod ls;
mod memory;
mod mount;
mod mount_helper;
mod mount_options;
mod progress;
mod run;
mod size;
mod unmount;
mod verify;

use std::{ffi::OsString, fmt::Display, io, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::daemon;

/// The text that `--version` prints after the name of the program.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("NPZFS_COMMIT"), ")");

/// The text of `--help` after the options.
const EXAMPLES: &str = "\
Mount options, for -o and fstab(5):
  layout= memory_limit= verify= ...    as the options above, with _ for -
  allow_other allow_root default_permissions noexec fsname=...    as in mount.fuse3(8)
  ro nofail _netdev user x-... and the like are accepted; a mount is always ro,nosuid,nodev

Examples:
  npzfs ~/data ~/mnt                mount; then np.load('mnt/run7.npz/x.npy', mmap_mode='r')
  npzfs run ~/data -- python a.py   np.load('data/run7.npz') in a.py reads decoded pages, unchanged";

const USAGE: &str = "\
npzfs [OPTIONS] SOURCE MOUNTPOINT
       npzfs run|unmount|ls|index|verify|demo|completions|man ...   (help COMMAND says more)";

const TEMPLATE: &str = "\
{about}

{usage-heading} {usage}

{all-args}{after-help}";

/// Mount a data directory: every .npz is a directory of .npy files that np.load can map.
#[derive(Debug, Parser)]
#[command(
    name = "npzfs",
    version = VERSION,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    override_usage = USAGE,
    help_template = TEMPLATE,
    after_help = EXAMPLES,
    max_term_width = 100,
    args_override_self = true,
    arg_required_else_help = true,
)]
struct Cli {
    #[command(flatten)]
    mount: mount::Arguments,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    // Boxed because the arguments of `run` are eight times as large as those of the others.
    Run(Box<run::Arguments>),
    #[command(alias = "umount")]
    Unmount(unmount::Arguments),
    Ls(ls::Arguments),
    Index(index::Arguments),
    Verify(verify::Arguments),
    Demo(demo::Arguments),
    #[command(hide = true)]
    Completions(documents::Completions),
    #[command(hide = true)]
    Man(documents::Man),
}

/// Runs the program, and returns its exit code.
pub fn main() -> ExitCode {
    let Some(line) = mount_helper::plain(std::env::args_os().collect()) else {
        return ExitCode::SUCCESS;
    };
    let line = plain(line);
    // The command of `npzfs run` may end with 2, so that code is not for errors of npzfs.
    let usage = if line.get(1).is_some_and(|name| name == "run") { run::FAILURE } else { 2 };
    let commands = Cli::command();
    let names = commands
        .get_subcommands()
        .flat_map(|command| std::iter::once(command.get_name()).chain(command.get_all_aliases()));
    if let Some(advice) = advice::on_first_word(&line, names) {
        print_error(advice);
        return ExitCode::from(usage);
    }
    let cli = match parse(line.clone()) {
        Ok(cli) => cli,
        Err(Wrong::Usage(error)) => {
            match advice::on(&line, &error) {
                Some(advice) if error.use_stderr() => print_error(advice),
                // If nobody reads it, the exit code still says enough.
                _ => _ = error.print(),
            }
            return if error.use_stderr() { ExitCode::from(usage) } else { ExitCode::SUCCESS };
        }
        Err(Wrong::MountOption(error)) => {
            print_error(error);
            return ExitCode::from(usage);
        }
    };
    match cli.command {
        None => mount::run(cli.mount, &line[1..]),
        Some(Command::Run(arguments)) => run::run(*arguments),
        Some(Command::Unmount(arguments)) => unmount::run(&arguments),
        Some(Command::Ls(arguments)) => ls::run(arguments),
        Some(Command::Index(arguments)) => index::run(arguments),
        Some(Command::Verify(arguments)) => verify::run(&arguments),
        Some(Command::Demo(arguments)) => demo::run(&arguments),
        Some(Command::Completions(arguments)) => {
            documents::print_completions(&arguments, commands.clone())
        }
        Some(Command::Man(arguments)) => documents::print_page(&arguments, commands.clone()),
    }
}

/// The command line without the words that stand for something shorter: `npzfs mount A B` is `npzfs
/// A B`, `npzfs help run` is `npzfs run --help`, `npzfs version` is `npzfs --version`.
fn plain(mut line: Vec<OsString>) -> Vec<OsString> {
    match line.get(1).and_then(|word| word.to_str()) {
        Some("mount") => _ = line.remove(1),
        Some("help") => {
            line.remove(1);
            line.insert(line.len().min(2), "--help".into());
        }
        Some("version") => line[1] = "--version".into(),
        _ => {}
    }
    line
}

/// What is wrong with a command line.
#[derive(Debug)]
enum Wrong {
    /// clap has the words for it, also for `--help`.
    Usage(clap::Error),
    /// One line about a wrong option of `-o`.
    MountOption(String),
}

/// Parses the command line. The options from `-o` are inserted before all other arguments. If an
/// option is given twice, the last one counts, so an option without `-o` overrides one from `-o`.
fn parse(mut line: Vec<OsString>) -> Result<Cli, Wrong> {
    let mut cli = Cli::try_parse_from(&line).map_err(Wrong::Usage)?;
    let options = mount::MountOptions::augment_args(clap::Command::new("npzfs"));
    let (texts, first) = match &cli.command {
        Some(Command::Run(arguments)) => (&arguments.mount_options, 2),
        _ => (&cli.mount.mount_options, 1),
    };
    let mut expanded = Vec::new();
    for text in texts {
        expanded.extend(mount_options::arguments(text, &options).map_err(Wrong::MountOption)?);
    }
    if !expanded.is_empty() {
        line.splice(first..first, expanded);
        cli = Cli::try_parse_from(line).map_err(Wrong::Usage)?;
    }
    Ok(cli)
}

/// Prints one line to standard error. The journal already shows the name of the program, so there
/// the line begins with its severity instead.
fn print_error(error: impl Display) {
    if daemon::stderr_is_the_journal() {
        eprintln!("<3>{error}");
    } else {
        eprintln!("npzfs: {error}");
    }
}

/// The exit code for `result`. Prints the error, if there is one.
fn exit_code(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(error);
            ExitCode::FAILURE
        }
    }
}

/// The exit code after `failures` were told, or could not be.
fn code_of_failures(failures: io::Result<usize>) -> ExitCode {
    match failures {
        Err(cause) => output_failed(&cause),
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
    }
}

/// The exit code when standard output cannot be written. Prints the error, unless the reader of a
/// pipe has had enough.
fn output_failed(cause: &io::Error) -> ExitCode {
    if cause.kind() != io::ErrorKind::BrokenPipe {
        print_error(format_args!("cannot write the output: {cause}"));
    }
    ExitCode::FAILURE
}

/// `text` with its control characters escaped, as names in an archive may have some.
fn on_one_line(text: &str) -> String {
    let escaped = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(escaped).collect()
}
