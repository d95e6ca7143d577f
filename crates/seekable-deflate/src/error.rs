//! What can go wrong.

use std::{fmt, io, sync::Arc};

/// A position in the encoded stream, in bits from its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitOffset(pub u64);

impl BitOffset {
    /// The byte that has the bit.
    pub(crate) fn byte(self) -> ByteOffset {
        ByteOffset(self.0 / 8)
    }
}

/// A position in the encoded stream, in bytes from its first. (A plain `u64` that is an offset is
/// one in the decoded bytes.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct ByteOffset(pub(crate) u64);

impl ByteOffset {
    /// Behind every stream.
    pub(crate) const MAX: Self = Self(u64::MAX);

    /// The first bit of the byte.
    pub(crate) fn bit(self) -> BitOffset {
        BitOffset(self.0.saturating_mul(8))
    }

    /// The byte that lies `len` bytes further on.
    pub(crate) fn after(self, len: u64) -> Self {
        Self(self.0.saturating_add(len))
    }
}

/// Why decoded bytes cannot be had. Cheap to clone: every reader that waits gets its own.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// The stream is not valid DEFLATE (or gzip framing) here.
    Corrupt {
        /// Where in the encoded stream.
        at: BitOffset,
        /// What zlib would say.
        what: &'static str,
    },
    /// The encoded bytes stop before the final block does.
    Truncated {
        /// Bytes that could be decoded before the end.
        decoded: u64,
    },
    /// The bytes decode to something else than the caller said, or than they once did.
    Checksum {
        /// First decoded byte that the checksum covers.
        start: u64,
        /// End of the decoded bytes that it covers.
        end: u64,
        /// CRC-32 that was promised.
        expected: u32,
        /// CRC-32 of what was decoded.
        found: u32,
    },
    /// The stream decodes to more or fewer bytes than the caller said, or a gzip member to
    /// another number than its trailer says (modulo 2^32).
    Length {
        /// Decoded length that was promised, in bytes.
        expected: u64,
        /// What was found; for a stream that is too long, where decoding stopped.
        found: u64,
    },
    /// The saved index that was adopted does not fit the stream: it is of another content, or the
    /// stream is damaged. It is dropped. Not remembered: the next read decodes from the start, and
    /// finds out.
    StaleIndex,
    /// Reading the encoded bytes failed. Not remembered: the next read tries again.
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
