//! Why a saved file cannot be used or written.

use std::{fmt, io};

use seekable_deflate::IndexError;

/// Why a saved file cannot be used or written.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The file is not one of ours, has an unknown version, or is damaged: what is wrong.
    Unfit(&'static str),
    /// The index of a stream in it cannot be used.
    Index(IndexError),
    /// Other users may write it: its owner and its mode.
    Untrusted {
        /// User who owns it.
        owner: u32,
        /// Permission bits.
        mode: u32,
    },
    /// It would take more than all files may.
    TooLarge {
        /// Its length in bytes.
        len: u64,
        /// What all files may take, in bytes.
        limit: u64,
    },
    /// The stream that is being saved could not be read.
    Stream(seekable_deflate::Error),
    /// What the filesystem said.
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
