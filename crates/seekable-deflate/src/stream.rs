//! Decodes a DEFLATE stream with its framing, from encoded bytes into an output buffer.

use std::ops::Range;

use crate::{
    BitOffset, Format, ReadAt,
    gzip::{self, Trailer},
    inflate::{self, Bits, Decoder, Fault, Input, Output, Place, Side, Stop, Unit},
};

/// Why decoding stopped.
#[derive(Debug)]
pub(crate) enum Pause {
    /// The output reached its limit.
    Limit,
    /// The next block has its header at or after the place set by `halt_at`.
    Block,
    /// A gzip member ended with this trailer, which is not checked yet.
    Member(Trailer),
    /// The stream has ended.
    End,
}

enum Phase {
    FirstHeader,
    NextHeader,
    Blocks,
    Ended,
}

impl Phase {
    fn first(format: Format) -> Self {
        match format {
            Format::Deflate => Self::Blocks,
            Format::Gzip => Self::FirstHeader,
        }
    }
}

/// A stream that is being decoded, paused between two symbols.
pub(crate) struct Stream {
    format: Format,
    input: Input,
    decoder: Decoder,
    phase: Phase,
}

impl Stream {
    /// A stream at its start.
    pub(crate) fn new(format: Format, encoded: Range<u64>) -> Self {
        let (input, decoder, phase) = (Input::new(encoded), Decoder::new(), Phase::first(format));
        Self { format, input, decoder, phase }
    }

    /// Moves to the start of another stream with the same framing.
    pub(crate) fn restart(&mut self, encoded: Range<u64>) {
        self.input = Input::new(encoded);
        self.decoder.start_stream();
        self.phase = Phase::first(self.format);
    }

    /// The place of the next bit to decode.
    pub(crate) fn position(&self) -> BitOffset {
        self.input.position()
    }

    /// The place in the DEFLATE block. `None` outside of blocks.
    pub(crate) fn place(&self) -> Option<Place> {
        match self.phase {
            Phase::Blocks => self.decoder.place(),
            _ => None,
        }
    }

    /// Bytes of memory that the stream holds.
    pub(crate) fn memory(&self) -> usize {
        self.input.memory() + size_of::<Self>() + Decoder::MEMORY
    }

    /// From now on, stops before each block whose header is at or after `at`.
    pub(crate) fn halt_at(&mut self, at: BitOffset) {
        self.decoder.halt_at(at);
    }

    /// Moves to bit `at`, which is at `place`. The caller expects to need the encoded bytes before
    /// byte `wanted`.
    pub(crate) fn resume(
        &mut self,
        source: &dyn ReadAt,
        at: BitOffset,
        place: Place,
        wanted: u64,
    ) -> Result<(), Fault> {
        self.phase = Phase::Blocks;
        let mut bits = Bits::new(&mut self.input, source);
        self.decoder.resume(&mut bits, at, place, wanted)
    }

    /// Decodes to the first boundary of symbols at which `out` holds `limit` bytes or more, unless
    /// another `Pause` comes first. After a fault, `out` has the bytes before the fault.
    pub(crate) fn decode<T: Unit>(
        &mut self,
        source: &dyn ReadAt,
        out: &mut Output<T>,
        limit: usize,
    ) -> Result<Pause, Fault> {
        let mut bits = Bits::new(&mut self.input, source);
        loop {
            match self.phase {
                Phase::Ended => return Ok(Pause::End),
                Phase::NextHeader if gzip::skip_padding(&mut bits)? => self.phase = Phase::Ended,
                Phase::FirstHeader | Phase::NextHeader => {
                    gzip::read_header(&mut bits)?;
                    out.start_stream();
                    self.decoder.start_stream();
                    self.phase = Phase::Blocks;
                }
                Phase::Blocks => match (self.decoder.decode(&mut bits, out, limit)?, self.format) {
                    (Stop::Limit, _) => return Ok(Pause::Limit),
                    (Stop::Block, _) => return Ok(Pause::Block),
                    (Stop::End, Format::Deflate) => self.phase = Phase::Ended,
                    (Stop::End, Format::Gzip) => {
                        let trailer = gzip::read_trailer(&mut bits)?;
                        self.phase = Phase::NextHeader;
                        return Ok(Pause::Member(trailer));
                    }
                },
            }
        }
    }
}

/// Decodes two streams at once in one thread, as far as that is faster than one after the other:
/// each into its own output, up to its own limit at most. Unless there was a fault, the caller
/// decodes the remaining bytes with `decode`.
pub(crate) fn decode_pair(
    source: &dyn ReadAt,
    streams: [(&mut Stream, &mut Output, usize); 2],
) -> [Result<(), Fault>; 2] {
    if !streams.iter().all(|(stream, ..)| matches!(stream.phase, Phase::Blocks)) {
        return [Ok(()), Ok(())];
    }
    inflate::decode_pair(&mut streams.map(|(stream, out, limit)| {
        let bits = Bits::new(&mut stream.input, source);
        Side { decoder: &mut stream.decoder, bits, out, limit }
    }))
}
