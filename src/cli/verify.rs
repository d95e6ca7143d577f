//! `npzfs verify PATH...`.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, ValueHint};
use serde::Serialize;

use super::progress;
use crate::offline::{self, Archives, Damage, Totals};

/// Decode every member of archives, and compare it with its CRC-32
#[derive(Debug, Args)]
#[command(after_help = "\
Prints a line for each member that is damaged or cannot be checked. Nothing is written. DEFLATE is
decoded by another decoder than that of mounts.

Exit codes: 0 if all members are right; 1 if something is damaged, or cannot be read or checked;
2 for a wrong command line.")]
pub(super) struct Arguments {
    /// Archives (.npz, .npy.gz), or directories that have some
    #[arg(value_name = "PATH", required = true, value_hint = ValueHint::AnyPath)]
    paths: Vec<PathBuf>,
    /// Print one JSON object at the end instead
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    archives: u64,
    members: u64,
    /// Decoded.
    bytes: u64,
    damaged: Vec<Line>,
}

/// One damage.
#[derive(Debug, Serialize)]
struct Line {
    path: String,
    /// `None` if the archive as a whole cannot be read.
    member: Option<String>,
    error: String,
}

impl Line {
    fn of(damage: Damage) -> Self {
        match damage {
            Damage::Archive(missing) => Self {
                path: missing.path.to_string_lossy().into_owned(),
                member: None,
                error: missing.why.to_string(),
            },
            Damage::Member(found, id, error) => Self {
                path: found.path.to_string_lossy().into_owned(),
                member: found
                    .format
                    .is_directory()
                    .then(|| String::from_utf8_lossy(&found.archive.path_of(id)).into_owned()),
                error: error.to_string(),
            },
        }
    }

    fn text(&self) -> String {
        let member = self.member.iter().flat_map(|member| ["/", member]).collect::<String>();
        super::on_one_line(&format!("{}{member}: {}", self.path, self.error))
    }
}

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let shown = progress::show(|progress, printer| {
        let mut damaged = Vec::new();
        offline::verify(Archives::at(&arguments.paths), progress, |damage| {
            let line = Line::of(damage);
            if !arguments.json {
                printer.line(&line.text());
            }
            damaged.push(line);
        });
        damaged
    });
    let printed = shown.and_then(|(damaged, totals, said)| {
        let count = damaged.len();
        if arguments.json {
            let Totals { archives, members, bytes } = totals;
            let report = Report { archives, members, bytes, damaged };
            writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
        } else {
            let verdict = match count {
                0 => "all right".to_owned(),
                count => format!("{count} damaged or not checked"),
            };
            writeln!(io::stdout(), "{said}: {verdict}")?;
        }
        Ok(count)
    });
    super::code_of_failures(printed)
}
