//! CRC-32 of decoded bytes, joined from the CRC-32 of pieces.

use std::sync::Arc;

/// The length of a block of a span, in bytes. A read can check a span up to the end of any block.
pub(crate) const BLOCK: usize = 64 << 10;

/// The CRC-32 of some bytes and the number of these bytes, which is needed to join two of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Crc {
    value: u32,
    len: u64,
}

impl Crc {
    /// The checksum of `len` bytes whose CRC-32 is `value`.
    pub(crate) fn new(value: u32, len: u64) -> Self {
        Self { value, len }
    }

    /// The checksum of the bytes of `self` followed by `bytes`.
    pub(crate) fn with(self, bytes: &[u8]) -> Self {
        let mut hasher = crc32fast::Hasher::new_with_initial_len(self.value, self.len);
        hasher.update(bytes);
        Self { value: hasher.finalize(), len: self.len + bytes.len() as u64 }
    }

    /// The checksum of the bytes of `self` followed by those of `next`. Costs a third of a
    /// microsecond.
    pub(crate) fn followed_by(self, next: Self) -> Self {
        if self == Self::default() {
            return next;
        }
        let mut joined = crc32fast::Hasher::new_with_initial_len(self.value, self.len);
        joined.combine(&crc32fast::Hasher::new_with_initial_len(next.value, next.len));
        Self { value: joined.finalize(), len: self.len + next.len }
    }

    pub(crate) fn value(self) -> u32 {
        self.value
    }

    pub(crate) fn len(self) -> u64 {
        self.len
    }
}

/// The CRC-32 of a span up to the end of each of its blocks. The last one is that of the whole
/// span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpanCrcs(Arc<[u32]>);

impl SpanCrcs {
    /// The checksums of a span: `inner` up to the ends of all blocks but the last, and `whole`.
    pub(crate) fn new(inner: &[u32], whole: u32) -> Self {
        Self(inner.iter().copied().chain([whole]).collect())
    }

    /// The checksums of `span`, which is not empty, each computed from the start: for comparison.
    #[cfg(test)]
    pub(crate) fn naive(span: &[u8]) -> Self {
        let ends = (BLOCK..span.len()).step_by(BLOCK);
        let inner: Vec<_> = ends.map(|end| crc32fast::hash(&span[..end])).collect();
        Self::new(&inner, crc32fast::hash(span))
    }

    /// The number of block ends within a span of `len` bytes. The end of the span does not count.
    pub(crate) fn inner_of(len: u64) -> u64 {
        len.saturating_sub(1) / BLOCK as u64
    }

    /// The CRC-32 of the first `blocks` blocks, of which there must be one at least.
    pub(crate) fn first(&self, blocks: usize) -> u32 {
        self.0[blocks - 1]
    }

    /// The CRC-32 up to each end of a block within the span.
    pub(crate) fn inner(&self) -> &[u32] {
        &self.0[..self.0.len() - 1]
    }

    /// The CRC-32 of the whole span.
    pub(crate) fn whole(&self) -> u32 {
        self.first(self.0.len())
    }

    /// The checksums of the first `blocks` blocks, of which there must be one at least.
    pub(crate) fn piece(&self, blocks: usize) -> PieceCrc {
        let sums = self.0[..blocks].iter().zip(1..);
        let block_ends: Vec<_> = sums.map(|(sum, at)| Crc::new(*sum, at * BLOCK as u64)).collect();
        PieceCrc { whole: block_ends[blocks - 1], block_ends }
    }

    /// Bytes of memory that the checksums take.
    pub(crate) fn memory(&self) -> u64 {
        // The reference counts are two numbers before the checksums.
        (2 * size_of::<usize>() + size_of_val(&*self.0)) as u64
    }
}

/// The CRC-32 of some bytes of a span that were decoded one after the other.
#[derive(Debug, Default)]
pub(crate) struct PieceCrc {
    pub(crate) whole: Crc,
    /// The CRC-32 of these bytes up to each end of a block of the span.
    pub(crate) block_ends: Vec<Crc>,
}

/// The checksums of a span whose decoding goes on.
#[derive(Debug, Default)]
pub(crate) struct SpanSum {
    whole: Crc,
    block_ends: Vec<u32>,
}

impl SpanSum {
    /// Appends the next decoded bytes of the span.
    pub(crate) fn add(&mut self, piece: PieceCrc) {
        let ends = piece.block_ends.into_iter().map(|end| self.whole.followed_by(end).value());
        self.block_ends.extend(ends);
        self.whole = self.whole.followed_by(piece.whole);
    }

    /// Bytes of the span so far.
    pub(crate) fn len(&self) -> u64 {
        self.whole.len()
    }

    /// The checksums of the span, if it ends here.
    pub(crate) fn finish(self) -> SpanCrcs {
        let inner = SpanCrcs::inner_of(self.len()) as usize;
        SpanCrcs::new(&self.block_ends[..inner], self.whole.value())
    }
}

/// Checksums of the bytes before the frontier.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sums {
    /// Of the bytes from the start of the stream.
    pub(crate) whole: Crc,
    /// Of the bytes from the start of the current gzip member.
    pub(crate) member: Crc,
}

impl Sums {
    /// Appends a piece of decoded bytes to both checksums.
    pub(crate) fn add(&mut self, piece: Crc) {
        let is_first_member = self.member == self.whole;
        self.whole = self.whole.followed_by(piece);
        self.member = match is_first_member {
            true => self.whole,
            false => self.member.followed_by(piece),
        };
    }
}
