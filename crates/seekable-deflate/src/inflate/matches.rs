//! A list of the decoded matches, as long as they are few. It shows which bytes of a window are
//! needed without decoding the bytes after the window a second time (`windows::sparse`).

use std::ops::Range;

use super::HISTORY;

/// The list has room for one match in 64 units, and ends when it is full. Noise has one in 300.
const UNITS_PER_MATCH: usize = 64;

/// A decoded match.
#[derive(Debug, Clone, Copy)]
struct Match {
    /// Start of the decoded match, in units from the start of the buffer.
    at: u32,
    len: u16,
    /// The distance minus one, in units.
    distance: u16,
}
const _: () = assert!(HISTORY - 1 <= u16::MAX as usize);

/// A list of the matches that start in the first units of an output.
#[derive(Debug)]
pub(crate) struct Matches {
    list: Vec<Match>,
    most: usize,
    /// Index in the buffer at which the output starts.
    start: usize,
    /// The list has all matches that start before this index in the buffer.
    end: usize,
}

impl Matches {
    /// The most bytes of memory that the list for `len` units takes.
    pub(crate) const fn most_memory(len: usize) -> usize {
        len / UNITS_PER_MATCH * size_of::<Match>()
    }

    /// Bytes of memory that the list holds.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.list.capacity() * size_of::<Match>()
    }

    /// A list for the first `len` units of an output that starts at `start` in its buffer.
    pub(super) fn new(start: usize, len: usize) -> Self {
        Self { list: Vec::new(), most: len / UNITS_PER_MATCH, start, end: start + len }
    }

    /// Adds a match that starts at `at` in the buffer.
    pub(super) fn add(&mut self, at: usize, distance: usize, len: usize) {
        if at >= self.end {
            return;
        }
        if self.list.len() == self.most {
            return self.end_at(at);
        }
        let distance = (distance - 1) as u16;
        self.list.push(Match { at: at as u32, len: len as u16, distance });
    }

    /// Ends the list before the first match that starts at index `at` of the buffer or later.
    pub(super) fn end_at(&mut self, at: usize) {
        self.end = self.end.min(at);
    }

    /// The bytes before decoded byte `before` to which the matches that start in `range` refer. For
    /// each such match: the number of bytes from the start of its source to `before`, and how many
    /// of its source bytes are before `before`. Both arguments are in bytes from the start of the
    /// output. `before` must not be after the start of `range`, and may be negative. `None` if the
    /// list ends before the end of `range`.
    pub(crate) fn reaching_back(
        &self,
        range: Range<usize>,
        before: isize,
    ) -> Option<impl Iterator<Item = (usize, usize)>> {
        if self.start + range.end > self.end {
            return None;
        }
        let within = move |found: &&Match| range.contains(&(found.at as usize - self.start));
        Some(self.list.iter().filter(within).filter_map(move |found| {
            let from_before = (found.at as usize - self.start) as isize - before;
            let back = usize::from(found.distance) + 1;
            let back = back.checked_sub(from_before as usize).filter(|back| *back > 0)?;
            Some((back, back.min(usize::from(found.len))))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(matches: &Matches, range: Range<usize>, before: isize) -> Option<Vec<(usize, usize)>> {
        Some(matches.reaching_back(range, before)?.collect())
    }

    #[test]
    fn matches_reach_back_as_far_as_they_start_before_the_place() {
        let mut matches = Matches::new(100, 1000);
        // The source of the match ends before, ends at, crosses, or starts after `before`.
        for (at, distance, len) in [(110, 15, 3), (120, 30, 10), (130, 31, 10), (140, 40, 3)] {
            matches.add(at, distance, len);
        }
        assert_eq!(back(&matches, 0..1000, 0).unwrap(), [(5, 3), (10, 10), (1, 1)]);
        // `before` may also be 5 bytes before the start of the output, or within the output.
        assert_eq!(back(&matches, 0..1000, -5).unwrap(), [(5, 5)]);
        assert_eq!(back(&matches, 20..31, 20).unwrap(), [(30, 10), (21, 10)]);
    }

    #[test]
    fn an_incomplete_list_gives_no_answer() {
        let mut matches = Matches::new(100, 6400);
        matches.end_at(4100);
        assert!(back(&matches, 0..4000, 0).is_some() && back(&matches, 0..4001, 0).is_none());
        for at in 0..200 {
            matches.add(100 + 2 * at, 50, 3);
        }
        assert_eq!(matches.list.len(), 100, "more than one in 64 are too many");
        assert!(back(&matches, 0..200, 0).is_some() && back(&matches, 0..201, 0).is_none());
    }
}
