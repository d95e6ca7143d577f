//! The progress of long work: a line on a terminal, which is written again and again.

use std::{
    io::{self, Write},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::size;
use crate::offline::{Progress, Totals};

/// How often the progress is shown.
const REFRESH: Duration = Duration::from_millis(100);

/// Prints lines above the progress.
pub(super) struct Printer<'a> {
    bar: &'a ProgressBar,
    failed: io::Result<()>,
}

impl Printer<'_> {
    /// Prints a line to standard output.
    pub(super) fn line(&mut self, line: &str) {
        if self.failed.is_ok() {
            self.failed = self.bar.suspend(|| writeln!(io::stdout(), "{line}"));
        }
    }
}

/// Runs `work` while its progress is shown on standard error, if that is a terminal. Returns what
/// `work` returns, and a phrase about what was done.
///
/// # Errors
/// When a line cannot be printed.
pub(super) fn show<T>(
    work: impl FnOnce(&Progress, &mut Printer<'_>) -> T,
) -> io::Result<(T, Totals, String)> {
    let (progress, begin) = (&Progress::default(), Instant::now());
    let style = ProgressStyle::with_template("{spinner} {wide_msg}").expect("it is well-formed");
    let bar = &ProgressBar::no_length().with_style(style);
    let mut printer = Printer { bar, failed: Ok(()) };
    let (over, is_over) = mpsc::channel::<()>();
    let result = thread::scope(|scope| {
        scope.spawn(move || {
            while is_over.recv_timeout(REFRESH) == Err(RecvTimeoutError::Timeout) {
                bar.set_message(said(progress.totals(), begin.elapsed()));
                bar.tick();
            }
        });
        let result = work(progress, &mut printer);
        drop(over);
        result
    });
    bar.finish_and_clear();
    printer.failed?;
    Ok((result, progress.totals(), said(progress.totals(), begin.elapsed())))
}

fn said(totals: Totals, elapsed: Duration) -> String {
    let Totals { archives, members, bytes } = totals;
    let many = |count, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let rate = (bytes as f64 / elapsed.as_secs_f64().max(1e-3)) as u64;
    let (size, rate) = (size::short(bytes), size::short(rate));
    format!("{} in {}, {size} ({rate}/s)", many(members, "member"), many(archives, "archive"))
}
