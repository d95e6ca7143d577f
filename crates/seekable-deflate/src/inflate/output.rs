//! What is decoded, behind the history that matches may refer to.

use super::{HISTORY, MAX_MATCH, Unit};

/// Room behind the last limit: a match that starts before it, and what copies of whole words
/// write behind that.
pub(crate) const MARGIN: usize = MAX_MATCH + 62;

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
}

impl Output {
    /// The buffer length that decoding up to `limit` bytes behind a window of `window` needs.
    pub(crate) fn room(window: usize, limit: usize) -> usize {
        window + limit + MARGIN
    }
}

impl<T: Unit> Output<T> {
    /// Decodes into `buffer`, behind a copy of `window`, which must fit.
    pub(crate) fn new(mut buffer: Vec<T>, window: &[T]) -> Self {
        buffer[..window.len()].copy_from_slice(window);
        Self { bytes: buffer, filled: window.len(), floor: 0, start: window.len() }
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
    pub(crate) fn decoded_from(&self, from: usize) -> &[T] {
        &self.bytes[self.start + from..self.filled]
    }

    /// A new stream starts here: its matches may not reach further back.
    pub(crate) fn start_stream(&mut self) {
        self.floor = self.filled;
    }

    /// Room for `len` bytes that come from elsewhere; they count as decoded.
    pub(crate) fn append(&mut self, len: usize) -> &mut [T] {
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

    /// Repeats `len` bytes from `distance` back, one by one.
    pub(super) fn copy_match(&mut self, distance: usize, len: usize) {
        for at in self.filled..self.filled + len {
            self.bytes[at] = self.bytes[at - distance];
        }
        self.filled += len;
    }
}
