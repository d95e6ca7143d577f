//! What the log has been told already, so that it does not grow with the number of requests.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use crate::sync::Mutex;

/// How long the same reason is not told again; then it is, with a count.
const QUIET: Duration = Duration::from_secs(10);

/// Reasons that are remembered at most. There are few: kinds of errors, times operations.
const MOST: usize = 1024;

/// Reasons for failures of one thing, an archive or the whole mount.
#[derive(Debug, Default)]
pub struct News(Mutex<HashMap<(&'static str, i64), Told>>);

#[derive(Debug)]
struct Told {
    at: Instant,
    /// How often it has happened since.
    since: u64,
}

/// How often a reason was not told that is told now; its text goes after that of the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeats(u64);

impl Repeats {
    /// It is told for the first time.
    pub const NONE: Self = Self(0);
}

impl fmt::Display for Repeats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " (and {count} more since the last such line)"),
        }
    }
}

impl News {
    /// Whether the log is to be told of a failure of `operation` for `reason`, a number.
    pub fn hear(&self, operation: &'static str, reason: i64) -> Option<Repeats> {
        self.hear_at(operation, reason, Instant::now())
    }

    fn hear_at(&self, operation: &'static str, reason: i64, now: Instant) -> Option<Repeats> {
        let mut told = self.0.lock();
        if told.len() >= MOST && !told.contains_key(&(operation, reason)) {
            told.clear();
        }
        let Some(before) = told.get_mut(&(operation, reason)) else {
            told.insert((operation, reason), Told { at: now, since: 0 });
            return Some(Repeats::NONE);
        };
        if now.saturating_duration_since(before.at) < QUIET {
            before.since += 1;
            return None;
        }
        before.at = now;
        Some(Repeats(std::mem::take(&mut before.since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_told_once_and_then_counted() {
        let news = News::default();
        let start = Instant::now();
        let hear =
            |reason, seconds| news.hear_at("read", reason, start + Duration::from_secs(seconds));
        assert_eq!(hear(5, 0), Some(Repeats::NONE));
        assert_eq!(hear(28, 0), Some(Repeats::NONE), "another reason");
        assert_eq!(news.hear_at("open", 5, start), Some(Repeats::NONE), "another operation");
        assert_eq!([0, 5, 9].map(|seconds| hear(5, seconds)), [None; 3]);
        assert_eq!(hear(5, 10), Some(Repeats(3)));
        assert_eq!(hear(5, 15), None);
        assert_eq!(hear(5, 20), Some(Repeats(1)));
        assert_eq!(hear(5, 30), Some(Repeats::NONE), "it has not happened meanwhile");
        assert_eq!(Repeats(3).to_string(), " (and 3 more since the last such line)");
        assert_eq!(Repeats::NONE.to_string(), "");
    }

    #[test]
    fn no_number_of_reasons_takes_memory_without_bound() {
        let news = News::default();
        (0..10_000).for_each(|reason| assert!(news.hear("read", reason).is_some()));
        assert!(news.0.lock().len() <= MOST);
    }
}
