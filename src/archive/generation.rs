//! One version of a file.

use std::{fs::File, io};

/// What tells one version of a file from the next.
///
/// A change is seen only if it moves a time. Since Linux 6.13 the kernel gives a file that was
/// looked at (fstat) a fine-grained time at its next change, so no change after a look can hide.
/// Before, times advance by ticks of 1 to 10 ms: a writer that changes the file twice in one
/// tick, keeping its size, leaves the times of the first change, and a look between the two
/// cannot tell.
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

impl Generation {
    /// The generation an open file has now: one fstat(2).
    ///
    /// # Errors
    /// What fstat says.
    pub fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from_stat(&rustix::fs::fstat(file)?))
    }

    /// The generation that a stat(2) tells of.
    #[must_use]
    // The types of these fields differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    pub fn from_stat(stat: &rustix::fs::Stat) -> Self {
        Self {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            size: stat.st_size as u64,
            mtime: (stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime as i64, stat.st_ctime_nsec as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_generation_says_what_stat_says() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"12345").unwrap();
        let generation = Generation::of(&file).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((generation.dev, generation.ino), (metadata.dev(), metadata.ino()));
        assert_eq!(generation.size, 5);
        assert_eq!(generation.mtime, (metadata.mtime(), metadata.mtime_nsec() as u32));
        assert_eq!(generation.ctime, (metadata.ctime(), metadata.ctime_nsec() as u32));
    }
}
