//! Archives whose files have been removed are closed, or their bytes would stay on the disk.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::Tree;

/// How long files that were removed may stay open while names are asked for. None are on a mount
/// that idles, which is not woken for this.
const EVERY: Duration = Duration::from_secs(10);

/// When it was last looked for them.
#[derive(Debug)]
pub(super) struct Sweep(Mutex<Instant>);

impl Sweep {
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(now))
    }

    /// Whether it is time to look; then it says so to one who asks.
    fn is_due(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = now.saturating_duration_since(*last) >= EVERY;
        if is_due {
            *last = now;
        }
        is_due
    }
}

impl Tree {
    /// Closes what has been removed, on another thread, when that is due.
    pub(super) fn sweep(&self) {
        if self.sweep.is_due(Instant::now()) {
            let (archives, npy_gzs) = (self.archives.clone(), self.npy_gzs.clone());
            self.spawn(move || {
                archives.close_removed();
                npy_gzs.close_removed();
            });
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
