//! What is decoded, behind the history that matches may refer to.

use super::{HISTORY, MAX_MATCH, Matches, Unit};
use crate::crc::Crc;

/// Room behind the last limit: a match that starts before it, and what copies of whole words
/// write behind that.
pub(crate) const MARGIN: usize = MAX_MATCH + 62;

/// Decoded bytes between two updates of their CRC-32: few enough to be in a core's own cache still.
/// With 32 KiB zeros, one-hot and masks take 5 to 10 % more time, with 256 KiB as much.
const PIECE: usize = 64 << 10;

/// The CRC-32 with that of these behind.
type With<T> = fn(Crc, &[T]) -> Crc;

/// A buffer that is being decoded into: history, then decoded bytes, then room. Counts units.
pub(crate) struct Output<T = u8> {
    /// All initialised; from `filled` on their values mean nothing.
    pub(super) bytes: Vec<T>,
    /// End of the decoded bytes.
    pub(super) filled: usize,
    /// Start of what matches may refer to: the first byte of the stream, or older history.
    pub(super) floor: usize,
    /// Where the history that it was made with ends.
    start: usize,
    /// The CRC-32 of what was decoded from where it was last taken up to `summed`, and how to
    /// add to it; if anybody wants to know.
    crc: Option<(Crc, With<T>)>,
    summed: usize,
    /// If anybody wants to know.
    pub(super) matches: Option<Matches>,
}

impl Output {
    /// The buffer length that decoding up to `limit` bytes behind a window of `window` needs.
    pub(crate) fn room(window: usize, limit: usize) -> usize {
        window + limit + MARGIN
    }

    /// Whose CRC-32 is wanted: it is found while the bytes are in cache.
    pub(crate) fn with_crc(self) -> Self {
        Self { crc: Some((Crc::default(), Crc::with)), ..self }
    }
}

impl<T: Unit> Output<T> {
    /// Decodes into `buffer`, behind a copy of `window`, which must fit.
    pub(crate) fn new(mut buffer: Vec<T>, window: &[T]) -> Self {
        buffer[..window.len()].copy_from_slice(window);
        let start = window.len();
        Self {
            bytes: buffer,
            filled: start,
            floor: 0,
            start,
            crc: None,
            summed: start,
            matches: None,
        }
    }

    /// Whose matches are wanted that start in its first `len` units, if they are few.
    pub(crate) fn with_matches(self, len: usize) -> Self {
        let matches = Some(Matches::new(self.start, len));
        Self { matches, ..self }
    }

    /// The matches, if they were wanted.
    pub(crate) fn take_matches(&mut self) -> Option<Matches> {
        self.matches.take()
    }

    /// The CRC-32 of what was decoded since it was taken last.
    pub(crate) fn take_crc(&mut self) -> Crc {
        self.sum();
        self.crc.as_mut().map(|(crc, _)| std::mem::take(crc)).unwrap_or_default()
    }

    /// A limit at `limit` or before it, at which there is a piece for the CRC-32 though a loop
    /// stops `margin` bytes before.
    pub(super) fn pace(&self, limit: usize, margin: usize) -> usize {
        if self.crc.is_some() { limit.min(self.summed + PIECE + margin) } else { limit }
    }

    /// Adds a piece to the CRC-32 if there is one.
    pub(super) fn sum_piece(&mut self) -> bool {
        let is_piece = self.crc.is_some() && self.filled - self.summed >= PIECE;
        if is_piece {
            self.sum();
        }
        is_piece
    }

    fn sum(&mut self) {
        if let Some((crc, with)) = &mut self.crc {
            *crc = with(*crc, &self.bytes[self.summed..self.filled]);
            self.summed = self.filled;
        }
    }

    /// Makes room for a limit of `limit` bytes.
    pub(crate) fn grow(&mut self, limit: usize) {
        let len = Output::room(self.start, limit);
        if self.bytes.len() < len {
            self.bytes.resize(len, T::from(0));
        }
    }

    /// Bytes decoded so far.
    pub(crate) fn len(&self) -> usize {
        self.filled - self.start
    }

    /// The bytes decoded from the `from`-th on.
    #[cfg(test)]
    pub(crate) fn decoded_from(&self, from: usize) -> &[T] {
        &self.bytes[self.start + from..self.filled]
    }

    /// A new stream starts here: its matches may not reach further back.
    pub(crate) fn start_stream(&mut self) {
        self.floor = self.filled;
    }

    /// Room for `len` bytes that come from elsewhere; they count as decoded.
    pub(crate) fn append(&mut self, len: usize) -> &mut [T] {
        if let Some(matches) = &mut self.matches {
            matches.end_at(self.filled);
        }
        let room = &mut self.bytes[self.filled..self.filled + len];
        self.filled += len;
        room
    }

    /// What a match that comes next may refer to.
    pub(crate) fn window(&self) -> &[T] {
        &self.bytes[self.floor.max(self.filled.saturating_sub(HISTORY))..self.filled]
    }

    /// The buffer, and where the decoded bytes lie in it.
    pub(crate) fn into_parts(self) -> (Vec<T>, std::ops::Range<usize>) {
        (self.bytes, self.start..self.filled)
    }

    /// Repeats `len` bytes from `distance` back.
    pub(super) fn copy_match(&mut self, distance: usize, len: usize) {
        if let Some(matches) = &mut self.matches {
            matches.add(self.filled, distance, len);
        }
        let from = self.filled - distance;
        let end = self.filled + len;
        let mut at = self.filled;
        while at < end {
            // All from `from` on, which is so many whole periods.
            let copied = (end - at).min(at - from);
            self.bytes.copy_within(from..from + copied, at);
            at += copied;
        }
        self.filled += len;
    }
}
