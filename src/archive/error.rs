//! Why an archive or a member cannot be used.

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
    Io(std::io::Error),
}
