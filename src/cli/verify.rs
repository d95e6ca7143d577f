//! `npzfs verify PATH...`.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueHint};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::size;
use crate::offline::{self, Archives, Damage, Progress, Totals};

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

/// How often the progress is shown.
const REFRESH: Duration = Duration::from_millis(100);

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let (progress, begin) = (Progress::default(), Instant::now());
    let mut damaged = Vec::new();
    let bar = bar();
    let (over, is_over) = mpsc::channel::<()>();
    let mut failed = None;
    thread::scope(|scope| {
        let (progress, bar) = (&progress, &bar);
        scope.spawn(move || {
            while is_over.recv_timeout(REFRESH) == Err(RecvTimeoutError::Timeout) {
                bar.set_message(said(progress.totals(), begin.elapsed()));
                bar.tick();
            }
        });
        offline::verify(Archives::at(&arguments.paths), progress, |damage| {
            let line = Line::of(damage);
            if !arguments.json {
                let print = || writeln!(io::stdout(), "{}", line.text());
                failed = bar.suspend(print).err().or(failed.take());
            }
            damaged.push(line);
        });
        drop(over);
    });
    bar.finish_and_clear();

    let (totals, count) = (progress.totals(), damaged.len());
    let printed = match (failed, arguments.json) {
        (Some(cause), _) => Err(cause),
        (None, true) => {
            let Totals { archives, members, bytes } = totals;
            let report = Report { archives, members, bytes, damaged };
            serde_json::to_string(&report)
                .map_err(io::Error::from)
                .and_then(|text| writeln!(io::stdout(), "{text}"))
        }
        (None, false) => {
            let verdict = match count {
                0 => "all right".to_owned(),
                count => format!("{count} damaged or not checked"),
            };
            writeln!(io::stdout(), "{}: {verdict}", said(totals, begin.elapsed()))
        }
    };
    match printed {
        Err(cause) => super::output_failed(&cause),
        Ok(()) if count > 0 => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
    }
}

/// A line on a terminal, which is written again and again; hidden elsewhere.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {wide_msg}").expect("it is well-formed");
    ProgressBar::no_length().with_style(style)
}

fn said(totals: Totals, elapsed: Duration) -> String {
    let Totals { archives, members, bytes } = totals;
    let many = |count, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let rate = (bytes as f64 / elapsed.as_secs_f64().max(1e-3)) as u64;
    let (size, rate) = (size::short(bytes), size::short(rate));
    format!("{} in {}, {size} ({rate}/s)", many(members, "member"), many(archives, "archive"))
}
