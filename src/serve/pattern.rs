//! How one handle is read: in sequence, in even strides or at random.

use std::{cmp::Ordering, ops::Range};

/// How far from the expected place a read may start and still count as sequential, in bytes: the
/// kernel's read-ahead sends several requests at once, and they arrive out of order.
const SLACK: u64 = 1 << 20;

/// Reads in sequence before reading ahead starts. A memory map's read-around at a random row is
/// one request, seldom two.
const ENOUGH: u32 = 2;

/// Even strides in a row, after the first, before what is a stride further is decoded: rows that
/// are picked at random have two of them by chance once in billions of times.
const ENOUGH_STRIDES: u32 = 2;

/// How much strides may differ and still be even, in bytes: the kernel reads from a page on.
const UNEVEN: u64 = 4096;

/// Strides that are decoded ahead: while a thread decodes what is asked for, others have what comes
/// next.
const STRIDES_AHEAD: i64 = 2;

/// Bytes that a span takes at most, near enough. What is given up begins so much before what was
/// given up last: the span that lay across its end is whole now.
const SPAN: u64 = 2 << 20;

/// What a read tells about the bytes around it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// To be decoded ahead of the reader.
    pub ahead: Option<Range<u64>>,
    /// Where the reader comes by if its strides go on as they are.
    pub strides: Vec<Range<u64>>,
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
    /// From where the run before began to there.
    stride: i64,
    /// Strides in a row that were like the one before.
    strides: u32,
    /// How far what was read has been given up.
    behind: u64,
}

impl Pattern {
    /// Takes note of a read, and says what it tells, with `distance` bytes to be read ahead.
    pub fn follow(&mut self, offset: u64, size: u64, distance: u64) -> Around {
        let sequential = offset.abs_diff(self.end) <= SLACK;
        if !sequential {
            let stride = offset.wrapping_sub(self.start) as i64;
            let is_even = stride.abs_diff(self.stride) <= UNEVEN;
            let strides = if is_even { self.strides.saturating_add(1) } else { 0 };
            let (end, start, behind) = (offset + size, offset, offset);
            *self = Self { end, start, behind, stride, strides, ..Self::default() };
            return Around { strides: self.go_on(size), ..Around::default() };
        }
        self.end = self.end.max(offset + size);
        self.run = self.run.saturating_add(1);
        let (ahead, behind) = (self.go_ahead(distance), self.leave_behind());
        Around { ahead, behind, ..Around::default() }
    }

    fn go_on(&self, size: u64) -> Vec<Range<u64>> {
        let steps = match self.strides.cmp(&ENOUGH_STRIDES) {
            Ordering::Less => return Vec::new(),
            Ordering::Equal => 1..=STRIDES_AHEAD,
            // The others were told before.
            Ordering::Greater => STRIDES_AHEAD..=STRIDES_AHEAD,
        };
        let start = |step| self.start.checked_add_signed(self.stride.checked_mul(step)?);
        let range = |step| Some(start(step)?..start(step)?.checked_add(size)?);
        steps.filter_map(range).collect()
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
        let mut offset = 1_u64;
        for _ in 0..10_000 {
            offset = offset.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let offset = offset >> 24;
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
    fn even_strides_are_decoded_ahead_of_without_gaps_or_repeats() {
        // From page to page, in both directions, each as one request or two.
        for stride in [5_000_000_i64, -5_000_000] {
            for requests in [1, 2] {
                let mut pattern = Pattern::default();
                let (mut told, mut last) = (Vec::new(), 0);
                for number in 0..100 {
                    last = ((1 << 30) + number * stride) as u64 / 4096 * 4096;
                    for request in 0..requests {
                        let (offset, size) = (last + request * 64 * KIB, 64 * KIB);
                        let around = pattern.follow(offset, size, DISTANCE);
                        assert!(around.ahead.is_none() && around.behind.is_none());
                        told.extend(around.strides.into_iter().map(|range| range.start));
                    }
                }
                // The first three strides are not known to be even, and two are ahead.
                assert_eq!(told.len(), 100 - 4 + 2);
                for (number, told) in (4..).zip(told) {
                    let at = ((1 << 30) + number * stride) as u64;
                    assert!(at.abs_diff(told) <= 3 * UNEVEN, "{at} {told}");
                }
                assert!(pattern.follow(last / 2, 64 * KIB, DISTANCE).strides.is_empty());
            }
        }
    }

    #[test]
    fn strides_that_lead_out_of_the_numbers_are_not_told() {
        let mut pattern = Pattern::default();
        let stride = (1 << 62) - 1;
        let mut told = Vec::new();
        for number in 0..4 {
            told = pattern.follow(number * stride, u64::from(u32::MAX), DISTANCE).strides;
        }
        assert_eq!(told.len(), 0);
        for number in (0..5).rev() {
            told.extend(pattern.follow(number * 3_000_000, 1, DISTANCE).strides);
        }
        assert_eq!(told.len(), 1, "there is nothing before the start");
        assert_eq!(told[0], 0..1);
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
