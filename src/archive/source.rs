//! One generation of an open file of the source.
//!
//! No read succeeds with bytes of a later generation, within the limits that [`SourceFile`]
//! describes. Files are read with pread(2) and never mapped: if a mapped file shrinks, touching the
//! map kills the process.

use std::{
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sha2::{Digest, Sha256};

use super::{Generation, Timestamp};
use crate::sync::Mutex;

/// The fingerprint covers this many bytes at the start of a file.
const HEAD: u64 = 4 << 10;
/// The fingerprint covers this many bytes at the end of a file.
const TAIL: u64 = 64 << 10;
/// How many bytes at the end of a file are read when it is opened: the bytes of the fingerprint,
/// and enough to contain the end record of a zip with the longest comment.
pub(super) const TAIL_READ: u64 = TAIL + END_RECORD;
/// Length in bytes of the end record of a zip without its comment (APPNOTE 4.3.16).
const END_RECORD: u64 = 22;

/// The user ID that the kernel shows for all users that have no ID here (the default of
/// /proc/sys/kernel/overflowuid).
const NOBODY: u32 = 65534;

/// Longer than any timer tick. Before Linux 6.13, the clock for file times advances only at each
/// tick, every 1 to 10 ms, so two writes within one tick leave the same times.
const TICK: Duration = Duration::from_millis(20);

/// A file of the source. Reads fail after the file has been overwritten.
///
/// np.savez truncates the same inode in place, so holding the file open does not keep the old
/// bytes. Therefore every read is followed by one fstat(2), and fails if size or mtime differ from
/// those of the generation. The kernel updates the times of a file before it changes the first
/// byte. So if fstat still returns the old times after a read, the bytes of that read are old
/// bytes.
///
/// rename, unlink, link, chmod and chown change the ctime and keep size and mtime. So does a tool
/// that overwrites a file and then restores its mtime. A fingerprint taken when the file was opened
/// distinguishes the two cases: CRC-32 of the first 4 KiB and of the last 64 KiB. The last 64 KiB
/// of a zip hold its end record and the end of its central directory (all of it up to some 700
/// members), with the CRC-32 of every member there. Those of a gzip file hold the CRC-32 of its
/// last gzip member. A change outside these bytes that keeps size and mtime is not noticed. A store
/// through a shared mapping that was written before is not noticed either: the kernel updates the
/// times when a page of the mapping first becomes dirty, not at every store.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    generation: Generation,
    fingerprint: Fingerprint,
    /// The latest ctime at which the fingerprint was found unchanged, as `packed` returns it.
    accepted_ctime: AtomicU64,
    /// Set when the file is found to be overwritten. Never cleared.
    stale: AtomicBool,
    /// Set if the file was written less than `TICK` before it was opened: a later write may have
    /// left the same times. Cleared by the first check after that tick that finds the same
    /// fingerprint.
    racy: AtomicBool,
    /// Held while a thread compares the fingerprint.
    comparing: Mutex<()>,
    /// Makes reads panic, for tests of threads that wait for a read.
    #[cfg(test)]
    pub panics: AtomicBool,
    /// Makes reads fail.
    #[cfg(test)]
    pub fails: AtomicBool,
}

impl SourceFile {
    /// Takes an open file and the generation that stat(2) has just returned for it. Reads will
    /// succeed only while the file keeps that generation. Also returns the last `TAIL_READ` bytes
    /// of the file: they are read for the fingerprint, and are all that a small archive is parsed
    /// from.
    ///
    /// # Errors
    /// When fstat(2) or reading the start and the end fails, or the file is being written at this
    /// moment.
    pub fn with_tail(file: File, generation: Generation) -> io::Result<(Self, Vec<u8>)> {
        let (fingerprint, tail) = Fingerprint::of(&file, generation.size)?;
        let after = Generation::of(&file)?;
        let whole = tail.len() as u64 == generation.size.min(TAIL_READ);
        if !whole || (after.size, after.mtime) != (generation.size, generation.mtime) {
            return Err(stale_error());
        }
        let source = Self {
            file,
            generation,
            fingerprint,
            accepted_ctime: AtomicU64::new(packed(generation.ctime)),
            stale: AtomicBool::new(false),
            racy: AtomicBool::new(is_recent(generation.mtime)),
            comparing: Mutex::new(()),
            #[cfg(test)]
            panics: AtomicBool::new(false),
            #[cfg(test)]
            fails: AtomicBool::new(false),
        };
        Ok((source, tail))
    }

    /// The generation that was opened.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Checks that the file still holds the bytes of its generation.
    ///
    /// # Errors
    /// If the file was overwritten, an error for which [`is_stale`](Self::is_stale) returns `true`.
    /// Otherwise the error of fstat(2), or of reading the bytes of the fingerprint.
    pub fn check(&self) -> io::Result<()> {
        if self.stale.load(Ordering::Acquire) {
            return Err(stale_error());
        }
        let now = Generation::of(&self.file)?;
        self.compare_size_and_mtime(now)?;
        if self.racy.load(Ordering::Acquire) {
            let over = !is_recent(self.generation.mtime);
            self.compare_fingerprint(true)?;
            if over {
                self.racy.store(false, Ordering::Release);
            }
            return Ok(());
        }
        if packed(now.ctime) == self.accepted_ctime.load(Ordering::Acquire) {
            return Ok(());
        }
        self.compare_fingerprint(false)
    }

    fn compare_size_and_mtime(&self, now: Generation) -> io::Result<()> {
        if (now.size, now.mtime) == (self.generation.size, self.generation.mtime) {
            return Ok(());
        }
        self.stale.store(true, Ordering::Release);
        Err(stale_error())
    }

    #[cold]
    fn compare_fingerprint(&self, always: bool) -> io::Result<()> {
        let _one_at_a_time = self.comparing.lock();
        if self.stale.load(Ordering::Acquire) {
            return Err(stale_error());
        }
        let now = Generation::of(&self.file)?;
        self.compare_size_and_mtime(now)?;
        if !always && packed(now.ctime) == self.accepted_ctime.load(Ordering::Acquire) {
            return Ok(());
        }
        if Fingerprint::of(&self.file, self.generation.size)?.0 != self.fingerprint {
            self.stale.store(true, Ordering::Release);
            return Err(stale_error());
        }
        // The bytes were unchanged after the file got this ctime. A later change moves the ctime
        // again.
        self.accepted_ctime.store(packed(now.ctime), Ordering::Release);
        Ok(())
    }

    /// The fingerprint taken when the file was opened. With size and mtime it distinguishes the
    /// content from others, except for the changes that the documentation of this type names.
    pub fn fingerprint(&self) -> u64 {
        u64::from(self.fingerprint.head) << 32 | u64::from(self.fingerprint.tail)
    }

    /// Distinguishes the file from all others, and its bytes from earlier and later ones: a hash
    /// over inode number, size, mtime and ctime. The number of the device is not included, because
    /// it may change with a reboot.
    ///
    /// # Errors
    /// When the file has been overwritten, or fstat(2) fails.
    pub fn same_file(&self) -> io::Result<SameFile> {
        let now = Generation::of(&self.file)?;
        self.check()?;
        if packed(now.ctime) != self.accepted_ctime.load(Ordering::Acquire) {
            // The file changed between the two calls, by a rename for example.
            return Err(stale_error());
        }
        let mut hash = Sha256::new();
        for number in [now.ino, now.size, packed(now.mtime), packed(now.ctime)] {
            hash.update(number.to_le_bytes());
        }
        let hash: [u8; 32] = hash.finalize().into();
        Ok(SameFile(*hash.first_chunk().expect("16 of 32 bytes")))
    }

    /// Whether only the owner can have written the file: the owner is known, and no other user may
    /// write it. If the file has an ACL, the group bits of the mode are the ACL's mask. Network
    /// filesystems and user namespaces show the same owner for all owners that they cannot name.
    ///
    /// # Errors
    /// When fstat(2) fails.
    pub fn is_its_owners(&self) -> io::Result<bool> {
        let stat = rustix::fs::fstat(&self.file)?;
        Ok(stat.st_uid != NOBODY && stat.st_mode & 0o022 == 0)
    }

    /// The open file, to ask for its owner and its filesystem.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether an error of a read means that the file was overwritten.
    pub fn is_stale(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Stale>())
    }
}

impl seekable_deflate::ReadAt for SourceFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        assert!(!self.panics.load(Ordering::Relaxed), "of the test");
        #[cfg(test)]
        if self.fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("of the test"));
        }
        let in_file =
            offset.checked_add(buf.len() as u64).is_some_and(|end| end <= self.generation.size);
        let read = if in_file {
            FileExt::read_exact_at(&self.file, buf, offset)
        } else {
            Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "{} bytes at offset {offset} are not in a file of {} bytes",
                    buf.len(),
                    self.generation.size
                ),
            ))
        };
        // Checked even if the read failed: a read beyond the end of a file that a writer has just
        // truncated must be reported as overwritten.
        self.check()?;
        read
    }
}

/// Identifies one generation of one file, as [`SourceFile::same_file`] returns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SameFile(pub [u8; 16]);

/// Whether a time of a file is so recent that the next write may get the same time.
fn is_recent(time: Timestamp) -> bool {
    let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else { return false };
    let time = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let age = now.as_nanos() as i128 - time;
    // A time in the future was set explicitly; a write would change it.
    (0..TICK.as_nanos() as i128).contains(&age)
}

/// CRC-32 of the first `HEAD` and of the last `TAIL` bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    head: u32,
    tail: u32,
}

impl Fingerprint {
    /// Computes the fingerprint. Returns the last `TAIL_READ` bytes of the file too.
    fn of(file: &File, size: u64) -> io::Result<(Self, Vec<u8>)> {
        let last =
            read_at_most(file, size.min(TAIL_READ) as usize, size.saturating_sub(TAIL_READ))?;
        let tail = crc32fast::hash(&last[last.len().saturating_sub(TAIL as usize)..]);
        let head_len = size.min(HEAD) as usize;
        let head = if size <= TAIL_READ {
            crc32fast::hash(&last[..head_len.min(last.len())])
        } else {
            crc32fast::hash(&read_at_most(file, head_len, 0)?)
        };
        Ok((Self { head, tail }, last))
    }
}

/// Reads `len` bytes at `offset`, or fewer if the file ends before.
fn read_at_most(file: &File, len: usize, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let filled = read_up_to(file, &mut bytes, offset)?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// Reads from `offset` into `buf`. Returns how many bytes were read: fewer than `buf` holds only at
/// the end of the file.
///
/// # Errors
/// The error of pread(2).
pub fn read_up_to(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read_at(&mut buf[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A time as one number. Two times have the same number only if they are 584 years apart.
fn packed(time: Timestamp) -> u64 {
    (time.seconds as u64).wrapping_mul(1_000_000_000).wrapping_add(u64::from(time.nanoseconds))
}

/// Marks an `io::Error` for `SourceFile::is_stale`.
#[derive(Debug)]
struct Stale;

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the file was overwritten after it was opened")
    }
}

impl std::error::Error for Stale {}

fn stale_error() -> io::Error {
    io::Error::new(io::ErrorKind::StaleNetworkFileHandle, Stale)
}

#[cfg(test)]
mod tests;
