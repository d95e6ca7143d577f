//! How one handle is read: in sequence or at random.

use std::ops::Range;

/// How far from the expected place a read may start and still count as sequential, in bytes: the
/// kernel's read-ahead sends several requests at once, and they arrive out of order.
const SLACK: u64 = 1 << 20;

/// Reads in sequence before reading ahead starts. A memory map's read-around at a random row is
/// one request, seldom two.
const ENOUGH: u32 = 2;

/// Bytes that a span takes at most, near enough. What is given up begins so much before what was
/// given up last: the span that lay across its end is whole now.
const SPAN: u64 = 2 << 20;

/// What a read tells about the bytes around it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// To be decoded ahead of the reader.
    pub ahead: Option<Range<u64>>,
    /// Handed out, so that the kernel has them.
    pub behind: Option<Range<u64>>,
}

/// Follows the reads of one handle.
#[derive(Debug, Default)]
pub struct Pattern {
    /// End of the farthest read of the run, in decoded bytes.
    end: u64,
    /// Reads in the run after its first.
    run: u32,
    /// How far has been read ahead.
    ahead: u64,
    /// Where the run began.
    start: u64,
    /// How far what was read has been given up.
    behind: u64,
}

impl Pattern {
    /// Takes note of a read, and says what it tells, with `distance` bytes to be read ahead.
    pub fn follow(&mut self, offset: u64, size: u64, distance: u64) -> Around {
        let sequential = offset.abs_diff(self.end) <= SLACK;
        if !sequential {
            *self = Self { end: offset + size, start: offset, behind: offset, ..Self::default() };
            return Around::default();
        }
        self.end = self.end.max(offset + size);
        self.run = self.run.saturating_add(1);
        Around { ahead: self.go_ahead(distance), behind: self.leave_behind() }
    }

    fn go_ahead(&mut self, distance: u64) -> Option<Range<u64>> {
        // Half the distance, so that one task covers a good piece.
        if self.run < ENOUGH || self.ahead >= self.end + distance / 2 {
            return None;
        }
        let from = self.ahead.max(self.end);
        self.ahead = self.end + distance;
        Some(from..self.ahead)
    }

    fn leave_behind(&mut self) -> Option<Range<u64>> {
        // Requests that are still on their way start at most so far back.
        let behind = self.end.saturating_sub(SLACK);
        if behind < self.behind + SLACK {
            return None;
        }
        let from = self.start.max(self.behind.saturating_sub(SPAN));
        self.behind = behind;
        Some(from..behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const DISTANCE: u64 = 1 << 22;

    #[test]
    fn random_reads_are_never_read_ahead_of() {
        let mut pattern = Pattern { end: 1 << 40, ..Pattern::default() };
        for number in 0..100_u64 {
            let offset = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (1 << 40);
            let around = pattern.follow(offset, 128 * KIB, DISTANCE);
            assert_eq!(around, Around::default(), "{offset}");
        }
    }

    #[test]
    fn a_sequential_reader_is_read_ahead_of_without_gaps_or_repeats() {
        let mut pattern = Pattern::default();
        let mut ahead: Option<u64> = None;
        for number in 0..1000 {
            // Pairs of requests arrive in the wrong order.
            let offset = (number ^ 1) * 128 * KIB;
            if let Some(range) = pattern.follow(offset, 128 * KIB, DISTANCE).ahead {
                assert_eq!(range.start, ahead.unwrap_or(range.start));
                assert!(range.end > range.start);
                ahead = Some(range.end);
            }
        }
        assert!(ahead.unwrap() >= 1000 * 128 * KIB);
    }

    #[test]
    fn a_jump_ends_the_run() {
        let mut pattern = Pattern::default();
        for number in 0..10 {
            pattern.follow(number * 128 * KIB, 128 * KIB, DISTANCE);
        }
        let mut ahead = |offset| pattern.follow(offset, 128 * KIB, DISTANCE).ahead;
        assert_eq!(ahead(1 << 30), None);
        assert_eq!(ahead((1 << 30) + 128 * KIB), None);
        assert!(ahead((1 << 30) + 256 * KIB).is_some());
    }

    #[test]
    fn what_was_read_in_sequence_is_left_behind_and_no_more() {
        let mut pattern = Pattern::default();
        let start = 1 << 30;
        // The first read of all comes second.
        let mut left = start + 128 * KIB;
        for number in 0..1000 {
            let offset = start + (number ^ 1) * 128 * KIB;
            if let Some(range) = pattern.follow(offset, 128 * KIB, DISTANCE).behind {
                assert!(start <= range.start && range.start <= left, "{range:?}");
                assert!(left < range.end && range.end <= start + number * 128 * KIB, "{range:?}");
                left = range.end;
            }
        }
        assert!(left >= start + 1000 * 128 * KIB - 2 * SLACK);
    }
}
