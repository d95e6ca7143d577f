//! Closes containers whose files were removed: while they are open, their bytes stay on the disk.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::Tree;

/// The interval between two sweeps while there are requests. An idle mount is not woken for a
/// sweep.
const EVERY: Duration = Duration::from_secs(10);

/// The time of the last sweep.
#[derive(Debug)]
pub(super) struct Sweep {
    begin: Instant,
    /// The time of the last sweep, in milliseconds after `begin`.
    last: AtomicU64,
}

impl Sweep {
    pub(super) fn new(begin: Instant) -> Self {
        Self { begin, last: AtomicU64::new(0) }
    }

    /// Whether a sweep is due. Of several threads that call this at once, only one gets `true`.
    fn is_due(&self, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.begin).as_millis() as u64;
        let last = self.last.load(Ordering::Relaxed);
        now - last.min(now) >= EVERY.as_millis() as u64
            && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Tree {
    /// Starts a sweep on another thread, if one is due.
    pub(super) fn sweep(&self) {
        if self.sweep.is_due(Instant::now()) {
            let containers = self.containers.clone();
            self.spawn(move || containers.close_removed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_seldom_and_for_one_who_asks() {
        let start = Instant::now();
        let sweep = Sweep::new(start);
        let asked = [0, 5, 11, 12, 20, 22, 22]
            .map(|seconds| sweep.is_due(start + Duration::from_secs(seconds)));
        assert_eq!(asked, [false, false, true, false, false, true, false]);
    }
}
