//! Reads the encoded bytes as bits. If the source has the bytes in memory, they are used in place.
//! Otherwise they are read chunk by chunk.

use std::ops::Range;

use super::Fault;
use crate::{BitOffset, ReadAt};

/// The most encoded bytes read at once: few enough to stay in the core's own cache until decoded.
pub(crate) const CHUNK: u64 = 64 << 10;

/// A place in the encoded stream, with the bytes read from there on.
pub(crate) struct Input {
    /// The range of bytes that the stream takes in its source.
    encoded: Range<u64>,
    /// The bytes that were read last. Empty if the source has them in memory.
    chunk: Vec<u8>,
    /// Offset of the chunk in the encoded stream. 0 if the source has the bytes in memory.
    chunk_start: u64,
    /// Index, in the chunk or the bytes in memory, of the first byte that is not in `buffer` yet.
    pub(super) next: usize,
    /// The next bits, the first one lowest. Zero from bit `count` on.
    pub(super) buffer: u64,
    /// How many bits `buffer` holds, at most 63.
    pub(super) count: u32,
    /// Encoded offset from which on bytes are probably not needed.
    wanted: u64,
}

impl Input {
    /// The start of the stream that takes the bytes `encoded` of its source.
    pub(crate) fn new(encoded: Range<u64>) -> Self {
        let wanted = encoded.end - encoded.start;
        Self { encoded, chunk: Vec::new(), chunk_start: 0, next: 0, buffer: 0, count: 0, wanted }
    }

    /// The offset of the next bit.
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

    /// Reads the next chunk. All bytes of the current one must already have been consumed or be in
    /// `buffer`. Returns `false` at the end of the stream.
    fn load(&mut self, source: &dyn ReadAt) -> Result<bool, Fault> {
        debug_assert_eq!(self.next, self.chunk.len());
        let start = self.chunk_start + self.chunk.len() as u64;
        let rest = self.len().saturating_sub(start);
        if rest == 0 {
            return Ok(false);
        }
        // If more bytes than `wanted` are needed, a whole chunk is the best guess.
        let wanted = match self.wanted.saturating_sub(start) {
            0 => CHUNK,
            wanted => wanted.min(CHUNK),
        };
        // `wanted` is at most CHUNK, so the length fits.
        let len = wanted.min(rest) as usize;
        self.chunk_start = start;
        self.next = 0;
        self.chunk.resize(len, 0);
        source.read_exact_at(&mut self.chunk, self.encoded.start + start).map_err(Fault::Source)?;
        Ok(true)
    }
}

/// Reads bits from an `Input` and its source.
pub(crate) struct Bits<'a> {
    pub(super) input: &'a mut Input,
    source: &'a dyn ReadAt,
    /// All bytes of the encoded stream, if the source has them in memory.
    lent: Option<&'a [u8]>,
}

impl<'a> Bits<'a> {
    /// The bits of `input`, which must be a place in `source`.
    pub(crate) fn new(input: &'a mut Input, source: &'a dyn ReadAt) -> Self {
        let lent = source.as_bytes().and_then(|bytes| {
            let start = usize::try_from(input.encoded.start).ok()?;
            bytes.get(start..usize::try_from(input.encoded.end).ok()?)
        });
        if lent.is_some() {
            // The sum is an index of bytes in memory, so it fits.
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

    /// The whole encoded stream if the source has it in memory, else the loaded chunk. `input.next`
    /// is an index into these bytes; it equals their length when all of them have been taken.
    pub(super) fn chunk(&self) -> &[u8] {
        self.lent.unwrap_or(&self.input.chunk)
    }

    /// The part of `chunk()` that is not in the bit buffer yet.
    fn rest(&self) -> &[u8] {
        self.chunk().get(self.input.next..).unwrap_or_default()
    }

    /// Loads a chunk if `rest` is empty. Returns `false` at the end of the stream.
    fn has_rest(&mut self) -> Result<bool, Fault> {
        Ok(!self.rest().is_empty() || (self.lent.is_none() && self.input.load(self.source)?))
    }

    /// Moves to bit `at`. Encoded bytes from byte `wanted` on are probably not needed.
    pub(crate) fn seek(&mut self, at: BitOffset, wanted: u64) -> Result<(), Fault> {
        let input = &mut *self.input;
        let byte = at.0 / 8;
        input.wanted = wanted;
        input.buffer = 0;
        input.count = 0;
        let len = self.lent.unwrap_or(&input.chunk).len() as u64;
        match byte.checked_sub(input.chunk_start) {
            // `next` is less than the number of available bytes, so it fits.
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

    /// Fills the buffer up to 56 bits or more. At the end of the stream there may be fewer.
    pub(super) fn refill(&mut self) -> Result<(), Fault> {
        if let Some(&word) = self.rest().first_chunk() {
            let input = &mut *self.input;
            input.buffer |= u64::from_le_bytes(word) << input.count;
            input.next += (63 - input.count as usize) / 8;
            input.count |= 56;
            // Bits from `count` on must be zero.
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

    /// Takes the next `count` bits, at most 32, from the buffer.
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

    /// Skips `count` bits of the buffer.
    pub(super) fn skip(&mut self, count: u32) {
        debug_assert!(count <= self.input.count && count < 64);
        self.input.buffer >>= count;
        self.input.count -= count;
    }

    /// Skips the unread bits of the current byte.
    pub(crate) fn align(&mut self) {
        self.skip(self.input.count % 8);
    }

    /// Whether there are no more bits in the stream.
    pub(crate) fn at_end(&mut self) -> Result<bool, Fault> {
        self.refill()?;
        Ok(self.input.count == 0)
    }

    /// Whether the next byte is zero. Call it only after `at_end` has returned `false`.
    pub(crate) fn next_is_zero_byte(&self) -> bool {
        self.input.buffer & 0xff == 0
    }

    /// Copies one or more of the next bytes to `out`: not always as many as fit. Returns their
    /// number. Call it only at the start of a byte.
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

    pub(crate) fn position(&self) -> BitOffset {
        self.input.position()
    }
}
