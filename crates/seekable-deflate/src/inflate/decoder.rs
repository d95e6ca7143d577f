//! The decoder of a stream, and the careful loop, which decodes symbol by symbol with all checks.

use super::{
    Bits, Fault, Output, Unit,
    block::{self, Body, Tables},
    fast,
    huffman::{self, DISTANCE_BITS, END_OF_BLOCK, INVALID, LITERAL, LITLEN_BITS, POINTER},
    output::MARGIN,
};
use crate::BitOffset;

/// The place of a decoder in its block. With the offset of the next bit, it is enough to resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before the header of a block.
    BlockHeader,
    /// Between two symbols of a block. The codes of the block are in the header at `header`.
    Coded { header: BitOffset },
    /// In a stored block, `left` bytes before its end. `last` is set in the final block.
    Stored { left: u16, last: bool },
}

/// Why decoding stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The output reached its limit.
    Limit,
    /// The header of the next block is at or after the place given to `halt_at`.
    Block,
    /// The final block ended.
    End,
}

enum State {
    BlockHeader,
    Coded { header: BitOffset, last: bool },
    Stored { left: u16, last: bool },
    Ended,
}

impl State {
    fn after_block(last: bool) -> Self {
        if last { Self::Ended } else { Self::BlockHeader }
    }
}

/// A decoder of one stream. Each call stops between two symbols, and the next one goes on there.
pub(crate) struct Decoder {
    state: State,
    tables: Box<Tables>,
    halt: BitOffset,
    /// How many bytes before a limit the decoder may stop.
    short: usize,
    #[cfg(test)]
    loops: Loops,
}

/// The loops that decode symbols.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loops {
    /// The fastest loops for this processor, and the careful loop for what these leave.
    Best,
    /// The fast loops that run on any processor, and the careful loop for what these leave.
    Portable,
    /// Only the careful loop.
    Careful,
}

impl Decoder {
    /// The most bytes of memory that the tables of a decoder take.
    pub(crate) const MEMORY: usize = size_of::<Tables>() + Tables::FAST_MEMORY;

    /// A decoder at the start of a stream.
    pub(crate) fn new() -> Self {
        Self {
            state: State::BlockHeader,
            tables: Tables::new(),
            halt: BitOffset(u64::MAX),
            short: 0,
            #[cfg(test)]
            loops: Loops::Best,
        }
    }

    /// Makes the decoder use these loops.
    #[cfg(test)]
    pub(crate) fn with(mut self, loops: Loops) -> Self {
        self.loops = loops;
        self.tables.fast.portable = loops == Loops::Portable;
        self
    }

    /// Prepares for the first block of another stream.
    pub(crate) fn start_stream(&mut self) {
        self.state = State::BlockHeader;
    }

    /// Makes later calls stop before each block whose header is at or after `at`.
    pub(crate) fn halt_at(&mut self, at: BitOffset) {
        self.halt = at;
    }

    /// Makes later calls stop shortly before a limit, where the fast loops end. From there to the
    /// limit, the careful loop would need 1/20 of the time that 32 KiB take.
    pub(crate) fn stop_short(&mut self) {
        self.short = fast::OUTPUT_MARGIN;
    }

    /// Resumes at bit `at`, which must be at `place`. Encoded bytes from byte `wanted` on are
    /// probably not needed.
    pub(crate) fn resume(
        &mut self,
        bits: &mut Bits,
        at: BitOffset,
        place: Place,
        wanted: u64,
    ) -> Result<(), Fault> {
        self.state = match place {
            Place::BlockHeader => State::BlockHeader,
            Place::Stored { left, last } => State::Stored { left, last },
            Place::Coded { header } => {
                // Bytes. The longest header has 3 + 14 + 19 * 3 + 316 * 14 bits.
                const LONGEST_HEADER: u64 = 563;
                bits.seek(header, wanted.min(header.0 / 8 + LONGEST_HEADER))?;
                let (last, body) = block::read_header(bits, &mut self.tables)?;
                match body {
                    Body::Coded => State::Coded { header, last },
                    // The source has changed since the checkpoint: the new header is followed.
                    Body::Stored(left) => State::Stored { left, last },
                }
            }
        };
        bits.seek(at, wanted)?;
        if let State::Stored { .. } = self.state {
            // If the source has changed since the checkpoint, `at` may lie within a byte.
            bits.align();
        }
        Ok(())
    }

    /// The place of the decoder in its block. `None` at the end of the stream.
    pub(crate) fn place(&self) -> Option<Place> {
        match self.state {
            State::BlockHeader => Some(Place::BlockHeader),
            State::Coded { header, .. } => Some(Place::Coded { header }),
            State::Stored { left, last } => Some(Place::Stored { left, last }),
            State::Ended => None,
        }
    }

    /// Decodes to the first boundary of symbols at which `out` has `limit` decoded bytes or more.
    /// After a fault, `out` has the bytes before the fault.
    pub(crate) fn decode<T: Unit>(
        &mut self,
        bits: &mut Bits,
        out: &mut Output<T>,
        limit: usize,
    ) -> Result<Stop, Fault> {
        let limit = out.filled - out.len() + limit;
        assert!(limit + MARGIN <= out.bytes.len(), "a buffer without room after its limit");
        loop {
            if let Some(stop) = self.step(bits, out, limit)? {
                return Ok(stop);
            }
        }
    }

    /// Decodes a block header, or symbols or stored bytes to the end of the block or to `limit`.
    /// `limit` is an index in the buffer of `out`.
    #[inline(always)]
    fn step<T: Unit>(
        &mut self,
        bits: &mut Bits,
        out: &mut Output<T>,
        limit: usize,
    ) -> Result<Option<Stop>, Fault> {
        out.sum_blocks();
        match self.state {
            State::Ended => return Ok(Some(Stop::End)),
            State::Stored { left: 0, last } => self.state = State::after_block(last),
            _ if out.filled + self.short >= limit => return Ok(Some(Stop::Limit)),
            State::BlockHeader => {
                let header = bits.position();
                if header >= self.halt {
                    return Ok(Some(Stop::Block));
                }
                let (last, body) = block::read_header(bits, &mut self.tables)?;
                self.state = match body {
                    Body::Stored(left) => State::Stored { left, last },
                    Body::Coded => State::Coded { header, last },
                };
            }
            State::Stored { ref mut left, .. } => {
                let len = (limit - out.filled).min(usize::from(*left));
                let copied = bits.copy_to(&mut out.bytes[out.filled..out.filled + len])?;
                out.filled += copied;
                // At most `len` bytes were copied, and `len` is at most `left`.
                *left -= copied as u16;
            }
            State::Coded { last, .. } => {
                if self.decode_symbols(bits, out, limit)? {
                    self.state = State::after_block(last);
                }
            }
        }
        Ok(None)
    }

    /// Decodes symbols up to `limit` or to the end of the block. Returns `true` at the end of the
    /// block.
    fn decode_symbols<T: Unit>(
        &mut self,
        bits: &mut Bits,
        out: &mut Output<T>,
        limit: usize,
    ) -> Result<bool, Fault> {
        while out.filled + self.short < limit {
            #[cfg(test)]
            let fast = self.loops != Loops::Careful;
            #[cfg(not(test))]
            let fast = true;
            let pace = out.pace(limit, fast::OUTPUT_MARGIN);
            if fast && fast::decode_symbols(bits, &mut self.tables, out, pace) {
                return Ok(true);
            }
            if out.sum_blocks() {
                continue;
            }
            // The fast loop stops near the ends of input and output, and at malformed symbols.
            if out.filled + self.short < limit && decode_symbol(bits, &self.tables, out)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Decodes until the next symbol is in a block of almost only literals, and returns `true`.
    /// Returns `false` at the end of the stream, and close to `limit`. `limit` is an index in the
    /// buffer of `out`.
    pub(super) fn go_to_literals(
        &mut self,
        bits: &mut Bits,
        out: &mut Output,
        limit: usize,
    ) -> Result<bool, Fault> {
        assert!(limit + MARGIN <= out.bytes.len(), "a buffer without room after its limit");
        while out.filled + fast::OUTPUT_MARGIN < limit {
            #[cfg(test)]
            if self.loops == Loops::Careful {
                return Ok(false);
            }
            if let State::Coded { .. } = self.state
                && self.tables.fast.is_of_literals()
            {
                return Ok(true);
            }
            if self.step(bits, out, limit)?.is_some() {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// The decoding tables of the current block.
    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Goes on after a fast loop. If the block has `ended`, goes to the next one. If not, decodes
    /// the symbol at which the loop stopped. `limit` is an index in the buffer of `out`.
    pub(super) fn pass(
        &mut self,
        bits: &mut Bits,
        out: &mut Output,
        limit: usize,
        mut ended: bool,
    ) -> Result<(), Fault> {
        if !ended && !out.sum_blocks() && out.filled < limit {
            ended = decode_symbol(bits, &self.tables, out)?;
        }
        if let State::Coded { last, .. } = self.state
            && ended
        {
            self.state = State::after_block(last);
        }
        Ok(())
    }
}

/// Decodes one symbol with all checks. Returns `true` if it is the end of the block.
fn decode_symbol<T: Unit>(
    bits: &mut Bits,
    tables: &Tables,
    out: &mut Output<T>,
) -> Result<bool, Fault> {
    // A length takes 20 bits at most and a distance 28: one refill is enough for both.
    bits.refill()?;
    let at = bits.position();
    let litlen = next_entry(bits, &tables.litlen, LITLEN_BITS)?;
    if litlen & LITERAL != 0 {
        bits.skip(huffman::consumed(litlen));
        out.bytes[out.filled] = T::from(huffman::value(litlen) as u8);
        out.filled += 1;
        return Ok(false);
    }
    if litlen & END_OF_BLOCK != 0 {
        bits.skip(huffman::consumed(litlen));
        return Ok(true);
    }
    if litlen & INVALID != 0 {
        return Err(Fault::Corrupt { at, what: "invalid literal/length code" });
    }
    let len = huffman::with_extra(litlen, bits.input.buffer);
    bits.skip(huffman::consumed(litlen));

    let at_distance = bits.position();
    let entry = next_entry(bits, &tables.distance, DISTANCE_BITS)?;
    if entry & INVALID != 0 {
        return Err(Fault::Corrupt { at: at_distance, what: "invalid distance code" });
    }
    let distance = huffman::with_extra(entry, bits.input.buffer);
    bits.skip(huffman::consumed(entry));
    if distance > out.filled - out.floor {
        return Err(Fault::Corrupt { at, what: "invalid distance too far back" });
    }
    out.copy_match(distance, len);
    Ok(false)
}

/// The entry for the next bits. If it is in a subtable, consumes the bits that index the main
/// table. The buffer must have been refilled.
fn next_entry(bits: &mut Bits, table: &[u32], index_bits: u32) -> Result<u32, Fault> {
    let index = |buffer: u64, bits: u32| (buffer & ((1 << bits) - 1)) as usize;
    let mut entry = table[index(bits.input.buffer, index_bits)];
    let mut pointer_bits = 0;
    if entry & POINTER != 0 {
        pointer_bits = index_bits;
        let offset = index(bits.input.buffer >> index_bits, huffman::code_length(entry));
        entry = table[huffman::value(entry) + offset];
    }
    // Bits beyond the end of the stream are zero in the buffer. A code that needs them is cut off.
    if pointer_bits + huffman::consumed(entry) > bits.input.count {
        return Err(Fault::Truncated);
    }
    bits.skip(pointer_bits);
    Ok(entry)
}
