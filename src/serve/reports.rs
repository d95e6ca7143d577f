//! Remembers which failures the log has, so that the log does not grow with the number of requests.
//!
//! Each generation of a container has one set of reports for its members. The mount has one for the
//! source, and the decoded copies have one. Does not log: the methods return whether the caller has
//! to.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::{Duration, Instant},
};

use super::{Error, Failure};
use crate::sync::Mutex;

/// After a line in the log, repeats of the same failure are only counted for this time. The next
/// repeat is then logged, with the count.
const QUIET: Duration = Duration::from_secs(10);

/// Most pairs of operation and reason that are remembered. In practice there are few.
const MOST: usize = 1024;

/// The failures that were logged.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    /// Failures that are logged once, by member and reason.
    once: Mutex<HashSet<(u32, i64)>>,
    /// Failures that are logged now and then, by operation and reason.
    repeating: Mutex<HashMap<(&'static str, i64), Report>>,
}

/// The last line in the log for one operation and reason.
#[derive(Debug)]
struct Report {
    logged: Instant,
    /// How often the same failure came after that line.
    repeats: u64,
}

/// How often the same failure came without a line in the log. The `Display` text goes after the
/// text of the failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Repeats(u64);

impl Repeats {
    /// The log has a line for every such failure.
    pub(crate) const NONE: Self = Self(0);
}

impl fmt::Display for Repeats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " (and {count} more since the last such line)"),
        }
    }
}

impl Reports {
    /// Whether this is the first failure of `member` for `reason`, since the start or the last
    /// `clear`.
    pub(crate) fn is_first(&self, member: u32, reason: i64) -> bool {
        self.once.lock().insert((member, reason))
    }

    /// Forgets the failure of `member` for `reason`, so that the next one is logged again.
    pub(crate) fn clear(&self, member: u32, reason: i64) {
        self.once.lock().remove(&(member, reason));
    }

    /// The repeats to log with a failure of `operation` for `reason`; `None` if this failure is not
    /// to be logged.
    pub(crate) fn repeats(&self, operation: &'static str, reason: i64) -> Option<Repeats> {
        self.repeats_at(operation, reason, Instant::now())
    }

    fn repeats_at(&self, operation: &'static str, reason: i64, now: Instant) -> Option<Repeats> {
        let mut repeating = self.repeating.lock();
        if repeating.len() >= MOST && !repeating.contains_key(&(operation, reason)) {
            repeating.clear();
        }
        let Some(last) = repeating.get_mut(&(operation, reason)) else {
            repeating.insert((operation, reason), Report { logged: now, repeats: 0 });
            return Some(Repeats::NONE);
        };
        if now.saturating_duration_since(last.logged) < QUIET {
            last.repeats += 1;
            return None;
        }
        last.logged = now;
        Some(Repeats(std::mem::take(&mut last.repeats)))
    }

    /// The failure of `operation` on `member` with `error`. Damage of a member is logged once,
    /// because the kernel reads each page of a damaged place again, and a program reads each row.
    /// Errors of the source and of disks are logged once for the whole container, and then now and
    /// then.
    pub(crate) fn failure(&self, operation: &'static str, member: u32, error: Error) -> Failure {
        let repeats = match &error {
            Error::Io(_) => self.repeats(operation, error.reason()),
            // The wrong saved index has a line of its own in the log.
            Error::Refuted => None,
            _ => self.is_first(member, error.reason()).then_some(Repeats::NONE),
        };
        Failure { error, repeats, member: Some(member) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_logged_once_and_then_counted() {
        let reports = Reports::default();
        let start = Instant::now();
        let repeats = |reason, seconds| {
            reports.repeats_at("read", reason, start + Duration::from_secs(seconds))
        };
        assert_eq!(repeats(5, 0), Some(Repeats::NONE));
        assert_eq!(repeats(28, 0), Some(Repeats::NONE), "another reason");
        assert_eq!(reports.repeats_at("open", 5, start), Some(Repeats::NONE), "another operation");
        assert_eq!([0, 5, 9].map(|seconds| repeats(5, seconds)), [None; 3]);
        assert_eq!(repeats(5, 10), Some(Repeats(3)));
        assert_eq!(repeats(5, 15), None);
        assert_eq!(repeats(5, 20), Some(Repeats(1)));
        assert_eq!(repeats(5, 30), Some(Repeats::NONE), "it has not happened meanwhile");
        assert_eq!(Repeats(3).to_string(), " (and 3 more since the last such line)");
        assert_eq!(Repeats::NONE.to_string(), "");
    }

    #[test]
    fn no_number_of_reasons_takes_memory_without_bound() {
        let reports = Reports::default();
        (0..10_000).for_each(|reason| assert!(reports.repeats("read", reason).is_some()));
        assert!(reports.repeating.lock().len() <= MOST);
    }

    #[test]
    fn what_is_wrong_with_a_member_is_logged_once_and_an_error_of_the_source_again_later() {
        let reports = Reports::default();
        let is_logged = |member, error| reports.failure("read", member, error).repeats.is_some();
        let is_io_logged = |member| is_logged(member, std::io::Error::other("of the test").into());
        for member in [1, 2] {
            for error in [Error::Overwritten, Error::Encrypted, Error::UnsupportedMethod(99)] {
                assert_eq!(
                    [(); 3].map(|()| is_logged(member, error.clone())),
                    [true, false, false]
                );
            }
            assert!(!is_logged(member, Error::Refuted));
        }
        assert!(is_io_logged(1) && !is_io_logged(2), "once for all members");
        reports.clear(1, Error::Encrypted.reason());
        assert!(is_logged(1, Error::Encrypted) && !is_logged(2, Error::Encrypted));
    }
}
