//! An open file of the source tree, one generation of it.
//!
//! Promises that no read succeeds with bytes of a later generation. Reads with pread(2) and never
//! maps: if a mapped file shrinks, touching the map kills the process.

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

/// Bytes at the start of a file that its fingerprint covers.
const HEAD: u64 = 4 << 10;
/// Bytes at the end of a file that its fingerprint covers.
const TAIL: u64 = 64 << 10;
/// Bytes at the end of a file that are read when it is opened: those of the fingerprint, and enough
/// to contain the end record of a zip with the longest comment.
pub(super) const TAIL_READ: u64 = TAIL + END_RECORD;
/// Bytes of the end record of a zip without its comment (APPNOTE 4.3.16).
const END_RECORD: u64 = 22;

/// The user that stands for all users without a number here (the default of
/// /proc/sys/kernel/overflowuid).
const NOBODY: u32 = 65534;

/// Before Linux 6.13 the clock for the times of files advances once a timer tick, 1 to 10 ms: two
/// writes within a tick leave the same times.
const TICK: Duration = Duration::from_millis(20);

/// A file of the source. Reads fail once it is not the generation that was opened.
///
/// np.savez truncates the same inode in place, so holding the file open does not keep the old
/// bytes. Every read is therefore followed by one fstat(2), and fails if size or mtime are not
/// those of the generation. The kernel moves the times of a file before it changes the first
/// byte, so bytes that were read before an fstat that finds the old times are old bytes.
///
/// A new ctime with the old size and mtime is what rename, unlink, link, chmod and chown do, and
/// also what a tool does that overwrites a file and then restores its mtime. They are told apart
/// by a fingerprint taken when the file was opened: CRC-32 of the first 4 KiB and of the last
/// 64 KiB. In a zip that is the end record and the last 64 KiB of central directory (all of it up
/// to some 700 members) with the CRC-32 of every member named there; in a gzip file the trailer
/// with the CRC-32 of the last gzip member. A change outside of both, with size and mtime kept,
/// is not noticed. Nor is a store through a shared mapping that was written before: the kernel
/// moves the times when a page of it first becomes dirty, not at every store.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    generation: Generation,
    fingerprint: Fingerprint,
    /// The latest ctime under which the fingerprint was right.
    accepted_ctime: AtomicU64,
    /// Set once the file is found overwritten; never unset.
    stale: AtomicBool,
    /// Set if the file was written less than `TICK` before it was opened: a later write may have left
    /// the same times. Cleared by the first check after the tick that finds the same fingerprint.
    racy: AtomicBool,
    /// One thread at a time compares the fingerprint.
    comparing: Mutex<()>,
    /// Whether reads panic, for tests of threads that wait for them.
    #[cfg(test)]
    pub panics: AtomicBool,
}

impl SourceFile {
    /// Takes over an open file; its generation is the one it has now.
    ///
    /// # Errors
    /// When fstat(2) or reading the start and the end fails, or the file is being written at this
    /// moment.
    pub fn new(file: File) -> io::Result<Self> {
        let generation = Generation::of(&file)?;
        Ok(Self::with_tail(file, generation)?.0)
    }

    /// Takes over an open file whose generation stat(2) has just told, and returns its last
    /// `TAIL_READ` bytes as well: they have been read for the fingerprint, and a small archive
    /// needs no others to be parsed.
    ///
    /// # Errors
    /// As `new`.
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
        };
        Ok((source, tail))
    }

    /// The generation that was opened.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the file still holds the bytes of its generation; `Err` says why not
    /// (an `io::Error` that `is_stale` recognises, or what fstat said).
    ///
    /// # Errors
    /// As above.
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
        // The bytes were right after the file had this ctime: whatever comes later moves it on.
        self.accepted_ctime.store(packed(now.ctime), Ordering::Release);
        Ok(())
    }

    /// The fingerprint taken when the file was opened. With size and mtime it distinguishes the
    /// content from others, as far as the type's documentation says.
    pub fn fingerprint(&self) -> u64 {
        u64::from(self.fingerprint.head) << 32 | u64::from(self.fingerprint.tail)
    }

    /// Tells the file from all others, and its bytes from those that it had before and may have
    /// later: a hash over inode number, size, mtime and ctime. Without the number of the device,
    /// which may be another after a reboot.
    ///
    /// # Errors
    /// When it has been overwritten, or cannot be asked.
    pub fn same_file(&self) -> io::Result<SameFile> {
        let now = Generation::of(&self.file)?;
        self.check()?;
        if packed(now.ctime) != self.accepted_ctime.load(Ordering::Acquire) {
            // It was renamed, say, between the two.
            return Err(stale_error());
        }
        let mut hash = Sha256::new();
        for number in [now.ino, now.size, packed(now.mtime), packed(now.ctime)] {
            hash.update(number.to_le_bytes());
        }
        let hash: [u8; 32] = hash.finalize().into();
        Ok(SameFile(*hash.first_chunk().expect("16 of 32 bytes")))
    }

    /// Whether its bytes are those of its owner: the owner is known, and nobody else may write it (of an
    /// ACL, the mode shows the mask in the bits of the group). Network filesystems and user namespaces
    /// show all owners that they cannot name as one.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn is_its_owners(&self) -> io::Result<bool> {
        let stat = rustix::fs::fstat(&self.file)?;
        Ok(stat.st_uid != NOBODY && stat.st_mode & 0o022 == 0)
    }

    /// The open file, for questions about its owner and its filesystem.
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
        // A file cut short by its next writer is overwritten, whatever the read said.
        self.check()?;
        read
    }
}

/// Identifies one generation of one file; see [`SourceFile::same_file`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SameFile(pub [u8; 16]);

/// Whether a time of a file is so near that the next write may be given the same.
fn is_recent(time: Timestamp) -> bool {
    let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else { return false };
    let time = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let age = now.as_nanos() as i128 - time;
    // A time that lies in the future was set by hand; a write would change it.
    (0..TICK.as_nanos() as i128).contains(&age)
}

/// CRC-32 of the first `HEAD` and of the last `TAIL` bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    head: u32,
    tail: u32,
}

impl Fingerprint {
    /// With the last `TAIL_READ` bytes of the file.
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

/// `len` bytes at `offset`, or as many as the file has.
fn read_at_most(file: &File, len: usize, offset: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// A time as one number; two times are given the same one only if 584 years lie between them.
fn packed(time: Timestamp) -> u64 {
    (time.seconds as u64).wrapping_mul(1_000_000_000).wrapping_add(u64::from(time.nanoseconds))
}

/// What `SourceFile::is_stale` looks for inside an `io::Error`.
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
