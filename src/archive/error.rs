//! Why an archive or a member cannot be used.

use std::{fmt, io};

/// Why an archive or a member cannot be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No end of central directory record: still being written, or not a zip.
    Pending(String),
    /// Not what it claims to be.
    Corrupt(String),
    /// The member is encrypted.
    Encrypted,
    /// The member's method is not one that can be decoded.
    UnsupportedMethod(u16),
    /// Reading the file failed, or it was overwritten (`SourceFile::is_stale`).
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending(reason) => write!(f, "pending: {reason}"),
            Self::Corrupt(reason) => write!(f, "corrupt: {reason}"),
            Self::Encrypted => f.write_str("encrypted: there is no key to decode it with"),
            Self::UnsupportedMethod(method) => {
                write!(f, "unsupported: no decoder for compression method {method}")
            }
            Self::Io(error) => write!(f, "unreadable: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
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
}
