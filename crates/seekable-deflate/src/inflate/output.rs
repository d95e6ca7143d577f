//! The output buffer of a decoder: first the history that matches may refer to, then the decoded
//! bytes.

use super::{HISTORY, MAX_MATCH, Matches, Unit};
use crate::crc::{BLOCK, Crc, PieceCrc};

/// Room after the limit, in units. It is for a match that starts before the limit, and for what a
/// copy in whole blocks writes after the end of the match.
pub(crate) const MARGIN: usize = MAX_MATCH + 62;

/// A function that returns a CRC-32 extended by more bytes.
type With<T> = fn(Crc, &[T]) -> Crc;

/// The buffer that a decoder writes to: history, then decoded bytes, then room. All lengths and
/// indices are in units of `T`, which stand for one byte each.
pub(crate) struct Output<T = u8> {
    /// The whole buffer. The values from `filled` on are meaningless.
    pub(super) bytes: Vec<T>,
    /// Index of the end of the decoded bytes.
    pub(super) filled: usize,
    /// The oldest unit that matches may refer to: the first one of the stream, or of the history.
    pub(super) floor: usize,
    /// Start of the decoded bytes, and end of the window that `new` copied.
    start: usize,
    /// Extends the CRC-32. `None` if no CRC-32 is wanted.
    with: Option<With<T>>,
    /// The CRC-32 of the bytes up to `summed` that were decoded since the last `take_crc`.
    piece: PieceCrc,
    summed: usize,
    /// The list of the decoded matches. `None` if it is not wanted.
    pub(super) matches: Option<Matches>,
}

impl Output {
    /// The buffer length needed to decode up to `limit` bytes after a window of `window` bytes.
    pub(crate) fn room(window: usize, limit: usize) -> usize {
        window + limit + MARGIN
    }

    /// Makes the output compute the CRC-32 of the decoded bytes, while they are in the cache.
    pub(crate) fn with_crc(self) -> Self {
        Self { with: Some(Crc::with), ..self }
    }

    /// Appends decoded bytes, the first of which have the checksums `piece`.
    pub(crate) fn go_on_after(&mut self, decoded: &[u8], piece: PieceCrc) {
        self.append(decoded.len()).copy_from_slice(decoded);
        // At most as long as `decoded`.
        self.summed = self.start + piece.whole.len() as usize;
        self.piece = piece;
    }
}

impl<T: Unit> Output<T> {
    /// An output that writes to `buffer` after a copy of `window`, which must fit.
    pub(crate) fn new(mut buffer: Vec<T>, window: &[T]) -> Self {
        buffer[..window.len()].copy_from_slice(window);
        let start = window.len();
        Self {
            bytes: buffer,
            filled: start,
            floor: 0,
            start,
            with: None,
            piece: PieceCrc::default(),
            summed: start,
            matches: None,
        }
    }

    /// Makes the output list the matches that start in the first `len` units, as far as they fit.
    pub(crate) fn with_matches(self, len: usize) -> Self {
        let matches = Some(Matches::new(self.start, len));
        Self { matches, ..self }
    }

    /// Takes the list of the matches. `None` if it was not wanted.
    pub(crate) fn take_matches(&mut self) -> Option<Matches> {
        self.matches.take()
    }

    /// The CRC-32 of the bytes decoded since the last call. That of no bytes if none is wanted.
    pub(crate) fn take_crc(&mut self) -> PieceCrc {
        self.sum_to(self.filled);
        std::mem::take(&mut self.piece)
    }

    /// The limit for a loop that stops `margin` bytes before it: `limit`, or less if the CRC-32
    /// must be updated earlier.
    pub(super) fn pace(&self, limit: usize, margin: usize) -> usize {
        if self.with.is_some() { limit.min(self.block_end() + margin) } else { limit }
    }

    /// Index of the end of the block whose CRC-32 is updated next.
    fn block_end(&self) -> usize {
        self.start + ((self.summed - self.start) / BLOCK + 1) * BLOCK
    }

    /// Updates the CRC-32 if a block or more is complete: its bytes are still in the core's own
    /// cache. Returns whether it did.
    pub(super) fn sum_blocks(&mut self) -> bool {
        let mut has_summed = false;
        while self.with.is_some() && self.block_end() <= self.filled {
            self.sum_to(self.block_end());
            has_summed = true;
        }
        has_summed
    }

    fn sum_to(&mut self, end: usize) {
        let Some(with) = self.with else { return };
        while self.summed < end {
            let block_end = self.block_end();
            let to = end.min(block_end);
            self.piece.whole = with(self.piece.whole, &self.bytes[self.summed..to]);
            self.summed = to;
            if to == block_end {
                self.piece.block_ends.push(self.piece.whole);
            }
        }
    }

    /// Enlarges the buffer to what a limit of `limit` bytes needs.
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

    /// The decoded bytes from number `from` on.
    #[cfg(test)]
    pub(crate) fn decoded_from(&self, from: usize) -> &[T] {
        &self.bytes[self.start + from..self.filled]
    }

    /// Starts a new stream here: its matches may not reach back before this place.
    pub(crate) fn start_stream(&mut self) {
        self.floor = self.filled;
    }

    /// Returns room for `len` bytes, which the caller must write. They count as decoded.
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

    /// The buffer, and the range of the decoded bytes in it.
    pub(crate) fn into_parts(self) -> (Vec<T>, std::ops::Range<usize>) {
        (self.bytes, self.start..self.filled)
    }

    /// Writes a match: `len` bytes, each equal to the byte `distance` before it.
    pub(super) fn copy_match(&mut self, distance: usize, len: usize) {
        if let Some(matches) = &mut self.matches {
            matches.add(self.filled, distance, len);
        }
        let from = self.filled - distance;
        let end = self.filled + len;
        let mut at = self.filled;
        while at < end {
            // Copies all bytes between `from` and `at`, whole periods, if the match is that long.
            let copied = (end - at).min(at - from);
            self.bytes.copy_within(from..from + copied, at);
            at += copied;
        }
        self.filled += len;
    }
}
