//! One member of a container.

use std::fmt;

/// How a member is encoded (APPNOTE 4.4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Not compressed.
    Stored,
    /// DEFLATE (RFC 1951), method 8.
    Deflated,
    /// Deflate64, method 9.
    Deflate64,
    /// bzip2, method 12.
    Bzip2,
    /// LZMA, method 14.
    Lzma,
    /// xz, method 95.
    Xz,
    /// Zstandard, method 93.
    Zstd,
    /// gzip (RFC 1952): not a method of zip; the whole file is the member.
    Gzip,
    /// Any other method, by its number.
    Other(u16),
}

impl Method {
    /// The method with this number.
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

/// The usual name of the method: `stored`, `deflated`, `method 97`.
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
    /// The member of a container that has only one member and no directories.
    pub const ONLY: Self = Self(0);
}

/// The most decoded bytes for one byte of DEFLATE: each match decodes to at most 258 bytes and
/// takes at least two bits, one for its length and one for its distance.
pub(super) const MAX_DEFLATE_RATIO: u64 = 1032;

/// The properties of a member, from its container.
#[derive(Debug)]
pub struct Member {
    /// How the member is encoded.
    pub method: Method,
    /// Whether the member is encrypted.
    pub encrypted: bool,
    /// Size of the encoded member in bytes.
    pub encoded_size: u64,
    /// Size of the decoded member in bytes. At most `i64::MAX`, the largest size of a file on
    /// Linux.
    pub size: u64,
    /// CRC-32 of the decoded bytes, if the container has one for the whole member.
    pub crc32: Option<u32>,
    /// Where the local file header starts; if the format has none, where the encoded member starts.
    /// In bytes from the start of the file.
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
