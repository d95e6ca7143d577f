//! Errors of saved indexes.

use std::{fmt, io};

/// Why a saved index cannot be used. The stream can be read without it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum IndexError {
    /// The bytes are not an index.
    Foreign,
    /// This crate does not know the index's version of the format.
    Version(u32),
    /// The bytes cannot be read.
    Unreadable(io::ErrorKind),
    /// The index is damaged. The text names the damaged part.
    Corrupt(&'static str),
    /// The index belongs to another stream, or to one with another promised length or checksum. The
    /// text names the difference.
    OtherStream(&'static str),
    /// The index reaches farther than the reader has decoded, and an earlier such index was wrong.
    Distrusted,
    /// The index divides the stream into other spans than the reader does, or the reader has found
    /// the stream damaged.
    OtherSpans,
    /// A span is longer than this reader's memory allows.
    SpanTooLong {
        /// Length of the span in decoded bytes.
        len: u64,
        /// The longest span that the reader allows, in decoded bytes.
        most: u64,
    },
}

impl fmt::Display for IndexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("not an index"),
            Self::Version(version) => write!(f, "index of unknown version {version}"),
            Self::Unreadable(why) => write!(f, "the index cannot be read: {why}"),
            Self::Corrupt(what) => write!(f, "corrupt index: {what}"),
            Self::OtherStream(what) => write!(f, "index of another stream: {what} differs"),
            Self::Distrusted => f.write_str("an index of this stream was wrong before"),
            Self::OtherSpans => f.write_str("the index divides the stream into other spans"),
            Self::SpanTooLong { len, most } => {
                write!(f, "the index has a span of {len} bytes, more than {most} at once")
            }
        }
    }
}

impl std::error::Error for IndexError {}

impl From<io::Error> for IndexError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The source ends before the range that the caller gave.
            io::ErrorKind::UnexpectedEof => Self::Corrupt("cut off"),
            kind => Self::Unreadable(kind),
        }
    }
}
