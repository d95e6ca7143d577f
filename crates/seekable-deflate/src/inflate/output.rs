//! The output buffer of a decoder: the history that matches may refer to, then the decoded bytes.

use super::{HISTORY, MAX_MATCH, Matches, Unit};
use crate::crc::Crc;

/// Room after the limit: for a match that starts before the limit, and for the bytes that copies of
/// whole words write after the match.
pub(crate) const MARGIN: usize = MAX_MATCH + 62;

/// Decoded bytes between two updates of the CRC-32: few enough to be still in the core's own cache.
const PIECE: usize = 64 << 10;

/// Adds the CRC-32 of more bytes to a CRC-32.
type With<T> = fn(Crc, &[T]) -> Crc;

/// A buffer that is being decoded into: history, then decoded bytes, then room. Counts units.
pub(crate) struct Output<T = u8> {
    /// All initialised. From `filled` on their values mean nothing.
    pub(super) bytes: Vec<T>,
    /// End of the decoded bytes.
    pub(super) filled: usize,
    /// Where matches may refer back to: the first byte of the stream, or the oldest history.
    pub(super) floor: usize,
    /// The end of the window that the output was made with.
    start: usize,
    /// The CRC-32 of the bytes from where it was last taken up to `summed`, and the function that
    /// adds to it. `None` if no CRC-32 is wanted.
    crc: Option<(Crc, With<T>)>,
    summed: usize,
    /// `None` if matches are not wanted.
    pub(super) matches: Option<Matches>,
}

impl Output {
    /// The buffer length needed to decode up to `limit` bytes after a window of `window` bytes.
    pub(crate) fn room(window: usize, limit: usize) -> usize {
        window + limit + MARGIN
    }

    /// Computes the CRC-32 as well, while the bytes are in the cache.
    pub(crate) fn with_crc(self) -> Self {
        Self { crc: Some((Crc::default(), Crc::with)), ..self }
    }
}

impl<T: Unit> Output<T> {
    /// An output in `buffer`, after a copy of `window`, which must fit.
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

    /// Lists the matches that start in the first `len` units as well, if they are few.
    pub(crate) fn with_matches(self, len: usize) -> Self {
        let matches = Some(Matches::new(self.start, len));
        Self { matches, ..self }
    }

    /// The matches, if they were wanted.
    pub(crate) fn take_matches(&mut self) -> Option<Matches> {
        self.matches.take()
    }

    /// The CRC-32 of the bytes decoded since it was last taken.
    pub(crate) fn take_crc(&mut self) -> Crc {
        self.sum();
        self.crc.as_mut().map(|(crc, _)| std::mem::take(crc)).unwrap_or_default()
    }

    /// A limit, not after `limit`, at which the CRC-32 is due, even if a loop stops `margin` bytes
    /// before it.
    pub(super) fn pace(&self, limit: usize, margin: usize) -> usize {
        if self.crc.is_some() { limit.min(self.summed + PIECE + margin) } else { limit }
    }

    /// Adds the new bytes to the CRC-32, if they are as many as are added at once.
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

    /// Room for `len` bytes that the caller writes. They count as decoded.
    pub(crate) fn append(&mut self, len: usize) -> &mut [T] {
        if let Some(matches) = &mut self.matches {
            matches.end_at(self.filled);
        }
        let room = &mut self.bytes[self.filled..self.filled + len];
        self.filled += len;
        room
    }

    /// The history that the next match may refer to.
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
            // All bytes from `from` on: a whole number of periods.
            let copied = (end - at).min(at - from);
            self.bytes.copy_within(from..from + copied, at);
            at += copied;
        }
        self.filled += len;
    }
}
