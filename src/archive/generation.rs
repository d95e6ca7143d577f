//! One version of a file.

use std::{fs::File, io};

use rustix::fs::StatxTimestamp;

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Negative before 1970.
    pub seconds: i64,
    /// Add these to `seconds`. Less than a second.
    pub nanoseconds: u32,
}

impl From<StatxTimestamp> for Timestamp {
    fn from(time: StatxTimestamp) -> Self {
        Self { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
    }
}

/// The device that a file lies on, or that a device file stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// Kind of device.
    pub major: u32,
    /// Number among the devices of that kind.
    pub minor: u32,
}

/// Distinguishes one version of a file from the next.
///
/// A change that keeps the size is noticed only if it changes the mtime or the ctime. Since Linux
/// 6.13, the first change after the times of a file were read gets a fine-grained time, so every
/// change after such a read is noticed. Older kernels advance file times in ticks of 1 to 10 ms. If
/// a file is changed twice within one tick and keeps its size, its times are the same after both
/// changes. A program that reads the times between the two changes cannot notice the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation {
    /// Device the file lies on.
    pub dev: Device,
    /// Inode number on that device.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of the data.
    pub mtime: Timestamp,
    /// Time of the last change of data or attributes.
    pub ctime: Timestamp,
}

impl Generation {
    /// The current generation of an open file. Costs one fstat(2).
    ///
    /// # Errors
    /// The error of fstat(2).
    pub fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from_stat(&rustix::fs::fstat(file)?))
    }

    /// The generation in a result of stat(2).
    // The types of these fields differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    pub fn from_stat(stat: &rustix::fs::Stat) -> Self {
        let time = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
        Self {
            dev: Device {
                major: rustix::fs::major(stat.st_dev as u64),
                minor: rustix::fs::minor(stat.st_dev as u64),
            },
            ino: stat.st_ino as u64,
            size: stat.st_size as u64,
            mtime: time(stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            ctime: time(stat.st_ctime as i64, stat.st_ctime_nsec as u32),
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
        let Device { major, minor } = generation.dev;
        let number = rustix::fs::makedev(major, minor);
        assert_eq!((number, generation.ino), (metadata.dev(), metadata.ino()));
        assert_eq!(generation.size, 5);
        let time =
            |seconds, nanoseconds: i64| Timestamp { seconds, nanoseconds: nanoseconds as u32 };
        assert_eq!(generation.mtime, time(metadata.mtime(), metadata.mtime_nsec()));
        assert_eq!(generation.ctime, time(metadata.ctime(), metadata.ctime_nsec()));
    }
}
