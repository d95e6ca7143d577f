//! Spans: decoded bytes that readers share.

use std::{fmt, ops::Range, sync::Arc};

use crate::{BitOffset, inflate::Place};

/// The decoded bytes from one checkpoint to the next, or the first of them. Cheap to clone, never
/// changed.
#[derive(Clone)]
pub struct Span {
    start: u64,
    /// The buffer that the bytes were decoded into.
    buffer: Arc<Vec<u8>>,
    range: Range<usize>,
    /// `None` if the span is whole, or cannot be decoded further from here.
    rest: Option<Rest>,
}

/// Where the decoding of a span has stopped, which is where the decoding of the rest begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rest {
    /// The next bit, and its place in its block.
    pub(crate) encoded: BitOffset,
    pub(crate) place: Place,
    /// The end of the decoded bytes in the buffer. The last symbol may end after the part of the
    /// span, by less than the length of a match.
    pub(crate) filled: usize,
}

impl Span {
    /// A span of the bytes in `range` of `buffer`, which begin at decoded offset `start`.
    pub(crate) fn new(start: u64, buffer: Vec<u8>, range: Range<usize>) -> Self {
        // If less than half of the buffer is used, the bytes are copied and the buffer is freed.
        if range.len() < buffer.len() / 2 {
            let bytes = buffer[range].to_vec();
            let range = 0..bytes.len();
            return Self::part(start, bytes, range, None);
        }
        Self::part(start, buffer, range, None)
    }

    /// The first bytes of a span, of which `rest` can be decoded later. Keeps the buffer, even if
    /// little of it is used: a later span of full length uses it again.
    pub(crate) fn part(
        start: u64,
        buffer: Vec<u8>,
        range: Range<usize>,
        rest: Option<Rest>,
    ) -> Self {
        Self { start, buffer: Arc::new(buffer), range, rest }
    }

    /// Decoded offset of the first byte.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The decoded bytes, from decoded offset [`start`](Self::start) on.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }

    /// The decoded offsets of the bytes.
    pub(crate) fn range(&self) -> Range<u64> {
        self.start..self.start + self.range.len() as u64
    }

    /// The bytes from decoded offset `offset` on. `None` if that byte is not in this span.
    pub(crate) fn bytes_from(&self, offset: u64) -> Option<&[u8]> {
        let skip = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.bytes().get(skip..).filter(|bytes| !bytes.is_empty())
    }

    /// Where the decoding of the rest of the span begins.
    pub(crate) fn rest(&self) -> Option<Rest> {
        self.rest
    }

    /// The bytes before `rest`: those of this part of the span, and those of its last symbol that
    /// come after it.
    pub(crate) fn bytes_before(&self, rest: Rest) -> &[u8] {
        &self.buffer[self.range.start..rest.filled]
    }

    /// Bytes of memory that the span holds.
    pub(crate) fn memory(&self) -> u64 {
        (self.buffer.capacity() + 2 * size_of::<Self>()) as u64
    }

    /// Length of the buffer, if no other clone of this span exists.
    pub(crate) fn buffer_len(&self) -> Option<usize> {
        (Arc::strong_count(&self.buffer) == 1).then(|| self.buffer.len())
    }

    /// The buffer, if no other clone of this span exists.
    pub(crate) fn into_buffer(self) -> Option<Vec<u8>> {
        Arc::into_inner(self.buffer)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.range()).finish()
    }
}
