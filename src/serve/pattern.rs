//! How one handle is read: in sequence or at random.

use std::ops::Range;

/// How far from the expected place a read may start and still count as sequential, in bytes: the
/// kernel's read-ahead sends several requests at once, and they arrive out of order.
const SLACK: u64 = 1 << 20;

/// Reads in sequence before reading ahead starts. A memory map's read-around at a random row is
/// one request, seldom two.
const ENOUGH: u32 = 2;

/// Follows the reads of one handle.
#[derive(Debug, Default)]
pub struct Pattern {
    /// End of the farthest read of the run, in decoded bytes.
    end: u64,
    /// Reads in the run after its first.
    run: u32,
    /// How far has been read ahead.
    ahead: u64,
}

impl Pattern {
    /// Takes note of a read, and says which bytes should be decoded ahead of the reader.
    pub fn follow(&mut self, offset: u64, size: u64, distance: u64) -> Option<Range<u64>> {
        let sequential = offset.abs_diff(self.end) <= SLACK;
        if !sequential {
            *self = Self { end: offset + size, run: 0, ahead: 0 };
            return None;
        }
        self.end = self.end.max(offset + size);
        self.run = self.run.saturating_add(1);
        // Half the distance, so that one task covers a good piece.
        if self.run < ENOUGH || self.ahead >= self.end + distance / 2 {
            return None;
        }
        let from = self.ahead.max(self.end);
        self.ahead = self.end + distance;
        Some(from..self.ahead)
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
            assert_eq!(pattern.follow(offset, 128 * KIB, DISTANCE), None, "{offset}");
        }
    }

    #[test]
    fn a_sequential_reader_is_read_ahead_of_without_gaps_or_repeats() {
        let mut pattern = Pattern::default();
        let mut ahead: Option<u64> = None;
        for number in 0..1000 {
            // Pairs of requests arrive in the wrong order.
            let offset = (number ^ 1) * 128 * KIB;
            if let Some(range) = pattern.follow(offset, 128 * KIB, DISTANCE) {
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
        assert_eq!(pattern.follow(1 << 30, 128 * KIB, DISTANCE), None);
        assert_eq!(pattern.follow((1 << 30) + 128 * KIB, 128 * KIB, DISTANCE), None);
        assert!(pattern.follow((1 << 30) + 256 * KIB, 128 * KIB, DISTANCE).is_some());
    }
}
