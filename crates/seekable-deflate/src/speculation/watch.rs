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
    /// Bytes that were helped with since help was wanted again and that are not judged.
    begun: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Rate {
    bytes: u64,
    nanos: u64,
}

/// Bytes to be judged by: a few chunks, so that the frontier has met some. Few enough that help
/// which does not pay costs a stream of 64 MiB a few hundredths at most.
const JUDGED: u64 = 16 << 20;
/// Bytes before those: until the first chunk is met, and while its buffers are fresh.
const BEGINNING: u64 = 8 << 20;
/// Bytes for which help is given up first; each time after that twice as many.
const PAUSE: u64 = 512 << 20;

impl Watch {
    pub(super) fn is_on(&self) -> bool {
        self.at >= self.off_until
    }

    /// The frontier is at decoded offset `at`, after `nanos` for `bytes`. What it did without help
    /// is the measure from offset `warm` on.
    pub(super) fn advanced(&mut self, at: u64, bytes: u64, nanos: u64, helped: bool, warm: u64) {
        self.at = at;
        if !helped || !self.is_on() {
            if at > warm {
                self.alone.add(bytes, nanos);
            }
            return;
        }
        if self.begun < BEGINNING {
            self.begun += bytes;
            return;
        }
        self.helped.add(bytes, nanos);
        if self.helped.bytes < JUDGED {
            return;
        }
        if self.helped.is_clearly_faster_than(self.alone) {
            self.pause = 0;
        } else {
            self.pause = (2 * self.pause).max(PAUSE);
            self.off_until = at + self.pause;
            self.alone = Rate::default();
            self.begun = 0;
        }
        self.helped = Rate::default();
    }
}

impl Rate {
    fn add(&mut self, bytes: u64, nanos: u64) {
        self.bytes += bytes;
        self.nanos += nanos;
    }

    /// By a thirtieth at least: less is not worth the other core.
    fn is_clearly_faster_than(self, other: Self) -> bool {
        let product = |bytes: u64, nanos: u64| u128::from(bytes) * u128::from(nanos);
        other.bytes == 0
            || product(self.bytes, other.nanos) * 30 > product(other.bytes, self.nanos) * 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_that_does_not_pay_is_given_up_for_a_while_and_tried_again() {
        let mut watch = Watch::default();
        watch.advanced(1 << 20, 1 << 20, 5000, false, 1 << 20);
        watch.advanced(2 << 20, 1 << 20, 1000, false, 1 << 20);
        let mut at = 2 << 20;
        let mut helped = |watch: &mut Watch, bytes, nanos| {
            at += bytes;
            watch.advanced(at, bytes, nanos, true, 1 << 20);
            at
        };
        helped(&mut watch, BEGINNING, 800_000);
        helped(&mut watch, JUDGED, 16_000 / 2);
        assert!(watch.is_on(), "twice as fast");
        let at = helped(&mut watch, JUDGED, 15_900);
        assert!(!watch.is_on(), "hardly faster");
        watch.advanced(at + PAUSE, PAUSE, 512_000, false, 1 << 20);
        assert!(watch.is_on(), "tried again");
    }
}
