//! `npzfs ls PATH...`.

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueHint};
use serde::Serialize;

use super::{mount::default_index_dir, size};
use crate::offline::{self, Archives, MemberRow, Saved};

/// List the members of archives, and what is known of them
#[derive(Debug, Args)]
#[command(after_help = "\
STATE is `indexed` if a mount has saved an index of the member, so that rows of it are read at
once; `verified` if all of it was found equal to its CRC-32; or says why it cannot be read.

Exit codes: 0; 1 if a PATH or an archive cannot be read; 2 for a wrong command line.")]
pub(super) struct Arguments {
    /// Archives (.npz, .npy.gz), or directories that have some
    #[arg(value_name = "PATH", required = true, value_hint = ValueHint::AnyPath)]
    paths: Vec<PathBuf>,
    /// Print one JSON object for each archive, on a line; sizes in bytes
    #[arg(long)]
    json: bool,
    /// Where mounts save indexes [default: ~/.cache/npzfs]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    index_dir: Option<PathBuf>,
}

/// One line of `--json`.
#[derive(Debug, Serialize)]
struct Line<'a> {
    archive: &'a str,
    members: Vec<MemberRow>,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    let saved = Saved::in_directory(arguments.index_dir.or_else(default_index_dir).as_deref());
    let mut out = BufWriter::new(io::stdout().lock());
    let mut code = ExitCode::SUCCESS;
    let mut has_head = arguments.json;
    for found in Archives::at(&arguments.paths) {
        let found = match found {
            Ok(found) => found,
            Err(missing) => {
                super::print_error(missing);
                code = ExitCode::FAILURE;
                continue;
            }
        };
        let members = offline::list(&found, &saved);
        if members.iter().any(|member| member.state.starts_with("damaged")) {
            code = ExitCode::FAILURE;
        }
        let written = match arguments.json {
            true => write_json(&mut out, &found.path, members),
            false => write_table(&mut out, &found.path, &members, &mut has_head),
        };
        if let Err(cause) = written {
            return super::output_failed(&cause);
        }
    }
    match out.flush() {
        Ok(()) => code,
        Err(cause) => super::output_failed(&cause),
    }
}

fn write_json(out: &mut impl Write, path: &Path, members: Vec<MemberRow>) -> io::Result<()> {
    let archive = &path.to_string_lossy();
    serde_json::to_writer(&mut *out, &Line { archive, members })?;
    writeln!(out)
}

fn write_table(
    out: &mut impl Write,
    path: &Path,
    members: &[MemberRow],
    has_head: &mut bool,
) -> io::Result<()> {
    if !*has_head {
        writeln!(
            out,
            "{:>9} {:>9} {:>5}  {:9} {:7} {:18} {:17} NAME",
            "SIZE", "ENCODED", "RATIO", "METHOD", "DTYPE", "SHAPE", "STATE"
        )?;
        *has_head = true;
    }
    for member in members {
        let ratio = member.size as f64 / member.encoded_size.max(1) as f64;
        let (dtype, shape) = member.array.as_ref().map_or_else(Default::default, |array| {
            (&*array.dtype, shape(&array.shape, array.fortran_order))
        });
        let name = match &member.name {
            Some(name) => path.join(name),
            None => path.to_owned(),
        };
        writeln!(
            out,
            "{:>9} {:>9} {ratio:>5.1}  {:9} {dtype:7} {shape:18} {:17} {}",
            size::short(member.size),
            size::short(member.encoded_size),
            member.method,
            member.state,
            super::on_one_line(&name.to_string_lossy()),
        )?;
    }
    Ok(())
}

/// A shape as Python shows it; with an F if the first index varies fastest.
fn shape(axes: &[u64], fortran_order: bool) -> String {
    let comma = if axes.len() == 1 { "," } else { "" };
    let axes: Vec<_> = axes.iter().map(u64::to_string).collect();
    format!("({}{comma}){}", axes.join(", "), if fortran_order { " F" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::shape;

    #[test]
    fn shapes_look_as_in_python() {
        assert_eq!(shape(&[], false), "()");
        assert_eq!(shape(&[3], false), "(3,)");
        assert_eq!(shape(&[3, 4], true), "(3, 4) F");
    }
}
