//! `npzfs index PATH...`.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, ValueHint};

use super::{mount::default_index_dir, progress, size};
use crate::{
    archive::plain,
    offline::{self, Archives, Failure},
    saved::Indexes,
};

/// Decode members once and save their indexes, so that the first read in a mount is fast
#[derive(Debug, Args)]
#[command(after_help = "\
Compares each member with its CRC-32 on the way. What has been indexed is not decoded again, so a
command that was stopped goes on where it was. Mounts may use the directory at the same time.

Exit codes: 0; 1 if something is damaged or cannot be read, or nothing can be saved; 2 for a wrong
command line.")]
pub(super) struct Arguments {
    /// Archives (.npz, .npy.gz), or directories that have some
    #[arg(value_name = "PATH", required = true, value_hint = ValueHint::AnyPath)]
    paths: Vec<PathBuf>,
    /// Where indexes are saved [default: ~/.cache/npzfs]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    index_dir: Option<PathBuf>,
    /// Space for them
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "10G")]
    index_dir_size: u64,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    let Some(directory) = arguments.index_dir.or_else(default_index_dir) else {
        super::print_error("there is no home directory for indexes: name one with --index-dir");
        return ExitCode::FAILURE;
    };
    let indexes = match Indexes::open(&directory, arguments.index_dir_size) {
        Ok(indexes) => indexes,
        Err(cause) => {
            let cause = plain(&cause);
            super::print_error(format_args!(
                "no index can be saved: {}: {cause}",
                directory.display()
            ));
            return ExitCode::FAILURE;
        }
    };
    let shown = progress::show(|progress, printer| {
        let mut failures = 0;
        let known = offline::index(Archives::at(&arguments.paths), indexes, progress, |failure| {
            failures += 1;
            let text = match failure {
                Failure::Archive(missing) => missing.to_string(),
                Failure::Member(path, None, why) => format!("{}: {why}", path.display()),
                Failure::Member(path, Some(name), why) => {
                    format!("{}: {why}", path.join(name).display())
                }
            };
            printer.line(&super::on_one_line(&text));
        });
        known.map(|known| (known, failures))
    });
    let printed = shown.and_then(|(result, _, said)| {
        let (known, failures) = match result {
            Ok(done) => done,
            Err(cause) => {
                super::print_error(format_args!("cannot start a thread: {}", plain(&cause)));
                return Ok(1);
            }
        };
        let failed = if failures > 0 { format!(", {failures} failed") } else { String::new() };
        writeln!(io::stdout(), "{said}: {known} were known{failed}")?;
        Ok(failures)
    });
    super::code_of_failures(printed)
}
