//! Spans: decoded bytes that readers share.

use std::{fmt, ops::Range, sync::Arc};

/// The decoded bytes from one checkpoint to the next, or the first of them. Cheap to clone, never
/// changed.
#[derive(Clone)]
pub struct Span {
    start: u64,
    /// The buffer that the bytes were decoded into.
    buffer: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Span {
    /// A span of the bytes in `range` of `buffer`, which begin at decoded offset `start`.
    pub(crate) fn new(start: u64, buffer: Vec<u8>, range: Range<usize>) -> Self {
        // If less than half of the buffer is used, the bytes are copied and the buffer is freed.
        if range.len() < buffer.len() / 2 {
            let bytes = buffer[range].to_vec();
            let range = 0..bytes.len();
            return Self::in_buffer(start, bytes, range);
        }
        Self::in_buffer(start, buffer, range)
    }

    /// Like [`new`](Self::new), but always keeps the buffer: a later span of full length uses it
    /// again.
    pub(crate) fn in_buffer(start: u64, buffer: Vec<u8>, range: Range<usize>) -> Self {
        Self { start, buffer: Arc::new(buffer), range }
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
