//! Archives whose files have been removed are closed, or their bytes would stay on the disk.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::Tree;

/// How long files that were removed may stay open while the kernel asks for anything. It asks
/// nothing of a mount that idles, which is not woken for this.
const EVERY: Duration = Duration::from_secs(10);

/// When it was last looked for them.
#[derive(Debug)]
pub(super) struct Sweep {
    begin: Instant,
    /// In milliseconds since the begin.
    last: AtomicU64,
}

impl Sweep {
    pub fn new(begin: Instant) -> Self {
        Self { begin, last: AtomicU64::new(0) }
    }

    /// Whether it is time to look; then it says so to one who asks.
    fn is_due(&self, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.begin).as_millis() as u64;
        let last = self.last.load(Ordering::Relaxed);
        now - last.min(now) >= EVERY.as_millis() as u64
            && self.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Tree {
    /// Closes what has been removed, on another thread, when that is due.
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
