//! Whether help pays: the frontier's own rate with it against that without.

/// Measures the frontier.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Without help.
    alone: Rate,
    helped: Rate,
    /// Help is not wanted before this decoded offset.
    off_until: u64,
    /// Decoded bytes for which it was last given up.
    pause: u64,
    at: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Rate {
    bytes: u64,
    nanos: u64,
}

/// Bytes to be judged by.
const JUDGED: u64 = 64 << 20;

impl Watch {
    pub(super) fn is_on(&self) -> bool {
        self.at >= self.off_until
    }

    /// The frontier is at decoded offset `at`, after `nanos` for `bytes`.
    pub(super) fn advanced(&mut self, at: u64, bytes: u64, nanos: u64, helped: bool, warm_up: u64) {
        self.at = at;
        if !helped || !self.is_on() || at < warm_up {
            self.alone.add(bytes, nanos);
            return;
        }
        self.helped.add(bytes, nanos);
        if self.helped.bytes < JUDGED {
            return;
        }
        if self.helped.is_faster_than(self.alone) {
            self.pause = 0;
        } else {
            self.pause = (2 * self.pause).max(8 * JUDGED);
            self.off_until = at + self.pause;
            self.alone = Rate::default();
        }
        self.helped = Rate::default();
    }
}

impl Rate {
    fn add(&mut self, bytes: u64, nanos: u64) {
        self.bytes += bytes;
        self.nanos += nanos;
    }

    fn is_faster_than(self, other: Self) -> bool {
        let product = |bytes: u64, nanos: u64| u128::from(bytes) * u128::from(nanos);
        other.bytes == 0 || product(self.bytes, other.nanos) > product(other.bytes, self.nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_that_does_not_pay_is_given_up_for_a_while_and_tried_again() {
        let mut watch = Watch::default();
        watch.advanced(1 << 20, 1 << 20, 1000, false, 1 << 20);
        watch.advanced(65 << 20, JUDGED, 64_000 / 2, true, 1 << 20);
        assert!(watch.is_on(), "twice as fast");
        watch.advanced(129 << 20, JUDGED, 64_001, true, 1 << 20);
        assert!(!watch.is_on(), "slower");
        watch.advanced((129 << 20) + 8 * JUDGED, 8 * JUDGED, 1000, true, 1 << 20);
        assert!(watch.is_on(), "tried again");
    }
}
