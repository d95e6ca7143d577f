//! The checkpoints of a stream.
//!
//! Span `n` lies between checkpoint `n` and the next checkpoint or the frontier. The number and the
//! end of a span never change. To save memory a checkpoint can lose its window: then its span is
//! decoded from an earlier checkpoint on, span by span.

use std::ops::Range;

use crate::{
    BitOffset,
    crc::SpanCrcs,
    inflate::{HISTORY, MAX_MATCH, Place},
    windows::Window,
};

/// A place in a stream where decoding can start.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    /// The place in the encoded stream. Seldom at a whole byte.
    pub(crate) encoded: BitOffset,
    /// The number of decoded bytes before this place.
    pub(crate) decoded: u64,
    /// The place in the DEFLATE block. `None` at the start of the stream, before any framing.
    pub(crate) place: Option<Place>,
    /// `None` if the window was dropped or is damaged.
    pub(crate) window: Option<Window>,
}

/// The entries of the index for one span.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// The checkpoint at the start of the span.
    pub(crate) start: Checkpoint,
    /// The end of the encoded bytes of the span, if a checkpoint follows.
    pub(crate) encoded_end: Option<BitOffset>,
    /// The decoded offset of the end of the span.
    pub(crate) end: u64,
    /// The checksums of the decoded bytes.
    pub(crate) crcs: SpanCrcs,
}

/// The checkpoints of one stream up to its frontier.
pub(crate) struct Index {
    checkpoints: Vec<Checkpoint>,
    /// The checksums of each span.
    crcs: Vec<SpanCrcs>,
    frontier: u64,
    /// Windows are held in memory at every `stride`-th checkpoint, and at the last one.
    stride: usize,
    window_bytes: u64,
    crc_bytes: u64,
    /// The first checkpoint whose window no thread has tried to pack yet.
    unpacked: usize,
}

impl Index {
    pub(crate) fn new() -> Self {
        let start = Checkpoint {
            encoded: BitOffset(0),
            decoded: 0,
            place: None,
            window: Some(Window::default()),
        };
        Self::from_parts(vec![start], Vec::new(), 0)
    }

    /// An index of checkpoints whose windows take no memory, and the checksums of each span up to
    /// `frontier`.
    pub(crate) fn from_parts(
        checkpoints: Vec<Checkpoint>,
        crcs: Vec<SpanCrcs>,
        frontier: u64,
    ) -> Self {
        let crc_bytes = crcs.iter().map(SpanCrcs::memory).sum();
        let (stride, window_bytes, unpacked) = (1, 0, 1);
        Self { checkpoints, crcs, frontier, stride, window_bytes, crc_bytes, unpacked }
    }

    /// The decoded offset up to which the stream has been decoded once.
    pub(crate) fn frontier(&self) -> u64 {
        self.frontier
    }

    /// The checkpoint at the frontier, if decoding can go on there.
    pub(crate) fn last(&self) -> Option<&Checkpoint> {
        self.checkpoints.last().filter(|checkpoint| checkpoint.decoded == self.frontier)
    }

    /// All checkpoints, and the checksums of each span.
    pub(crate) fn parts(&self) -> (&[Checkpoint], &[SpanCrcs]) {
        (&self.checkpoints, &self.crcs)
    }

    /// Checkpoint `number`, which must exist.
    pub(crate) fn checkpoint(&self, number: usize) -> &Checkpoint {
        &self.checkpoints[number]
    }

    /// Number of spans.
    pub(crate) fn len(&self) -> usize {
        self.crcs.len()
    }

    /// The number of the span that holds decoded byte `offset`, if that byte lies before the
    /// frontier.
    pub(crate) fn find(&self, offset: u64) -> Option<usize> {
        let after = self.checkpoints.partition_point(|checkpoint| checkpoint.decoded <= offset);
        (offset < self.frontier).then(|| after - 1)
    }

    /// The spans that lie wholly within `range`.
    pub(crate) fn within(&self, range: &Range<u64>) -> Range<usize> {
        let first = |at| self.checkpoints.partition_point(|checkpoint| checkpoint.decoded < at);
        let end = match range.end >= self.frontier {
            true => self.len(),
            // The span that holds byte `range.end` is not wholly within the range.
            false => self.find(range.end).unwrap_or(0),
        };
        first(range.start)..end
    }

    /// Span `number`, which must exist.
    pub(crate) fn span(&self, number: usize) -> Known {
        let next = self.checkpoints.get(number + 1);
        Known {
            start: self.checkpoints[number].clone(),
            encoded_end: next.map(|next| next.encoded),
            end: self.range(number).end,
            crcs: self.crcs[number].clone(),
        }
    }

    /// The decoded offsets of span `number`, which must exist.
    pub(crate) fn range(&self, number: usize) -> Range<u64> {
        let next = self.checkpoints.get(number + 1);
        self.checkpoints[number].decoded..next.map_or(self.frontier, |next| next.decoded)
    }

    /// Whether span `number`, which must exist, is likely to be almost all literals: it has at
    /// least two thirds as many encoded bytes as decoded bytes, but fewer than a stored block would
    /// have. `encoded_len` is the length of the encoded stream in bytes.
    pub(crate) fn is_dense(&self, number: usize, encoded_len: u64) -> bool {
        let span = self.span(number);
        let end = span.encoded_end.map_or(encoded_len, |end| end.0 / 8);
        let encoded = end.saturating_sub(span.start.encoded.0 / 8);
        let decoded = span.end - span.start.decoded;
        (decoded * 2 / 3..decoded).contains(&encoded)
    }

    /// The last checkpoint up to `number` that has a window, and that window.
    pub(crate) fn anchor(&self, number: usize) -> (usize, Window) {
        let anchored = (0..=number).rev().find_map(|number| {
            self.checkpoints[number].window.clone().map(|window| (number, window))
        });
        anchored.expect("the first window is empty and never dropped")
    }

    /// Adds a span that ends at decoded offset `end`, and the checkpoint there if decoding can
    /// continue.
    pub(crate) fn push(&mut self, crcs: SpanCrcs, end: u64, next: Option<Checkpoint>) {
        let last = self.checkpoints.len() - 1;
        if !last.is_multiple_of(self.stride) {
            self.drop_window(last);
        }
        self.crc_bytes += crcs.memory();
        self.crcs.push(crcs);
        self.frontier = end;
        if let Some(next) = next {
            self.window_bytes += next.window.as_ref().map_or(0, Window::memory);
            self.checkpoints.push(next);
        }
    }

    /// Drops about half of the windows that take memory: every other one.
    pub(crate) fn thin(&mut self) {
        let last = self.checkpoints.len() - 1;
        if self.stride > last {
            return;
        }
        self.stride *= 2;
        for number in 0..last {
            if !number.is_multiple_of(self.stride) {
                self.drop_window(number);
            }
        }
    }

    /// Drops the window of checkpoint `number` if the window takes memory.
    fn drop_window(&mut self, number: usize) {
        let held = self.checkpoints[number].window.as_ref().map_or(0, Window::memory);
        if held > 0 {
            self.set_window(number, None);
        }
    }

    fn set_window(&mut self, number: usize, window: Option<Window>) {
        let memory = |window: &Option<Window>| window.as_ref().map_or(0, Window::memory);
        self.window_bytes += memory(&window);
        let before = std::mem::replace(&mut self.checkpoints[number].window, window);
        self.window_bytes -= memory(&before);
    }

    /// Drops the window of checkpoint `number`, which is damaged, if it is still a saved one.
    /// Returns whether it was.
    pub(crate) fn drop_saved(&mut self, number: usize) -> bool {
        let is_saved = matches!(self.checkpoints[number].window, Some(Window::Saved(_)));
        if is_saved {
            self.set_window(number, None);
        }
        is_saved
    }

    /// Stores `window` at checkpoint `number` if a window is missing there and was not thinned out;
    /// bytes that nothing refers to may be wrong. Stores nothing at the frontier, where it is not
    /// known yet which bytes the next span refers to. Returns whether the window was stored.
    pub(crate) fn put_missing(&mut self, number: usize, window: &[u8]) -> bool {
        let checkpoint = &self.checkpoints[number];
        let is_missing = checkpoint.window.is_none()
            && checkpoint.decoded < self.frontier
            && number.is_multiple_of(self.stride);
        if is_missing {
            self.set_window(number, Some(window.into()));
            self.unpacked = self.unpacked.min(number);
        }
        is_missing
    }

    /// The first checkpoint that has a raw window which no thread has tried to pack yet, if all
    /// bytes that can refer to the window are decoded. The window counts as tried from now on.
    /// `ended` means that nothing follows the frontier.
    pub(crate) fn take_unpacked(&mut self, ended: bool) -> Option<usize> {
        while let Some(checkpoint) = self.checkpoints.get(self.unpacked) {
            if !ended && self.frontier - checkpoint.decoded < HISTORY as u64 {
                break;
            }
            self.unpacked += 1;
            if let Some(Window::Raw(_)) = checkpoint.window {
                return Some(self.unpacked - 1);
            }
        }
        None
    }

    /// Replaces the window of checkpoint `number` by `packed`, if it still is `unpacked`.
    pub(crate) fn replace(&mut self, number: usize, unpacked: &Window, packed: Window) {
        let window = &self.checkpoints[number].window;
        if window.as_ref().is_some_and(|window| window.is_unpacked(unpacked)) {
            self.set_window(number, Some(packed));
        }
    }

    /// Whether the spans of `longer` begin with the spans of this index.
    pub(crate) fn begins(&self, longer: &Self) -> bool {
        let spans = self.len();
        let ends = |index: &Self| (spans > 0).then(|| index.span(spans - 1).end);
        spans <= longer.len()
            && self.crcs == longer.crcs[..spans]
            && ends(self) == ends(longer)
            && self.checkpoints.iter().zip(&longer.checkpoints).all(|(mine, other)| {
                (mine.encoded, mine.decoded, mine.place)
                    == (other.encoded, other.decoded, other.place)
            })
    }

    /// Adds the spans of `longer` that come after those of this index.
    pub(crate) fn extend(&mut self, longer: &Self) {
        let further = longer.checkpoints.iter().skip(self.checkpoints.len());
        self.checkpoints.extend(further.cloned());
        self.crcs.extend_from_slice(&longer.crcs[self.crcs.len()..]);
        self.crc_bytes = longer.crc_bytes;
        self.frontier = longer.frontier;
    }

    /// Replaces windows by those of `saved`, which has the same checkpoints as far as both reach.
    pub(crate) fn take_windows(&mut self, saved: &Self) {
        let both = self.checkpoints.len().min(saved.checkpoints.len());
        for (number, checkpoint) in saved.checkpoints[..both].iter().enumerate() {
            if let Some(Window::Saved(_)) = checkpoint.window {
                self.set_window(number, checkpoint.window.clone());
            }
        }
    }

    /// Bytes of memory that the checkpoints and their windows take.
    pub(crate) fn bytes(&self) -> u64 {
        const EACH: usize = size_of::<Checkpoint>() + size_of::<SpanCrcs>();
        self.window_bytes + self.crc_bytes + (self.checkpoints.len() * EACH) as u64
    }

    /// The decoded offset at which the next span aims to end: it ends at the first boundary of
    /// symbols at or after this offset.
    pub(crate) fn next_end(&self, spacing: Spacing) -> u64 {
        let spacing = spacing.after(self.len());
        (self.frontier / spacing + 1).saturating_mul(spacing)
    }
}

/// The distance between checkpoints.
///
/// The distance doubles after each `spans` spans, so that the checkpoints of a stream with many
/// small spans take a bounded part of the memory even when they have no windows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spacing {
    base: u64,
    largest: u64,
    spans: usize,
}

impl Spacing {
    /// Bounds of the length of the largest span, in bytes.
    const LARGEST: Range<u64> = 64 << 10..64 << 20;

    /// The distance that the caller wants, as far as a budget of `limit` bytes allows. A span takes
    /// at most a quarter of the budget; the checkpoints between two doublings take at most a 64th.
    pub(crate) fn new(wanted: u64, limit: u64) -> Self {
        let largest = (limit / 4).clamp(Self::LARGEST.start, Self::LARGEST.end);
        let spans = limit / 64 / size_of::<Checkpoint>() as u64;
        Self {
            base: wanted.clamp(1, largest),
            largest,
            spans: usize::try_from(spans).unwrap_or(usize::MAX).max(256),
        }
    }

    /// The most bytes that a span may have. A span ends up to a match after the offset that it aims
    /// at, and the span that looks for the promised end may be longer by as much again.
    pub(crate) fn longest_span(self) -> u64 {
        self.largest + 3 * MAX_MATCH as u64
    }

    /// The offset at which span `number` aims to end, if the span begins at `from` or less than
    /// `slack` after it. `None` if the result depends on where in this range the span begins.
    pub(crate) fn end_after(self, number: usize, from: u64, slack: u64) -> Option<u64> {
        let spacing = self.after(number);
        (from % spacing + slack < spacing).then(|| (from / spacing + 1).saturating_mul(spacing))
    }

    /// The distance for the next span after this number of spans.
    fn after(self, spans: usize) -> u64 {
        let doublings = (spans / self.spans).min(32) as u32;
        (self.base << doublings).min(self.largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index with spans of 10 bytes and windows of 4 bytes.
    fn index(spans: u64) -> Index {
        let mut index = Index::new();
        for end in (1..=spans).map(|number| number * 10) {
            let next = Checkpoint {
                encoded: BitOffset(end),
                decoded: end,
                place: Some(Place::BlockHeader),
                window: Some(vec![7; 4].into()),
            };
            index.push(SpanCrcs::new(&[], 0), end, Some(next));
        }
        index
    }

    fn windows(index: &Index) -> Vec<usize> {
        let kept = index.checkpoints.iter().enumerate();
        kept.filter(|(_, checkpoint)| checkpoint.window.is_some()).map(|(at, _)| at).collect()
    }

    #[test]
    fn a_span_is_found_by_any_of_its_bytes() {
        let index = index(3);
        for (offset, number) in
            [(0, Some(0)), (9, Some(0)), (10, Some(1)), (29, Some(2)), (30, None)]
        {
            assert_eq!(index.find(offset), number, "byte {offset}");
        }
        assert_eq!(index.span(1).end, 20);
        assert_eq!(index.span(1).encoded_end, Some(BitOffset(20)));
    }

    #[test]
    fn only_whole_spans_lie_within_a_range() {
        let index = index(3);
        for (range, numbers) in [(0..9, 0..0), (0..10, 0..1), (1..25, 1..2), (5..u64::MAX, 1..3)] {
            assert_eq!(index.within(&range), numbers, "bytes {range:?}");
        }
        assert!(index.within(&(11..19)).is_empty());
        assert!(index.within(&(40..50)).is_empty());
    }

    #[test]
    fn thinning_keeps_every_other_window_and_the_last() {
        let mut index = index(9);
        let bytes = index.bytes();
        index.thin();
        assert_eq!(windows(&index), [0, 2, 4, 6, 8, 9]);
        assert_eq!(bytes - index.bytes(), 4 * 4);
        assert_eq!(index.anchor(5).0, 4);
        index.thin();
        assert_eq!(windows(&index), [0, 4, 8, 9]);
        for _ in 0..3 {
            index.thin();
        }
        assert_eq!(windows(&index), [0, 9]);
        // Windows that are added later are thinned, too: the last one is dropped when another span
        // follows.
        index.push(SpanCrcs::new(&[], 0), 95, None);
        assert_eq!(windows(&index), [0]);
    }

    #[test]
    fn an_index_goes_on_from_one_of_the_same_places_and_checksums_alone() {
        let longer = index(5);
        assert!(index(3).begins(&longer) && longer.begins(&longer));
        assert!(!index(6).begins(&longer));
        type Change = fn(&mut Index);
        let changes: [Change; 5] = [
            |of| of.crcs[1] = SpanCrcs::new(&[7], 0),
            |of| of.crcs[1] = SpanCrcs::new(&[], 7),
            |of| of.checkpoints[2].encoded.0 += 1,
            |of| of.checkpoints[2].decoded += 1,
            |of| of.checkpoints[2].place = None,
        ];
        for change in changes {
            let mut other = index(3);
            change(&mut other);
            assert!(!other.begins(&longer));
        }
    }

    #[test]
    fn a_window_that_was_dropped_while_it_was_packed_does_not_come_back() {
        let mut index = index(4);
        let window = index.checkpoints[1].window.clone().unwrap();
        index.thin();
        let bytes = index.bytes();
        index.replace(1, &window, Window::default());
        assert_eq!((windows(&index), index.bytes()), (vec![0, 2, 4], bytes));
    }

    #[test]
    fn a_missing_window_comes_back_but_not_at_the_frontier() {
        let mut index = index(3);
        (1..=3).for_each(|number| index.drop_window(number));
        assert!(index.put_missing(1, &[8; 4]) && !index.put_missing(1, &[9; 4]));
        // The pass continues at the frontier, and may need a shorter window: only the bytes of its
        // gzip member.
        assert!(!index.put_missing(3, &[8; 4]));
        assert_eq!(windows(&index), [0, 1]);
    }

    #[test]
    fn the_distance_between_checkpoints_doubles_as_they_grow_many() {
        let spacing = Spacing::new(100, 1 << 20);
        let spans = spacing.spans;
        assert_eq!(
            [0, spans - 1, spans, 2 * spans].map(|spans| spacing.after(spans)),
            [100, 100, 200, 400]
        );
        assert_eq!(spacing.after(usize::MAX), 256 << 10);
        assert_eq!(Spacing::new(0, 0).after(0), 1);
        assert_eq!(Spacing::new(u64::MAX, u64::MAX).after(0), 64 << 20);
    }
}
