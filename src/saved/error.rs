//! Why a saved file cannot be used or written.

use std::{fmt, io};

/// Why a saved file cannot be used or written.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Others may write it: whose it is, and its mode.
    Untrusted {
        /// User who owns it.
        owner: u32,
        /// Permission bits.
        mode: u32,
    },
    /// What the filesystem said.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted { owner, mode } => {
                write!(f, "it belongs to user {owner} with mode {mode:03o}: others may write it")
            }
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Untrusted { .. } => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
