//! Decoding from block to block and from symbol to symbol.

use super::{
    Bits, Fault, Output, Unit,
    block::{self, Body, Tables},
    fast,
    huffman::{self, DISTANCE_BITS, END_OF_BLOCK, INVALID, LITERAL, LITLEN_BITS, POINTER},
    output::MARGIN,
};
use crate::BitOffset;

/// The place of a decoder in its block. With the offset of the next bit it tells where to resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before the header of a block.
    BlockHeader,
    /// Between two symbols of a block. Its codes are in the header at `header`.
    Coded { header: BitOffset },
    /// In a stored block, `left` bytes before its end.
    Stored { left: u16, last: bool },
}

/// Why decoding stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The output reached its limit.
    Limit,
    /// The next block has its header at or after the place to halt at.
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

/// A decoder of one stream. Between two calls it is paused between two symbols.
pub(crate) struct Decoder {
    state: State,
    tables: Box<Tables>,
    halt: BitOffset,
    /// The decoder may stop up to this number of bytes before a limit.
    short: usize,
    #[cfg(test)]
    loops: Loops,
}

/// The loops that decode symbols.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loops {
    /// The fastest ones, and the careful one where those stop.
    Best,
    /// Fast ones that run on any processor.
    Portable,
    /// The careful one.
    Careful,
}

impl Decoder {
    /// Bytes of memory that its tables take.
    pub(crate) const MEMORY: usize = size_of::<Tables>() + Tables::FAST_MEMORY;

    /// At the start of a stream.
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

    /// Decodes with these.
    #[cfg(test)]
    pub(crate) fn with(mut self, loops: Loops) -> Self {
        self.loops = loops;
        self.tables.fast.portable = loops == Loops::Portable;
        self
    }

    /// Goes to the start of a stream.
    pub(crate) fn start_stream(&mut self) {
        self.state = State::BlockHeader;
    }

    /// From now on stops before each block whose header is at or after `at`.
    pub(crate) fn halt_at(&mut self, at: BitOffset) {
        self.halt = at;
    }

    /// From now on stops where the fast loops end, shortly before a limit. The careful loop would
    /// take a twentieth of the time of 32 KiB for the rest.
    pub(crate) fn stop_short(&mut self) {
        self.short = fast::OUTPUT_MARGIN;
    }

    /// Resumes at `at`, which is at `place`. Bytes before byte `wanted` are expected to be needed.
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
                // The longest header has 3 + 14 + 19 * 3 + 316 * 14 bits.
                const LONGEST_HEADER: u64 = 563;
                bits.seek(header, wanted.min(header.0 / 8 + LONGEST_HEADER))?;
                let (last, body) = block::read_header(bits, &mut self.tables)?;
                match body {
                    Body::Coded => State::Coded { header, last },
                    // The source has changed. The header that it has now is followed.
                    Body::Stored(left) => State::Stored { left, last },
                }
            }
        };
        bits.seek(at, wanted)?;
        if let State::Stored { .. } = self.state {
            // In a source that has changed since, `at` may lie within a byte.
            bits.align();
        }
        Ok(())
    }

    /// The place in the block. `None` at the end of the stream.
    pub(crate) fn place(&self) -> Option<Place> {
        match self.state {
            State::BlockHeader => Some(Place::BlockHeader),
            State::Coded { header, .. } => Some(Place::Coded { header }),
            State::Stored { left, last } => Some(Place::Stored { left, last }),
            State::Ended => None,
        }
    }

    /// Decodes to the first boundary of symbols at which `out` has `limit` bytes or more. Bytes
    /// before a fault are in `out`.
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

    /// Decodes a header, or what follows it up to the end of the block or to `limit`, which is a
    /// place in `out`.
    #[inline(always)]
    fn step<T: Unit>(
        &mut self,
        bits: &mut Bits,
        out: &mut Output<T>,
        limit: usize,
    ) -> Result<Option<Stop>, Fault> {
        out.sum_piece();
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
                // No more than was asked for, which was no more than `left`.
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

    /// Decodes symbols up to `limit` or to the end of the block. `true` at the end of the block.
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
            if out.sum_piece() {
                continue;
            }
            // The fast loop stops near the ends of input and output, and at malformed symbols.
            if out.filled + self.short < limit && decode_symbol(bits, &self.tables, out)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Decodes until a block of literals is next, or within one; `false` at the end of the stream,
    /// and close to `limit`, which is a place in `out`.
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

    /// The codes of the block.
    pub(super) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Goes on where a fast loop stopped: behind its block if that has `ended`, else over what
    /// those loops leave. `limit` is a place in `out`.
    pub(super) fn pass(
        &mut self,
        bits: &mut Bits,
        out: &mut Output,
        limit: usize,
        mut ended: bool,
    ) -> Result<(), Fault> {
        if !ended && !out.sum_piece() && out.filled < limit {
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

/// Decodes one symbol with all checks. `true` at the end of the block.
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

/// The entry for the next bits, those of the pointer to its subtable consumed. The buffer must
/// have been refilled.
fn next_entry(bits: &mut Bits, table: &[u32], index_bits: u32) -> Result<u32, Fault> {
    let index = |buffer: u64, bits: u32| (buffer & ((1 << bits) - 1)) as usize;
    let mut entry = table[index(bits.input.buffer, index_bits)];
    let mut pointer_bits = 0;
    if entry & POINTER != 0 {
        pointer_bits = index_bits;
        let offset = index(bits.input.buffer >> index_bits, huffman::code_length(entry));
        entry = table[huffman::value(entry) + offset];
    }
    // Beyond the end of the stream the buffer is zero. A code that needs those bits is cut off.
    if pointer_bits + huffman::consumed(entry) > bits.input.count {
        return Err(Fault::Truncated);
    }
    bits.skip(pointer_bits);
    Ok(entry)
}
