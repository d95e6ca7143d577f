//! One member.

use std::fmt;

/// How a member is encoded (APPNOTE 4.4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// As it is.
    Stored,
    /// RFC 1951.
    Deflated,
    /// Method 9.
    Deflate64,
    /// Method 12.
    Bzip2,
    /// Method 14.
    Lzma,
    /// Method 95.
    Xz,
    /// Method 93.
    Zstd,
    /// RFC 1952: not in a zip, but a file of its own.
    Gzip,
    /// Any other, by its number.
    Other(u16),
}

impl Method {
    /// The method with this number.
    #[must_use]
    pub fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Stored,
            8 => Self::Deflated,
            9 => Self::Deflate64,
            12 => Self::Bzip2,
            14 => Self::Lzma,
            93 => Self::Zstd,
            95 => Self::Xz,
            other => Self::Other(other),
        }
    }
}

/// The name as documentation and tools spell it: `stored`, `deflated`, `method 97`.
impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stored => "stored",
            Self::Deflated => "deflated",
            Self::Deflate64 => "deflate64",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Gzip => "gzip",
            Self::Other(number) => return write!(f, "method {number}"),
        })
    }
}

/// Index of a member in its archive, in central directory order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u32);

impl MemberId {
    /// The member of a container that has one and no directories.
    pub const ONLY: Self = Self(0);
}

/// The most decoded bytes that DEFLATE makes of one byte: a length of 258 for a code of one bit
/// and a distance for another.
pub(super) const MAX_DEFLATE_RATIO: u64 = 1032;

/// What a container says of a member.
#[derive(Debug)]
pub struct Member {
    /// How it is encoded.
    pub method: Method,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Bytes in the archive.
    pub encoded_size: u64,
    /// Bytes when decoded; at most `i64::MAX`, the largest size that Linux has for a file.
    pub size: u64,
    /// CRC-32 of the decoded bytes, if the container says it.
    pub crc32: Option<u32>,
    /// Where the local file header is, or the member itself if it has none. In bytes from the start
    /// of the file.
    pub header_offset: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_without_a_decoder_is_named_by_its_number() {
        assert_eq!(Method::from_number(93).to_string(), "zstd");
        assert_eq!(Method::from_number(97).to_string(), "method 97");
    }
}
