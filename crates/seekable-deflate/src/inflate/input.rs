//! The encoded bytes as bits: where they lie if the source has them in memory, else a chunk of
//! them at a time.

use std::ops::Range;

use super::Fault;
use crate::{BitOffset, ReadAt};

/// Encoded bytes read at once. Small enough to stay in a core's own cache until it is decoded.
pub(crate) const CHUNK: u64 = 64 << 10;

/// Where in the encoded bytes decoding stands, and the bytes next to it.
pub(crate) struct Input {
    /// What the stream is of its source, in bytes.
    encoded: Range<u64>,
    /// Bytes of the source that were read last; none if it lends them.
    chunk: Vec<u8>,
    /// Where the chunk lies in the encoded stream, in bytes from its first. Of what is lent: 0.
    chunk_start: u64,
    /// The first byte of the chunk, or of what is lent, that is not in `buffer` yet.
    pub(super) next: usize,
    /// Bits that come next, the first lowest. Zero above `count`.
    pub(super) buffer: u64,
    /// How many bits `buffer` holds, at most 63.
    pub(super) count: u32,
    /// Nothing from here on is wanted, as far as is known; in bytes like `chunk_start`.
    wanted: u64,
}

impl Input {
    /// All bits of the bytes `encoded` of a source, from the first.
    pub(crate) fn new(encoded: Range<u64>) -> Self {
        let wanted = encoded.end - encoded.start;
        Self { encoded, chunk: Vec::new(), chunk_start: 0, next: 0, buffer: 0, count: 0, wanted }
    }

    /// The place of the next bit.
    pub(crate) fn position(&self) -> BitOffset {
        BitOffset((self.chunk_start + self.next as u64) * 8 - u64::from(self.count))
    }

    /// Length of the encoded stream in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.encoded.end - self.encoded.start
    }

    /// Bytes of memory held.
    pub(crate) fn memory(&self) -> usize {
        self.chunk.capacity()
    }

    /// The next chunk, once all of this one is in `buffer`. `false` at the end of the stream.
    fn load(&mut self, source: &dyn ReadAt) -> Result<bool, Fault> {
        debug_assert_eq!(self.next, self.chunk.len());
        let start = self.chunk_start + self.chunk.len() as u64;
        let rest = self.len().saturating_sub(start);
        if rest == 0 {
            return Ok(false);
        }
        // Past what was wanted there is no better guess than a whole chunk.
        let wanted = match self.wanted.saturating_sub(start) {
            0 => CHUNK,
            wanted => wanted.min(CHUNK),
        };
        // At most CHUNK, so it fits.
        let len = wanted.min(rest) as usize;
        self.chunk_start = start;
        self.next = 0;
        self.chunk.resize(len, 0);
        source.read_exact_at(&mut self.chunk, self.encoded.start + start).map_err(Fault::Source)?;
        Ok(true)
    }
}

/// An `Input` with its source at hand.
pub(crate) struct Bits<'a> {
    pub(super) input: &'a mut Input,
    source: &'a dyn ReadAt,
    /// The whole encoded stream, if the source has it in memory.
    lent: Option<&'a [u8]>,
}

impl<'a> Bits<'a> {
    /// `input`, which is of `source`.
    pub(crate) fn new(input: &'a mut Input, source: &'a dyn ReadAt) -> Self {
        let lent = source.as_bytes().and_then(|bytes| {
            let start = usize::try_from(input.encoded.start).ok()?;
            bytes.get(start..usize::try_from(input.encoded.end).ok()?)
        });
        if lent.is_some() {
            // A place in memory, so it fits.
            input.next += input.chunk_start as usize;
            input.chunk_start = 0;
            input.chunk.clear();
        } else if input.next > input.chunk.len() {
            input.chunk_start += input.next as u64;
            input.next = 0;
            input.chunk.clear();
        }
        Self { input, source, lent }
    }

    /// The bytes at hand; `input.next` is an index of them, or their length.
    pub(super) fn chunk(&self) -> &[u8] {
        self.lent.unwrap_or(&self.input.chunk)
    }

    /// Those that are not in the buffer yet.
    fn rest(&self) -> &[u8] {
        self.chunk().get(self.input.next..).unwrap_or_default()
    }

    /// Makes sure that there are such bytes; `false` at the end of the stream.
    fn has_rest(&mut self) -> Result<bool, Fault> {
        Ok(!self.rest().is_empty() || (self.lent.is_none() && self.input.load(self.source)?))
    }

    /// Goes to `at`; bytes before byte `wanted` are expected to be asked for.
    pub(crate) fn seek(&mut self, at: BitOffset, wanted: u64) -> Result<(), Fault> {
        let input = &mut *self.input;
        let byte = at.0 / 8;
        input.wanted = wanted;
        input.buffer = 0;
        input.count = 0;
        let len = self.lent.unwrap_or(&input.chunk).len() as u64;
        match byte.checked_sub(input.chunk_start) {
            // Less than the length of what is at hand, so it fits.
            Some(next) if next < len => input.next = next as usize,
            _ if self.lent.is_some() => input.next = len as usize,
            _ => {
                input.chunk_start = byte;
                input.chunk.clear();
                input.next = 0;
            }
        }
        self.take((at.0 % 8) as u32)?;
        Ok(())
    }

    /// Tops the buffer up to 56 bits or more, fewer only at the end of the stream.
    pub(super) fn refill(&mut self) -> Result<(), Fault> {
        if let Some(&word) = self.rest().first_chunk() {
            let input = &mut *self.input;
            input.buffer |= u64::from_le_bytes(word) << input.count;
            input.next += (63 - input.count as usize) / 8;
            input.count |= 56;
            // Only what is counted may be there.
            input.buffer &= (1 << input.count) - 1;
            return Ok(());
        }
        while self.input.count < 56 && self.has_rest()? {
            let byte = self.rest()[0];
            let input = &mut *self.input;
            input.buffer |= u64::from(byte) << input.count;
            input.next += 1;
            input.count += 8;
        }
        Ok(())
    }

    /// The next `count` bits, at most 32.
    pub(crate) fn take(&mut self, count: u32) -> Result<u32, Fault> {
        if self.input.count < count {
            self.refill()?;
            if self.input.count < count {
                return Err(Fault::Truncated);
            }
        }
        let bits = self.input.buffer & ((1 << count) - 1);
        self.skip(count);
        Ok(bits as u32)
    }

    /// Passes over `count` bits of the buffer.
    pub(super) fn skip(&mut self, count: u32) {
        debug_assert!(count <= self.input.count && count < 64);
        self.input.buffer >>= count;
        self.input.count -= count;
    }

    /// Passes over the rest of a byte that has been begun.
    pub(crate) fn align(&mut self) {
        self.skip(self.input.count % 8);
    }

    /// Whether the stream ends here.
    pub(crate) fn at_end(&mut self) -> Result<bool, Fault> {
        self.refill()?;
        Ok(self.input.count == 0)
    }

    /// Whether the next byte is zero, after `at_end` said that there is one.
    pub(crate) fn next_is_zero_byte(&self) -> bool {
        self.input.buffer & 0xff == 0
    }

    /// Copies whole bytes, as many as are at hand and at least one; call it at a whole byte.
    pub(super) fn copy_to<T: From<u8>>(&mut self, out: &mut [T]) -> Result<usize, Fault> {
        debug_assert_eq!(self.input.count % 8, 0);
        if self.input.count > 0 {
            out[0] = T::from(self.take(8)? as u8);
            return Ok(1);
        }
        if !self.has_rest()? {
            return Err(Fault::Truncated);
        }
        let rest = self.rest();
        let len = out.len().min(rest.len());
        out.iter_mut().zip(&rest[..len]).for_each(|(out, byte)| *out = T::from(*byte));
        self.input.next += len;
        Ok(len)
    }

    /// The place of the next bit.
    pub(crate) fn position(&self) -> BitOffset {
        self.input.position()
    }
}
