//! The options of a reader.

/// The framing of the DEFLATE data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// No framing: one stream of RFC 1951 blocks. Bytes after the final block are ignored.
    Deflate,
    /// One or more gzip members (RFC 1952), each with a header and a checked trailer; zero bytes
    /// may follow each.
    Gzip,
}

/// What the caller knows of a stream, and how far apart its checkpoints are to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// The framing of the data.
    pub format: Format,
    /// Decoded bytes aimed at between two checkpoints, at least 1. Cut to a quarter of the memory
    /// budget (or 64 KiB if that is more) and to 64 MiB. Doubles when checkpoints become many.
    pub spacing: u64,
    /// Length of the decoded bytes, if it is known beforehand; the reader checks it. A gzip stream
    /// may be longer: decoding then stops soon after this length, and compares no later trailer.
    pub decoded_len: Option<u64>,
    /// CRC-32 of all decoded bytes, if it is known beforehand; the reader checks it at the end of
    /// the stream.
    pub crc32: Option<u32>,
}
