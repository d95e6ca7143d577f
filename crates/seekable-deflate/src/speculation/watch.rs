//! Decides whether the help of speculative decoding is worth its cost: compares how fast the
//! frontier advances with and without it.

/// The measured rates of the frontier, and the place from which help is wanted again.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The rate without help.
    alone: Rate,
    helped: Rate,
    /// Help is not wanted before this decoded offset.
    off_until: u64,
    /// Decoded bytes that the last pause of help lasts. 0 if help was worth it since.
    pause: u64,
    at: u64,
    /// Decoded bytes with help since the last pause that were not measured, up to `BEGINNING`.
    begun: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Rate {
    bytes: u64,
    nanos: u64,
}

/// Decoded bytes that one judgement is based on. Several chunks, so that the frontier has reached
/// some of them. Not more, so that useless help slows a pass over 64 MiB by a few hundredths at
/// most.
const JUDGED: u64 = 16 << 20;
/// Decoded bytes with help that are not measured: the frontier has not reached the first chunk, and
/// the buffers are fresh.
const BEGINNING: u64 = 8 << 20;
/// Decoded bytes that the first pause of help lasts. The next pause is twice as long, unless help
/// was worth it in between.
const PAUSE: u64 = 512 << 20;

impl Watch {
    pub(super) fn is_on(&self) -> bool {
        self.at >= self.off_until
    }

    /// Records that the frontier is at decoded offset `at` and took `nanos` for the last `bytes`,
    /// with help if `helped`. Bytes before offset `warm` do not count for the rate without help.
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

    /// Whether this rate is higher than `other` by more than a thirtieth: less is not worth another
    /// core.
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
