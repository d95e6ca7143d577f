//! The errors of parsing archives and of decoding members.

use std::{fmt, io};

use super::Method;

/// Why an archive or a member cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The file has no end of central directory record: it is still being written, or not a zip.
    Pending(String),
    /// The structures of the file are damaged or contradict each other.
    Corrupt(String),
    /// The encoded bytes of a member decode to fewer bytes than the member should have.
    Short {
        /// How many bytes the encoded bytes decode to.
        decoded: u64,
        /// How many bytes the member should have.
        size: u64,
    },
    /// The CRC-32 of a member's decoded bytes differs from the one in the central directory.
    Checksum {
        /// CRC-32 of the decoded bytes.
        found: u32,
        /// CRC-32 in the central directory.
        expected: u32,
    },
    /// The encoded bytes of a member are not a valid stream of its method.
    Undecodable {
        /// How the member is encoded.
        method: Method,
        /// How many bytes were decoded before the fault.
        decoded: u64,
        /// The decoder's error.
        cause: io::Error,
    },
    /// The member is encrypted.
    Encrypted,
    /// The member's method is not one that can be decoded.
    UnsupportedMethod(u16),
    /// Reading the file failed, or it was overwritten (`SourceFile::is_stale`).
    Io(io::Error),
}

/// The longest reason that is remembered, in bytes. There may be thousands of files with a reason.
const LONGEST_REASON: usize = 200;

impl Error {
    /// The reason alone, without the word for the state ("corrupt", "pending") that `Display` puts
    /// before it.
    pub fn reason(&self) -> impl fmt::Display {
        fmt::from_fn(move |f| match self {
            Self::Pending(reason) | Self::Corrupt(reason) => f.write_str(reason),
            Self::Short { decoded, size } => {
                write!(f, "it ends after {decoded} of {size} decoded bytes")
            }
            Self::Checksum { found, expected } => {
                write!(f, "its CRC-32 is {found:08x}, the central directory says {expected:08x}")
            }
            Self::Undecodable { method, decoded, cause } => {
                write!(f, "{method} after {decoded} decoded bytes: {cause}")
            }
            Self::Encrypted => f.write_str("there is no key to decode it with"),
            Self::UnsupportedMethod(method) => {
                write!(f, "no decoder for compression method {method}")
            }
            Self::Io(error) => write!(f, "{error}"),
        })
    }

    /// The same error, with at most 200 bytes of text.
    pub fn shortened(mut self) -> Self {
        if let Self::Pending(reason) | Self::Corrupt(reason) = &mut self {
            let is_end = |at: &usize| reason.is_char_boundary(*at);
            let len = (0..=LONGEST_REASON).rev().find(is_end).unwrap_or(0);
            reason.truncate(len);
            reason.shrink_to_fit();
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self {
            Self::Pending(_) => "pending",
            Self::Corrupt(_)
            | Self::Short { .. }
            | Self::Checksum { .. }
            | Self::Undecodable { .. } => "corrupt",
            Self::Encrypted => "encrypted",
            Self::UnsupportedMethod(_) => "unsupported",
            Self::Io(_) => "unreadable",
        };
        write!(f, "{state}: {}", self.reason())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) | Self::Undecodable { cause: error, .. } => Some(error),
            _ => None,
        }
    }
}

/// The message of `error` without Rust's suffix "(os error 2)".
#[must_use]
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn an_error_is_one_sentence_with_its_numbers_and_keeps_its_cause() {
        let cause = io::Error::from_raw_os_error(5);
        for (error, text) in [
            (Error::Pending("no end".into()), "pending: no end"),
            (Error::Corrupt("7 bytes of 9".into()), "corrupt: 7 bytes of 9"),
            (Error::Short { decoded: 7, size: 9 }, "corrupt: it ends after 7 of 9 decoded bytes"),
            (
                Error::Checksum { found: 1, expected: 0xABCD },
                "corrupt: its CRC-32 is 00000001, the central directory says 0000abcd",
            ),
            (Error::Encrypted, "encrypted: there is no key to decode it with"),
            (Error::UnsupportedMethod(97), "unsupported: no decoder for compression method 97"),
        ] {
            assert_eq!(error.to_string(), text);
            assert!(error.source().is_none());
        }
        let error = Error::from(cause);
        assert!(error.to_string().starts_with("unreadable: "), "{error}");
        let source = error.source().and_then(|e| e.downcast_ref::<io::Error>());
        assert_eq!(source.and_then(io::Error::raw_os_error), Some(5));
    }

    #[test]
    fn a_remembered_reason_is_short_and_of_whole_characters() {
        let error = Error::Corrupt("\u{e9}".repeat(5000) + "x").shortened();
        assert_eq!(error.reason().to_string(), "\u{e9}".repeat(100));
    }
}
