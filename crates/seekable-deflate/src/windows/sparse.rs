//! Sparse windows: only the bytes that matches after the checkpoint refer to, if there are few.
//!
//! To pack a window, 32 KiB have to be decoded again, a quarter of a span of noise. If there are
//! few matches, the first pass keeps a list of them (`inflate::matches`). The list shows that
//! nearly all of the window can be dropped, without decoding again.

use std::ops::Range;

use crate::inflate::HISTORY;

/// A sparse window is used if it takes at most the length of the window divided by this.
const WORTH: usize = 4;

/// The bytes of a window that the 32 KiB after it refer to.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// Ranges of offsets, which count from 32 KiB before the checkpoint even if the window is
    /// shorter.
    ranges: Vec<Range<u16>>,
}

impl Reach {
    /// Adds the `len` bytes that begin `back` bytes before the checkpoint.
    pub(crate) fn add(&mut self, back: usize, len: usize) {
        debug_assert!(back <= HISTORY && len <= back);
        let start = HISTORY - back;
        // Both are at most 32 KiB, so they fit.
        self.ranges.push(start as u16..(start + len) as u16);
    }

    /// The sparse form of `window`, if it is small enough.
    pub(crate) fn of(mut self, window: &[u8]) -> Option<Sparse> {
        let before = HISTORY - window.len();
        self.ranges.sort_unstable_by_key(|range| range.start);
        let mut ranges: Vec<Range<u16>> = Vec::with_capacity(self.ranges.len());
        for range in self.ranges {
            match ranges.last_mut().filter(|last| range.start <= last.end) {
                Some(last) => last.end = last.end.max(range.end),
                None => ranges.push(range),
            }
        }
        let mut bytes = Vec::new();
        for range in &ranges {
            let (start, end) = (usize::from(range.start), usize::from(range.end));
            // A match can reach before the window only if the stream is another one: then there is
            // no sparse window.
            bytes.extend_from_slice(window.get(start.checked_sub(before)?..end - before)?);
        }
        let (ranges, bytes) = (ranges.into(), bytes.into());
        let sparse = Sparse { len: window.len(), ranges, bytes };
        (sparse.memory() <= window.len() / WORTH).then_some(sparse)
    }
}

/// The bytes of a window that are needed.
#[derive(Debug)]
pub(crate) struct Sparse {
    /// Length of the window in bytes.
    len: usize,
    /// The ranges of the bytes that are held, as offsets from 32 KiB before the checkpoint.
    ranges: Box<[Range<u16>]>,
    bytes: Box<[u8]>,
}

impl Sparse {
    /// Bytes of memory held.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.ranges) + self.bytes.len()
    }

    /// The window, with zeros for the other bytes.
    pub(crate) fn unpack(&self) -> Vec<u8> {
        let mut window = vec![0; self.len];
        let mut bytes = &self.bytes[..];
        for range in &self.ranges {
            let (now, rest) = bytes.split_at(range.len());
            let start = usize::from(range.start) + self.len - HISTORY;
            window[start..start + now.len()].copy_from_slice(now);
            bytes = rest;
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_keeps_what_is_needed_and_nothing_else() {
        for len in [1000, HISTORY] {
            let window: Vec<u8> = (0..len).map(|at| (at % 255) as u8 + 1).collect();
            let mut reach = Reach::default();
            let needed = [(len, 3), (500, 10), (495, 10), (490, 2), (1, 1)];
            needed.iter().for_each(|(back, len)| reach.add(*back, *len));
            let sparse = reach.of(&window).unwrap();
            assert_eq!(sparse.ranges.len(), 3, "what touches is one range");
            let is_needed =
                |at| needed.iter().any(|(back, n)| (len - back..len - back + n).contains(&at));
            let kept = |(at, byte): (usize, &u8)| if is_needed(at) { *byte } else { 0 };
            let expected: Vec<u8> = window.iter().enumerate().map(kept).collect();
            assert_eq!(sparse.unpack(), expected);
        }
    }

    #[test]
    fn a_window_of_which_much_is_needed_is_not_sparse_nor_one_that_is_too_short() {
        let window = [7; 2000];
        let mut reach = Reach::default();
        reach.add(600, 600);
        assert!(reach.of(&window).is_none());
        let mut reach = Reach::default();
        reach.add(2001, 3);
        assert!(reach.of(&window).is_none());
        assert!(Reach::default().of(&window).is_some());
        assert!(Reach::default().of(&[]).is_none(), "there is nothing to save");
    }
}
