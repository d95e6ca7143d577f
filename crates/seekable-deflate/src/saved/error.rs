//! Why a saved index is of no use.

use std::{fmt, io};

/// Why a saved index is of no use. The stream can be read without it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum IndexError {
    /// The bytes are not an index.
    Foreign,
    /// This version of the format is not known to this crate.
    Version(u32),
    /// The bytes cannot be read.
    Unreadable(io::ErrorKind),
    /// The index is damaged. Says what is wrong.
    Corrupt(&'static str),
    /// The index is of another stream, or of one that was promised other decoded bytes. Says what
    /// differs.
    OtherStream(&'static str),
    /// The index reaches further than the reader has decoded, and one that did so before was wrong.
    Distrusted,
    /// The index divides the stream into other spans than the reader has already.
    OtherSpans,
    /// A span is longer than this reader's memory allows.
    SpanTooLong {
        /// Length of the span in decoded bytes.
        len: u64,
        /// The most that the reader takes, in bytes.
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
            // The bytes end before the range that the caller gave.
            io::ErrorKind::UnexpectedEof => Self::Corrupt("cut off"),
            kind => Self::Unreadable(kind),
        }
    }
}
