//! The errors of reading a stream, and offsets in the encoded stream.

use std::{fmt, io, sync::Arc};

/// A position in the encoded stream, in bits from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitOffset(pub u64);

impl BitOffset {
    /// The byte that holds this bit.
    pub(crate) fn byte(self) -> ByteOffset {
        ByteOffset(self.0 / 8)
    }
}

/// A position in the encoded stream, in bytes from its start. (An offset that is a plain `u64`
/// counts decoded bytes.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct ByteOffset(pub(crate) u64);

impl ByteOffset {
    /// After the end of every stream.
    pub(crate) const MAX: Self = Self(u64::MAX);

    /// The first bit of this byte.
    pub(crate) fn bit(self) -> BitOffset {
        BitOffset(self.0.saturating_mul(8))
    }

    /// The offset `len` bytes later.
    pub(crate) fn after(self, len: u64) -> Self {
        Self(self.0.saturating_add(len))
    }
}

/// Why decoded bytes cannot be read. Cheap to clone: every waiting reader gets its own copy.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// The stream is not valid DEFLATE (or gzip framing) here.
    Corrupt {
        /// The place of the fault in the encoded stream.
        at: BitOffset,
        /// The fault, in the words of zlib.
        what: &'static str,
    },
    /// The encoded bytes end before the final block does.
    Truncated {
        /// Number of bytes decoded before the cut.
        decoded: u64,
    },
    /// The decoded bytes differ from the checksum that the caller or a gzip trailer gave, or from
    /// an earlier decode of the same bytes.
    Checksum {
        /// Decoded offset of the first byte that the checksum covers.
        start: u64,
        /// Decoded offset of the end of the bytes that the checksum covers.
        end: u64,
        /// The expected CRC-32.
        expected: u32,
        /// The CRC-32 of the decoded bytes.
        found: u32,
    },
    /// The stream decodes to more or fewer bytes than the caller promised, or a gzip member to
    /// another number than its trailer has (modulo 2^32).
    Length {
        /// The expected decoded length, in bytes.
        expected: u64,
        /// The decoded length that was found, in bytes. If the stream is too long, the length at
        /// which decoding stopped.
        found: u64,
    },
    /// The adopted index does not match the stream: the index belongs to other content, or the
    /// stream is damaged. The index is dropped. This error is not remembered: the next read decodes
    /// from the start, and reports damage if there is any.
    StaleIndex,
    /// Reading the encoded bytes failed. This error is not remembered: the next read tries again.
    Source(Arc<io::Error>),
    /// Writing an index failed.
    Sink(Arc<io::Error>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt { at, what } => {
                write!(f, "corrupt stream at byte {} bit {}: {what}", at.0 / 8, at.0 % 8)
            }
            Self::Truncated { decoded } => {
                write!(f, "the stream is cut off after {decoded} decoded bytes")
            }
            Self::Checksum { start, end, expected, found } => write!(
                f,
                "CRC-32 of decoded bytes {start}..{end} is {found:08x}, not {expected:08x}"
            ),
            Self::Length { expected, found } => {
                write!(f, "the stream decodes to {found} bytes, not {expected}")
            }
            Self::StaleIndex => f.write_str("the stream does not decode as its saved index says"),
            Self::Source(error) => write!(f, "cannot read the encoded bytes: {error}"),
            Self::Sink(error) => write!(f, "cannot write the index: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Source(error) | Self::Sink(error) => Some(&**error),
            _ => None,
        }
    }
}
