//! Finds places in the middle of a stream where a block may begin.
//!
//! Only the frontier can tell whether a block really begins there: the bits may look like a header
//! by chance, or belong to a DEFLATE stream that is stored in this one. The search finds neither
//! fixed blocks, which cannot be recognised, nor final blocks, which are of no use.

use std::ops::RangeInclusive;

use crate::{
    BitOffset, ByteOffset, ReadAt,
    inflate::{Bits, Fault, Input, check_header},
};

/// Encoded bytes that one step searches.
const WINDOW: usize = 64 << 10;
/// Bytes that the test of one bit position reads: 17 bits of counts, 57 bits of lengths, and the
/// remainder of the 64-bit words that hold them.
const LOOKAHEAD: usize = 24;

/// A search for block headers in a stream, paused between two steps.
pub(super) struct Finder {
    input: Input,
    /// The bit where the search goes on.
    at: BitOffset,
    bytes: Vec<u8>,
    /// The encoded offset of the first of `bytes`.
    start: ByteOffset,
}

impl Finder {
    /// A search of the stream `encoded` from byte `from` on.
    pub(super) fn new(encoded: std::ops::Range<u64>, from: ByteOffset) -> Self {
        let input = Input::new(encoded);
        Self { input, at: from.bit(), bytes: Vec::new(), start: ByteOffset(0) }
    }

    /// The encoded byte up to which the stream is searched.
    pub(super) fn position(&self) -> ByteOffset {
        self.at.byte()
    }

    /// Searches the next 64 KiB of the stream. If it finds a block, returns all bits at which the
    /// header of this block may begin: a stored block has several, because its header and the
    /// padding to a whole byte are zeros. Decoding starts at the last of them.
    pub(super) fn step(
        &mut self,
        source: &dyn ReadAt,
        encoded: &std::ops::Range<u64>,
    ) -> Result<Option<RangeInclusive<BitOffset>>, Fault> {
        let len = encoded.end - encoded.start;
        // Starts one byte earlier: the header of a stored block may begin in that byte.
        self.start = ByteOffset(self.at.byte().0.saturating_sub(1));
        let count = (len - self.start.0).min((WINDOW + LOOKAHEAD) as u64) as usize;
        if count <= LOOKAHEAD + 1 {
            self.at = ByteOffset(len).bit();
            return Ok(None);
        }
        self.bytes.resize(count, 0);
        let start = encoded.start + self.start.0;
        source.read_exact_at(&mut self.bytes, start).map_err(Fault::Source)?;
        let first = (self.at.0 - self.start.bit().0) as usize;
        for byte in first / 8..count - LOOKAHEAD {
            if let Some(found) = self.stored_at(source, byte)? {
                self.at = self.start.after(byte as u64 + 1).bit();
                return Ok(Some(found));
            }
            let mut candidates = dynamic_candidates(word(&self.bytes, byte));
            if byte == first / 8 {
                candidates &= 0xff << (first % 8);
            }
            while candidates != 0 {
                let bit = byte * 8 + candidates.trailing_zeros() as usize;
                candidates &= candidates - 1;
                let place = BitOffset(self.start.bit().0 + bit as u64);
                if is_complete(&self.bytes, bit) && self.check(source, place)? {
                    self.at = BitOffset(place.0 + 1);
                    return Ok(Some(place..=place));
                }
            }
        }
        self.at = self.start.after((count - LOOKAHEAD) as u64).bit();
        Ok(None)
    }

    /// The bits at which a stored block may begin, if its length fields are at index `byte` of
    /// `bytes`.
    fn stored_at(
        &mut self,
        source: &dyn ReadAt,
        byte: usize,
    ) -> Result<Option<RangeInclusive<BitOffset>>, Fault> {
        let lengths = word(&self.bytes, byte) as u32;
        let before = byte.checked_sub(1).map(|before| self.bytes[before]);
        let zeros = before.map_or(0, |byte| byte.leading_zeros());
        if (lengths ^ lengths >> 16) & 0xffff != 0xffff || zeros < 3 {
            return Ok(None);
        }
        // Two matching length fields may be chance. So another block header must follow the block.
        let at = self.start.after(byte as u64);
        let next = at.after(4 + u64::from(lengths & 0xffff));
        if next.0 >= self.input.len() || !self.check(source, next.bit())? {
            return Ok(None);
        }
        let BitOffset(at) = at.bit();
        Ok(Some(BitOffset(at - u64::from(zeros))..=BitOffset(at - 3)))
    }

    /// Whether the bits at `at` are a valid block header.
    fn check(&mut self, source: &dyn ReadAt, at: BitOffset) -> Result<bool, Fault> {
        let mut bits = Bits::new(&mut self.input, source);
        let checked = bits.seek(at, at.byte().0 + 600).and_then(|()| check_header(&mut bits));
        match checked {
            Ok(()) => Ok(true),
            Err(Fault::Source(error)) => Err(Fault::Source(error)),
            Err(_) => Ok(false),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// Which of the lowest eight bits may be the first bit of a dynamic block that is not the last one:
/// bits 0, 0, 1, and then counts that zlib accepts.
fn dynamic_candidates(word: u64) -> u64 {
    let block = !word & !(word >> 1) & word >> 2;
    // zlib rejects 30 and 31 in the five bits of a count.
    let litlens = word >> 4 & word >> 5 & word >> 6 & word >> 7;
    let distances = word >> 9 & word >> 10 & word >> 11 & word >> 12;
    block & !litlens & !distances & 0xff
}

/// Whether the code length code of a dynamic block that begins at `bit` is complete.
fn is_complete(bytes: &[u8], bit: usize) -> bool {
    let at = bit + 13;
    let word = self::word(bytes, at / 8) >> (at % 8);
    let count = (word & 15) as u32 + 4;
    let at = bit + 17;
    let mut lengths = self::word(bytes, at / 8) >> (at % 8) & ((1 << (3 * count)) - 1);
    let mut sum = 0;
    while lengths != 0 {
        sum += SHARES[(lengths & 0xfff) as usize];
        lengths >>= 12;
    }
    sum == 128
}

/// The share of the code space that four code lengths of three bits take together, in 128ths.
static SHARES: [u16; 4096] = {
    let mut shares = [0; 4096];
    let mut lengths = 0;
    while lengths < 4096 {
        let mut shift = 0;
        while shift < 12 {
            let length = lengths >> shift & 7;
            if length > 0 {
                shares[lengths] += 128 >> length;
            }
            shift += 3;
        }
        lengths += 1;
    }
    shares
};
