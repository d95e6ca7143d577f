//! How to read a stream.

/// What surrounds the DEFLATE data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Nothing: one stream of RFC 1951 blocks. Bytes after its final block are ignored.
    Deflate,
    /// One or more gzip members (RFC 1952), each with a header and a checked trailer; zero bytes
    /// may follow each.
    Gzip,
}

/// How to read a stream.
#[derive(Debug, Clone)]
pub struct Options {
    /// What surrounds the data.
    pub format: Format,
    /// Decoded distance aimed at between checkpoints, in bytes; at least 1. A quarter of the
    /// budget is used at most.
    pub spacing: u64,
    /// Length of the decoded bytes, if it is known beforehand; checked. A gzip stream may go on:
    /// the bytes after this length are not read, nor the checksum after them.
    pub decoded_len: Option<u64>,
    /// CRC-32 of all decoded bytes, if it is known beforehand; checked when the end is reached.
    pub crc32: Option<u32>,
}
