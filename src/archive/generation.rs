//! One version of a file.

/// What tells one version of a file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation {
    /// Device the file lies on.
    pub dev: u64,
    /// Inode number there.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Last change of the data, seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// Last change of data or attributes, seconds and nanoseconds since 1970.
    pub ctime: (i64, u32),
}
