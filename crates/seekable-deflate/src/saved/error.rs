//! Why a saved index is of no use.

use std::{fmt, io};

/// Why a saved index is of no use. The stream can be read without it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum IndexError {
    /// No index: other bytes.
    Foreign,
    /// Of a version of the format that this crate does not know.
    Version(u32),
    /// Its bytes cannot be read.
    Unreadable(io::ErrorKind),
    /// Damaged: this is wrong with it.
    Corrupt(&'static str),
    /// Of another stream, or one that was promised other decoded bytes: this differs.
    OtherStream(&'static str),
    /// It says more than the reader has found out, and one that did so before was wrong.
    Distrusted,
    /// It divides the stream into other spans than the reader already has.
    OtherSpans,
    /// A span is longer than a reader with so little memory may decode at once.
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
            // It is shorter than it was said to be.
            io::ErrorKind::UnexpectedEof => Self::Corrupt("cut off"),
            kind => Self::Unreadable(kind),
        }
    }
}
