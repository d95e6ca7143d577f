//! One member.

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
    /// Any other, by its number.
    Other(u16),
}

/// Index of a member in its archive, in central directory order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u32);

/// What the central directory says of a member.
#[derive(Debug)]
pub struct Member {
    /// How it is encoded.
    pub method: Method,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Bytes in the archive.
    pub encoded_size: u64,
    /// Bytes when decoded.
    pub size: u64,
    /// CRC-32 of the decoded bytes.
    pub crc32: u32,
    /// Where the local file header is, in bytes from the start of the file.
    pub header_offset: u64,
}
