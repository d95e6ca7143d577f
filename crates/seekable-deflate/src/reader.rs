//! Reads of decoded bytes at any offset.

use std::{ops::Range, sync::Arc};

use crate::{Error, Memory, ReadAt};

/// What surrounds the DEFLATE data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Nothing: one stream of RFC 1951 blocks.
    Deflate,
    /// One or more gzip members (RFC 1952), each with a header and a checked trailer; zero bytes
    /// may follow the last.
    Gzip,
}

/// How to read a stream.
#[derive(Debug, Clone)]
pub struct Options {
    /// What surrounds the data.
    pub format: Format,
    /// Decoded distance aimed at between checkpoints, in bytes; at least 1.
    pub spacing: u64,
    /// Length of the decoded bytes, if it is known beforehand; checked.
    pub decoded_len: Option<u64>,
    /// CRC-32 of all decoded bytes, if it is known beforehand; checked when the end is reached.
    pub crc32: Option<u32>,
}

/// Decoded bytes of a DEFLATE stream, at any offset, for many threads at once.
#[derive(Debug)]
pub struct DeflateReader<R> {
    _source: R,
}

/// Decoded bytes from one checkpoint to the next; shared, never changed.
#[derive(Debug, Clone)]
pub struct Span {
    start: u64,
    bytes: Arc<Vec<u8>>,
}

impl Span {
    /// Decoded offset of the first byte.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The decoded bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl<R: ReadAt> DeflateReader<R> {
    /// A reader of the encoded bytes `encoded` of `source`. Nothing is read yet.
    pub fn new(source: R, encoded: Range<u64>, options: Options, memory: Arc<Memory>) -> Self {
        let _ = (encoded, options, memory);
        Self { _source: source }
    }

    /// Fills `buf` with decoded bytes from `offset`; fewer only at the end of the stream.
    ///
    /// # Errors
    /// See [`Error`]. Bytes before damage stay readable.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        let _ = (buf, offset);
        todo!()
    }

    /// The span that holds decoded byte `offset`, decoding it, and all before it if it lies
    /// ahead of the frontier; `None` at and after the end of the stream.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn span_at(&self, offset: u64) -> Result<Option<Span>, Error> {
        let _ = offset;
        todo!()
    }

    /// The span that holds decoded byte `offset`, if it is decoded already. Never blocks on
    /// decoding.
    pub fn cached_span_at(&self, offset: u64) -> Option<Span> {
        let _ = offset;
        todo!()
    }

    /// How far the stream has been decoded once, in decoded bytes.
    pub fn frontier(&self) -> u64 {
        todo!()
    }

    /// The damage that makes the stream as a whole unfit, once it is known.
    pub fn damage(&self) -> Option<Error> {
        todo!()
    }

    /// Bytes that the checkpoints and their windows take.
    pub fn index_bytes(&self) -> u64 {
        todo!()
    }
}
