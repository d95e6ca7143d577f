//! Errors of reading and writing saved files.

use std::{fmt, io};

use seekable_deflate::IndexError;

/// Why a saved file cannot be used or written.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The file is not one of npzfs, has an unknown version, or is damaged. The text is the reason.
    Unfit(&'static str),
    /// The index of a stream in the file cannot be used.
    Index(IndexError),
    /// Other users may write the file or its directory.
    Untrusted {
        /// User number of the owner.
        owner: u32,
        /// Permission bits.
        mode: u32,
    },
    /// The new file would take more bytes than all files may take together.
    TooLarge {
        /// Length of the new file in bytes.
        len: u64,
        /// Limit for all files together, in bytes.
        limit: u64,
    },
    /// The stream that is being saved could not be read.
    Stream(seekable_deflate::Error),
    /// The filesystem returned this error.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfit(what) => f.write_str(what),
            Self::Index(error) => write!(f, "{error}"),
            Self::Untrusted { owner, mode } => {
                write!(f, "it belongs to user {owner} with mode {mode:03o}: others may write it")
            }
            Self::TooLarge { len, limit } => {
                write!(f, "it takes {len} bytes, and the directory may have {limit}")
            }
            Self::Stream(error) => write!(f, "{error}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Index(error) => Some(error),
            Self::Stream(error) => Some(error),
            Self::Io(error) => Some(error),
            Self::Unfit(_) | Self::Untrusted { .. } | Self::TooLarge { .. } => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<seekable_deflate::Error> for Error {
    fn from(error: seekable_deflate::Error) -> Self {
        Self::Stream(error)
    }
}

impl From<IndexError> for Error {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}
