//! Decodes the start of a stream, for callers that need only a header.

use std::{mem, ops::Range};

use crate::{
    Error, Format, ReadAt,
    inflate::Output,
    stream::{Pause, Stream},
};

/// Decodes the starts of streams, one after the other, all with the same memory.
pub struct StartDecoder {
    stream: Stream,
    decoded: Vec<u8>,
}

impl StartDecoder {
    /// A decoder of streams with this framing.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { stream: Stream::new(format, 0..0), decoded: Vec::new() }
    }

    /// Decodes the first `len` bytes of the stream in bytes `encoded` of `source`: a few more if a
    /// match ends after them, fewer if the stream is shorter. Checksums are not compared.
    ///
    /// The result is an error if decoding stops before `len` bytes for another reason than the end
    /// of the stream. The bytes before the fault are returned too.
    pub fn decode(
        &mut self,
        source: &dyn ReadAt,
        encoded: Range<u64>,
        len: usize,
    ) -> (&[u8], Result<(), Error>) {
        self.stream.restart(encoded);
        let mut out = Output::new(mem::take(&mut self.decoded), &[]);
        out.grow(len);
        let result = loop {
            match self.stream.decode(source, &mut out, len) {
                Ok(Pause::Limit | Pause::End) => break Ok(()),
                Ok(Pause::Member(_) | Pause::Block) => {}
                Err(fault) => break Err(fault.at(out.len() as u64)),
            }
        };
        let (bytes, range) = out.into_parts();
        self.decoded = bytes;
        (&self.decoded[range], result)
    }
}

impl std::fmt::Debug for StartDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StartDecoder")
    }
}

#[cfg(test)]
mod tests;
