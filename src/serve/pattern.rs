//! Recognises how one handle is read: in sequence, in even strides or at random. Predicts its next
//! reads.
//!
//! Only predicts: `open_file` decodes the predicted ranges, and gives up ranges that were read.

use std::{cmp::Ordering, ops::Range};

/// A read is sequential if it starts at most this far from the expected offset. Bytes. The kernel's
/// read-ahead sends several requests at once, and they arrive out of order.
const SLACK: u64 = 1 << 20;

/// Sequential reads before read-ahead starts. For a random row of a memory map the kernel sends one
/// request (its read-around), seldom two.
const ENOUGH: u32 = 2;

/// Even strides in a row, after the first stride, before the next ones are predicted. In random
/// rows, two even strides in a row happen once in billions of times.
const ENOUGH_STRIDES: u32 = 2;

/// Two strides that differ by at most this count as even. Bytes. The kernel reads from the start of
/// a page.
const UNEVEN: u64 = 4096;

/// Number of strides that are predicted. While one thread decodes for the read itself, others
/// decode these.
const PREDICTED_STRIDES: i64 = 2;

/// About the longest span, in decoded bytes. Each range that is given up begins this much before
/// the end of the one given up last, so that it covers a span across that end as a whole.
const SPAN: u64 = 2 << 20;

/// What to do after one read of a handle.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Prediction {
    /// The range to decode next for a sequential reader.
    pub read_ahead: Option<Range<u64>>,
    /// The next reads, if the strides stay even.
    pub strides: Vec<Range<u64>>,
    /// The range that the reader has passed: the kernel has got its bytes.
    pub passed: Option<Range<u64>>,
}

/// The recent reads of one handle. All offsets are in decoded bytes.
#[derive(Debug, Default)]
pub(super) struct Pattern {
    /// Where the run of sequential reads began.
    start: u64,
    /// End of the farthest read of the run.
    end: u64,
    /// Reads in the run after its first.
    run: u32,
    /// End of the read-ahead so far.
    read_ahead_end: u64,
    /// End of the range that was given up last.
    passed_end: u64,
    /// Distance from the start of the previous run to the start of this run.
    stride: i64,
    /// Strides in a row that were about as long as the stride before them.
    even_strides: u32,
}

impl Pattern {
    /// Notes a read of `size` bytes at `offset`. A sequential reader gets read-ahead of `distance`
    /// bytes.
    pub(super) fn follow(&mut self, offset: u64, size: u64, distance: u64) -> Prediction {
        let is_sequential = offset.abs_diff(self.end) <= SLACK;
        if !is_sequential {
            let stride = offset.wrapping_sub(self.start) as i64;
            let is_even = stride.abs_diff(self.stride) <= UNEVEN;
            let even_strides = if is_even { self.even_strides.saturating_add(1) } else { 0 };
            *self = Self {
                start: offset,
                end: offset + size,
                passed_end: offset,
                stride,
                even_strides,
                ..Self::default()
            };
            return Prediction { strides: self.next_strides(size), ..Prediction::default() };
        }
        self.end = self.end.max(offset + size);
        self.run = self.run.saturating_add(1);
        let (read_ahead, passed) = (self.next_read_ahead(distance), self.next_passed());
        Prediction { read_ahead, passed, ..Prediction::default() }
    }

    fn next_strides(&self, size: u64) -> Vec<Range<u64>> {
        let steps = match self.even_strides.cmp(&ENOUGH_STRIDES) {
            Ordering::Less => return Vec::new(),
            Ordering::Equal => 1..=PREDICTED_STRIDES,
            // The nearer strides have been predicted already.
            Ordering::Greater => PREDICTED_STRIDES..=PREDICTED_STRIDES,
        };
        let start = |step| self.start.checked_add_signed(self.stride.checked_mul(step)?);
        let range = |step| Some(start(step)?..start(step)?.checked_add(size)?);
        steps.filter_map(range).collect()
    }

    fn next_read_ahead(&mut self, distance: u64) -> Option<Range<u64>> {
        // Wait until half the distance is used up, so that each range is worth a task.
        if self.run < ENOUGH || self.read_ahead_end >= self.end + distance / 2 {
            return None;
        }
        let from = self.read_ahead_end.max(self.end);
        self.read_ahead_end = self.end + distance;
        Some(from..self.read_ahead_end)
    }

    /// Takes back the read-ahead from `offset` on: it has not been started. The next reads of the
    /// run predict it again.
    pub(super) fn shorten_read_ahead(&mut self, offset: u64) {
        self.read_ahead_end = self.read_ahead_end.min(offset);
    }

    fn next_passed(&mut self) -> Option<Range<u64>> {
        // Requests that have not arrived yet start at most `SLACK` before the end.
        let passed_end = self.end.saturating_sub(SLACK);
        if passed_end < self.passed_end + SLACK {
            return None;
        }
        let from = self.start.max(self.passed_end.saturating_sub(SPAN));
        self.passed_end = passed_end;
        Some(from..passed_end)
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
            let prediction = pattern.follow(offset, 128 * KIB, DISTANCE);
            assert_eq!(prediction, Prediction::default(), "{offset}");
        }
    }

    #[test]
    fn a_sequential_reader_is_read_ahead_of_without_gaps_or_repeats() {
        let mut pattern = Pattern::default();
        let mut end: Option<u64> = None;
        for number in 0..1000 {
            // Pairs of requests arrive in the wrong order.
            let offset = (number ^ 1) * 128 * KIB;
            if let Some(range) = pattern.follow(offset, 128 * KIB, DISTANCE).read_ahead {
                assert_eq!(range.start, end.unwrap_or(range.start));
                assert!(range.end > range.start);
                end = Some(range.end);
            }
        }
        assert!(end.unwrap() >= 1000 * 128 * KIB);
    }

    #[test]
    fn read_ahead_that_was_not_started_is_predicted_again() {
        let mut pattern = Pattern::default();
        let mut started = 0;
        for number in 0..100 {
            let read = pattern.follow(number * 128 * KIB, 128 * KIB, DISTANCE);
            if let Some(range) = read.read_ahead {
                assert!(range.start == started || started == 0, "{range:?}");
                started = range.end.min(range.start + 256 * KIB);
                pattern.shorten_read_ahead(started);
            }
        }
        assert!(started >= 100 * 128 * KIB + DISTANCE / 2);
    }

    #[test]
    fn even_strides_are_predicted_without_gaps_or_repeats() {
        // Strides in both directions, rounded to pages. Each row takes one request or two.
        for stride in [5_000_000_i64, -5_000_000] {
            for requests in [1, 2] {
                let mut pattern = Pattern::default();
                let (mut told, mut last) = (Vec::new(), 0);
                for number in 0..100 {
                    last = ((1 << 30) + number * stride) as u64 / 4096 * 4096;
                    for request in 0..requests {
                        let (offset, size) = (last + request * 64 * KIB, 64 * KIB);
                        let prediction = pattern.follow(offset, size, DISTANCE);
                        assert!(prediction.read_ahead.is_none() && prediction.passed.is_none());
                        told.extend(prediction.strides.into_iter().map(|range| range.start));
                    }
                }
                // The first three strides are not known to be even. After the last row, two more
                // are predicted.
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
        let mut read_ahead = |offset| pattern.follow(offset, 128 * KIB, DISTANCE).read_ahead;
        assert_eq!(read_ahead(1 << 30), None);
        assert_eq!(read_ahead((1 << 30) + 128 * KIB), None);
        assert!(read_ahead((1 << 30) + 256 * KIB).is_some());
    }

    #[test]
    fn what_was_read_in_sequence_is_passed_and_no_more() {
        let mut pattern = Pattern::default();
        let start = 1 << 30;
        // The first read arrives second.
        let mut left = start + 128 * KIB;
        for number in 0..1000 {
            let offset = start + (number ^ 1) * 128 * KIB;
            if let Some(range) = pattern.follow(offset, 128 * KIB, DISTANCE).passed {
                assert!(start <= range.start && range.start <= left, "{range:?}");
                assert!(left < range.end && range.end <= start + number * 128 * KIB, "{range:?}");
                left = range.end;
            }
        }
        assert!(left >= start + 1000 * 128 * KIB - 2 * SLACK);
    }
}
