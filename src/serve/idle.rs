//! Counts the idle cores, so that speculative decoding takes no core from other work.
//!
//! An idle thread of the pool does not mean an idle core: the core may be copying decoded bytes to
//! a reader. (On two cores, speculative decoding by every idle thread made a pass over sensor data
//! a tenth slower, and np.load a fifth.) So the idle time of all cores is read from /proc/stat, at
//! most ten times a second, and only while a member is being decoded.

use std::{
    fs,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use crate::sync::Mutex;

/// The time over which idle cores are counted: ten ticks of the clock of /proc/stat.
const WINDOW: Duration = Duration::from_millis(100);
/// A sample of this age or older is not used.
const STALE: Duration = Duration::from_secs(1);

/// The idle cores, and the helpers: threads of the pool that decode speculatively while a core is
/// idle.
#[derive(Debug, Default)]
pub(super) struct IdleCores {
    helpers: AtomicUsize,
    /// Processor time that helpers have used, in nanoseconds.
    helped: AtomicU64,
    sample: Mutex<Option<Sample>>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    /// Idle time of all cores since the system started.
    idle: Duration,
    /// The value of `IdleCores::helped` at `at`.
    helped: u64,
    /// Cores that were idle between the previous sample and this one, or would have been without
    /// helpers.
    spare: usize,
}

impl IdleCores {
    /// Whether there is an idle core for one more helper.
    pub(super) fn have_one(&self) -> bool {
        self.helpers.load(Ordering::Relaxed) < self.spare()
    }

    /// Runs `step` as a helper until it returns `false`, `go_on` returns `false`, or no core is
    /// idle.
    pub(super) fn use_one(&self, go_on: impl Fn() -> bool, step: impl Fn() -> bool) {
        let _helper = Helper::new(&self.helpers);
        let mut before = thread_time();
        while go_on() && self.helpers.load(Ordering::Relaxed) <= self.spare() && step() {
            let now = thread_time();
            self.helped.fetch_add((now - before).as_nanos() as u64, Ordering::Relaxed);
            before = now;
        }
    }

    fn spare(&self) -> usize {
        let mut sample = self.sample.lock();
        let now = Instant::now();
        let before = sample.filter(|sample| now - sample.at < STALE);
        if let Some(known) = before.filter(|sample| now - sample.at < WINDOW) {
            return known.spare;
        }
        let Some(idle) = idle_time() else { return 0 };
        let helped = self.helped.load(Ordering::Relaxed);
        let spare = before.map_or(0, |before| {
            let helped = Duration::from_nanos(helped - before.helped);
            spare(idle.saturating_sub(before.idle), helped, now - before.at)
        });
        *sample = Some(Sample { at: now, idle, helped, spare });
        spare
    }
}

/// How many cores were idle during `time`, or would have been without helpers, rounded. `idle` and
/// `helped` are sums over all cores.
fn spare(idle: Duration, helped: Duration, time: Duration) -> usize {
    (idle + helped).div_duration_f64(time).round() as usize
}

/// Idle time of all cores together since the system started.
fn idle_time() -> Option<Duration> {
    let stat = fs::read("/proc/stat").ok()?;
    let ticks = idle_ticks(str::from_utf8(&stat).ok()?)?;
    let a_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_millis(ticks * 1000 / a_second))
}

/// Idle ticks of all cores, from the first line of /proc/stat. By proc_stat(5) it has "cpu", user,
/// nice, system, idle, iowait.
fn idle_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace().skip(3);
    let mut field = || fields.next()?.parse::<u64>().ok();
    Some(field()? + field()?)
}

/// Processor time of the calling thread.
fn thread_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default()
}

/// Counts one helper until it is dropped.
struct Helper<'a>(&'a AtomicUsize);

impl<'a> Helper<'a> {
    fn new(helpers: &'a AtomicUsize) -> Self {
        helpers.fetch_add(1, Ordering::Relaxed);
        Self(helpers)
    }
}

impl Drop for Helper<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_is_idle_stands_in_the_first_line() {
        let stat = "cpu  10132153 290696 3084719 46828483 16683 0 25195 0 0 0\n\
                    cpu0 1393280 32966 572056 13343292 6130 0 17875 0 0 0\n";
        assert_eq!(idle_ticks(stat), Some(46_828_483 + 16_683));
        assert_eq!(idle_ticks("intr 1"), None);
        assert!(idle_time().is_some_and(|time| time > Duration::ZERO));
    }

    #[test]
    fn nobody_helps_before_anything_is_known_or_beyond_what_is_idle() {
        let cores = IdleCores::default();
        assert!(!cores.have_one(), "nothing is known");
        let sample = cores.sample.lock().unwrap();
        let set = |spare| {
            *cores.sample.lock() = Some(Sample { at: Instant::now(), spare, ..sample });
        };
        set(1);
        assert!(cores.have_one());
        let steps = Cell::new(0);
        cores.use_one(
            || !cores.have_one(),
            || {
                steps.set(steps.get() + 1);
                steps.get() < 3
            },
        );
        assert_eq!(steps.get(), 3);
        set(0);
        cores.use_one(|| true, || unreachable!("there is none"));
    }

    #[test]
    fn what_helpers_use_counts_as_idle() {
        let millis = Duration::from_millis;
        assert_eq!(spare(millis(0), millis(0), WINDOW), 0);
        assert_eq!(spare(millis(40), millis(0), WINDOW), 0);
        assert_eq!(spare(millis(70), millis(0), WINDOW), 1);
        assert_eq!(spare(millis(10), millis(60), WINDOW), 1);
        assert_eq!(spare(millis(900), millis(480), WINDOW), 14);
    }
}
