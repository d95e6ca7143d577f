//! An open file of the source tree, one generation of it.
//!
//! Promises that no read succeeds with bytes of a later generation. Reads with pread(2) and never
//! maps: if a mapped file shrinks, touching the map kills the process.

use std::{
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::Generation;

/// Bytes at the start of a file that its fingerprint covers.
const HEAD: u64 = 4 << 10;
/// Bytes at the end of a file that its fingerprint covers.
const TAIL: u64 = 64 << 10;

/// Before Linux 6.13 the clock that files are stamped by moves once a timer tick, 1 to 10 ms, so
/// two writes within one leave the same times.
const TICK: Duration = Duration::from_millis(20);

/// A file of the user's, read only as long as it is the generation that was opened.
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
    /// The file had been written within `TICK` before it was opened: a later write may have left
    /// the very same times. Cleared by the first check after the tick that finds the fingerprint.
    racy: AtomicBool,
    /// One thread at a time compares the fingerprint.
    comparing: Mutex<()>,
}

impl SourceFile {
    /// Takes over an open file; its generation is the one it has now.
    ///
    /// A file that is being written at this moment is stale from the start.
    ///
    /// # Errors
    /// When fstat(2) or reading the start and the end fails.
    pub fn new(file: File) -> io::Result<Self> {
        let generation = Generation::of(&file)?;
        let fingerprint = Fingerprint::of(&file, generation.size)?;
        let after = Generation::of(&file)?;
        let overwritten = (after.size, after.mtime) != (generation.size, generation.mtime);
        Ok(Self {
            file,
            generation,
            fingerprint,
            accepted_ctime: AtomicU64::new(packed(generation.ctime)),
            stale: AtomicBool::new(overwritten),
            racy: AtomicBool::new(is_recent(generation.mtime)),
            comparing: Mutex::new(()),
        })
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
        let _one_at_a_time = self.comparing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stale.load(Ordering::Acquire) {
            return Err(stale_error());
        }
        let now = Generation::of(&self.file)?;
        self.compare_size_and_mtime(now)?;
        if !always && packed(now.ctime) == self.accepted_ctime.load(Ordering::Acquire) {
            return Ok(());
        }
        if Fingerprint::of(&self.file, self.generation.size)? != self.fingerprint {
            self.stale.store(true, Ordering::Release);
            return Err(stale_error());
        }
        // The bytes were right after the file had this ctime: whatever comes later moves it on.
        self.accepted_ctime.store(packed(now.ctime), Ordering::Release);
        Ok(())
    }

    /// The fingerprint taken when the file was opened: with size and mtime, it tells its content
    /// from others as far as the type's documentation says.
    pub fn fingerprint(&self) -> u64 {
        u64::from(self.fingerprint.head) << 32 | u64::from(self.fingerprint.tail)
    }

    /// The file, for kernel passthrough and statfs.
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

/// Whether a time of a file is so near that the next write may be given the same.
fn is_recent((seconds, nanoseconds): (i64, u32)) -> bool {
    let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else { return false };
    let age =
        now.as_nanos() as i128 - (i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds));
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
    fn of(file: &File, size: u64) -> io::Result<Self> {
        let mut buf = vec![0; size.min(TAIL) as usize];
        let head_len = size.min(HEAD) as usize;
        let head = crc_at(file, &mut buf[..head_len], 0)?;
        let tail = crc_at(file, &mut buf, size.saturating_sub(TAIL))?;
        Ok(Self { head, tail })
    }
}

/// CRC-32 of the bytes at `offset`, as many as `buf` holds or the file has.
fn crc_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<u32> {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read_at(&mut buf[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(crc32fast::hash(&buf[..filled]))
}

/// A time as one number; two times are given the same one only if 584 years lie between them.
fn packed((seconds, nanoseconds): (i64, u32)) -> u64 {
    (seconds as u64).wrapping_mul(1_000_000_000).wrapping_add(u64::from(nanoseconds))
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
