//! Errors of reading the bytes of a member. They are cheap to clone, because each waiting read gets
//! one.

use std::{fmt, io, sync::Arc};

use super::Repeats;
use crate::archive::{self, SourceFile};

/// Why bytes of a member cannot be read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub(crate) enum Error {
    /// The archive file was overwritten: its old bytes are gone.
    Overwritten,
    /// The member is truncated or corrupt.
    Damaged(Damage),
    /// The member was read with a saved index that turned out to belong to other bytes.
    Refuted,
    /// The member is encrypted.
    Encrypted,
    /// The member's method cannot be decoded.
    UnsupportedMethod(u16),
    /// Reading the archive or writing a temporary file failed.
    Io(Arc<io::Error>),
}

/// The error of a failed request, and how to log it.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// Why the request failed.
    pub error: Error,
    /// How often the same failure came since its last line in the log. `None` if this failure is
    /// not to be logged.
    pub repeats: Option<Repeats>,
    /// The number of the member in its archive, if a member is the cause.
    pub member: Option<u32>,
}

/// What is wrong with a member.
#[derive(Debug, Clone)]
pub(crate) enum Damage {
    /// The archive contradicts itself, or the member does not match its checksum.
    Archive(Arc<archive::Error>),
    /// The member's DEFLATE stream is damaged.
    Stream(seekable_deflate::Error),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive(error) => error.reason().fmt(f),
            Self::Stream(error) => error.fmt(f),
        }
    }
}

impl Error {
    /// A number for the kind of failure, for [`Reports`](super::Reports).
    pub(crate) fn reason(&self) -> i64 {
        match self {
            Self::Overwritten => -1,
            Self::Damaged(_) => -2,
            Self::Refuted => -3,
            Self::Encrypted => -4,
            Self::UnsupportedMethod(number) => -5 - i64::from(*number),
            Self::Io(error) => match error.raw_os_error() {
                Some(errno) => errno.into(),
                None => 1_000_000 + error.kind() as i64,
            },
        }
    }

    /// Whether the archive was overwritten, so that its old bytes are gone.
    pub(crate) fn is_overwritten(&self) -> bool {
        matches!(self, Self::Overwritten)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overwritten => f.write_str("the archive was overwritten after it was opened"),
            Self::Damaged(damage) => damage.fmt(f),
            Self::Refuted => f.write_str(
                "bytes read of the member may be wrong, because its saved index was: open the file again",
            ),
            Self::Encrypted => f.write_str("the member is encrypted"),
            Self::UnsupportedMethod(number) => {
                write!(f, "compression method {number} is not supported")
            }
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(&**error),
            Self::Damaged(Damage::Archive(error)) => Some(&**error),
            Self::Damaged(Damage::Stream(error)) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        if SourceFile::is_stale(&error) { Self::Overwritten } else { Self::Io(Arc::new(error)) }
    }
}

impl From<archive::Error> for Error {
    fn from(error: archive::Error) -> Self {
        match error {
            archive::Error::Encrypted => Self::Encrypted,
            archive::Error::UnsupportedMethod(number) => Self::UnsupportedMethod(number),
            archive::Error::Io(error) => error.into(),
            damage => Self::Damaged(Damage::Archive(Arc::new(damage))),
        }
    }
}

impl From<seekable_deflate::Error> for Error {
    fn from(error: seekable_deflate::Error) -> Self {
        match error {
            seekable_deflate::Error::Source(error) if SourceFile::is_stale(&error) => {
                Self::Overwritten
            }
            seekable_deflate::Error::Source(error) => Self::Io(error),
            damage => Self::Damaged(Damage::Stream(damage)),
        }
    }
}
