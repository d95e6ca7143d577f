//! A directory of files that only npzfs writes, with a limit for their total size.
//!
//! A file gets its final name when it is complete and on the disk, and is never written after that:
//! a reader finds the whole file or none. All operations use a descriptor that is opened before
//! mounting, so a mount over the directory, even one of npzfs, does no harm. Several servers, also
//! on several hosts, may share a directory.

use std::{
    ffi::{CStr, CString},
    fs::{DirBuilder, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_NOW,
        UTIME_OMIT,
    },
    io::Errno,
};

use super::Error;

/// Prefix of the names of unfinished files.
const DRAFT: &str = ".draft-";

/// If files cannot be locked, an unfinished file older than this counts as one of a server that
/// died.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A directory of files that only npzfs writes. Used by its descriptor, not by its path.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    /// Suffix of the names of finished files.
    suffix: &'static str,
    /// Bytes that all files may take together.
    limit: u64,
    next_draft: AtomicU64,
}

impl Directory {
    /// Opens the directory `path`, or creates it. The names of finished files end with `suffix`.
    /// Files that are neither finished files nor drafts are left alone.
    ///
    /// # Errors
    /// When the directory cannot be created or opened.
    pub fn open(path: &Path, suffix: &'static str, limit: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Self::existing(path, suffix, limit)
    }

    /// Like [`open`](Self::open), but creates nothing.
    ///
    /// # Errors
    /// When the directory does not exist or cannot be opened.
    pub fn existing(path: &Path, suffix: &'static str, limit: u64) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { fd, path: path.into(), suffix, limit, next_draft: AtomicU64::new(0) })
    }

    /// Fails if other users can write the directory itself: they could exchange the names of files.
    ///
    /// # Errors
    /// `Untrusted`, or `Io` if fstat(2) fails.
    pub fn check_private(&self) -> Result<(), Error> {
        check_owner_and_mode(&rustix::fs::fstat(&self.fd).map_err(io::Error::from)?)
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that all files may take together.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Opens the file `name` for reading, if there is one. Sets its time of last use to now.
    ///
    /// # Errors
    /// When the file cannot be opened, is not a regular file, or may be written by other users.
    pub fn file(&self, name: &str) -> Result<Option<File>, Error> {
        let file = self.peek(name)?;
        if let Some(file) = &file {
            // If this fails, only the order of eviction is affected.
            let _ = rustix::fs::futimens(file, &NOW_USED);
        }
        Ok(file)
    }

    /// Like [`file`](Self::file), but does not count as a use.
    ///
    /// # Errors
    /// Those of `file`.
    pub fn peek(&self, name: &str) -> Result<Option<File>, Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(Error::Io(errno.into())),
        };
        let stat = rustix::fs::fstat(&file).map_err(io::Error::from)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::Unfit("it is no regular file"));
        }
        check_owner_and_mode(&stat)?;
        Ok(Some(file))
    }

    /// Begins a new file.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn draft(&self) -> io::Result<Draft<'_>> {
        loop {
            let (name, file) = self.create_draft()?;
            if let Some(draft) = self.lock_draft(name, file)? {
                return Ok(draft);
            }
        }
    }

    /// Locks a draft that was just created; `None` if another server has removed it.
    fn lock_draft(&self, name: String, file: File) -> io::Result<Option<Draft<'_>>> {
        // The lock shows that the writer is alive. If files cannot be locked, their age does, so an
        // error of the lock does not matter.
        let _ = rustix::fs::flock(&file, FlockOperation::LockExclusive);
        let draft = Draft { directory: self, name: Some(name), file };
        // Another server may have removed the draft as abandoned before it was locked.
        Ok((draft.file.metadata()?.nlink() > 0).then_some(draft))
    }

    fn create_draft(&self) -> io::Result<(String, File)> {
        // Processes on hosts that share the directory may have the same number. The time makes the
        // names differ, and with `EXCL` equal names are an error.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let number = self.next_draft.fetch_add(1, Ordering::Relaxed);
        let name = format!("{DRAFT}{}-{}-{number}", std::process::id(), now.as_nanos());
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, &name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok((name, fd.into()))
    }

    /// Removes the file `name`, if there is one.
    ///
    /// # Errors
    /// When the file exists and cannot be removed.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes unfinished files of servers that died. Then removes the least recently used files
    /// until the remaining files are within the limit. Returns how many bytes the remaining files
    /// take.
    ///
    /// # Errors
    /// When the directory cannot be read. A file that cannot be removed is skipped.
    pub fn shrink(&self) -> io::Result<u64> {
        let mut stock = self.take_stock()?;
        // If the drafts alone exceed the limit, removing finished files gains nothing.
        if let Some(limit) = self.limit.checked_sub(stock.drafts) {
            self.evict(&mut stock, limit);
        }
        Ok(stock.finished + stock.drafts)
    }

    /// Makes room for a new file of `bytes`, within the limit and on the disk, by removing the same
    /// files as `shrink`. Returns `false` if the limit leaves too little room for the file.
    ///
    /// Servers that do this at the same moment may exceed the limit together. So call
    /// `make_room(0)` again as soon as a draft of that length exists.
    ///
    /// # Errors
    /// `StorageFull` if the disk could not hold the file even without the finished files; or
    /// another error if the directory cannot be read.
    pub fn make_room(&self, bytes: u64) -> io::Result<bool> {
        let mut stock = self.take_stock()?;
        let wanted = stock.drafts.saturating_add(bytes);
        let Some(limit) = self.limit.checked_sub(wanted) else { return Ok(false) };
        let disk = rustix::fs::fstatvfs(&self.fd)?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let ours = stock.finished + stock.drafts_written;
        let Some(room) = ours.saturating_add(free).checked_sub(wanted) else {
            let why = format!("the disk has no room for {wanted} bytes");
            return Err(io::Error::new(io::ErrorKind::StorageFull, why));
        };
        let limit = limit.min(room);
        self.evict(&mut stock, limit);
        Ok(stock.finished <= limit)
    }

    /// Lists the existing files. Removes unfinished files of servers that died.
    fn take_stock(&self) -> io::Result<Stock> {
        let mut stock = Stock::default();
        for (name, stat) in self.files()? {
            if !stat.is_draft {
                stock.finished += stat.on_disk;
                stock.files.push((stat.used, stat.on_disk, name));
            } else if !self.remove_abandoned(&name, &stat) {
                stock.drafts += stat.on_disk.max(stat.len);
                stock.drafts_written += stat.on_disk;
            }
        }
        Ok(stock)
    }

    fn evict(&self, stock: &mut Stock, limit: u64) {
        stock.files.sort();
        for (_, bytes, name) in &stock.files {
            if stock.finished <= limit {
                break;
            }
            if rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()).is_ok() {
                stock.finished -= bytes;
            }
        }
    }

    /// Removes the draft `name` if its writer has died, and returns whether it has. The writer
    /// holds a lock on the draft, which ends with the writer's process.
    fn remove_abandoned(&self, name: &CStr, stat: &Stat) -> bool {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let locked = rustix::fs::openat(&self.fd, name, flags, Mode::empty()).and_then(|fd| {
            rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).map(|()| fd)
        });
        let abandoned = match &locked {
            Ok(_) => true,
            Err(Errno::WOULDBLOCK) => false,
            Err(_) => {
                SystemTime::now().duration_since(stat.changed).unwrap_or_default() > ABANDONED
            }
        };
        // The draft is removed while it is locked here: a writer that has just created it then
        // finds it gone when the writer gets the lock. Removing fails if another server was faster.
        if abandoned {
            let _ = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
        }
        abandoned
    }

    /// All files of npzfs in the directory, finished and unfinished.
    fn files(&self) -> io::Result<Vec<(CString, Stat)>> {
        let mut files = Vec::new();
        for entry in Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_draft = name.to_bytes().starts_with(DRAFT.as_bytes());
            if !is_draft && !name.to_bytes().ends_with(self.suffix.as_bytes()) {
                continue;
            }
            if let Some(stat) = self.stat(name, is_draft)? {
                files.push((name.to_owned(), stat));
            }
        }
        Ok(files)
    }

    // The types of these fields differ between architectures.
    #[allow(clippy::unnecessary_cast, clippy::cast_sign_loss)]
    fn stat(&self, name: &CStr, is_draft: bool) -> io::Result<Option<Stat>> {
        let stat = match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let time = |seconds: i64, nanoseconds: u32| {
            SystemTime::UNIX_EPOCH + Duration::new(seconds.max(0) as u64, nanoseconds)
        };
        Ok(Some(Stat {
            is_draft,
            on_disk: stat.st_blocks as u64 * 512,
            len: stat.st_size as u64,
            used: time(stat.st_atime as i64, stat.st_atime_nsec as u32),
            changed: time(stat.st_ctime as i64, stat.st_ctime_nsec as u32),
        }))
    }
}

/// Fails if users other than root and the user of this process could have written a file.
fn check_owner_and_mode(stat: &rustix::fs::Stat) -> Result<(), Error> {
    let (owner, mode) = (stat.st_uid, stat.st_mode & 0o777);
    let ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if ours && mode & 0o022 == 0 { Ok(()) } else { Err(Error::Untrusted { owner, mode }) }
}

/// The existing files of a directory, and the bytes that they take.
#[derive(Default)]
struct Stock {
    /// Finished files: time of last use, bytes on disk, name.
    files: Vec<(SystemTime, u64, CString)>,
    /// Bytes on disk of all finished files.
    finished: u64,
    /// Bytes that all drafts will take when they are finished.
    drafts: u64,
    /// Bytes on disk of all drafts now.
    drafts_written: u64,
}

struct Stat {
    is_draft: bool,
    /// Bytes that the file takes on disk.
    on_disk: u64,
    /// Length of the file. The writer of a draft may set the final length in advance.
    len: u64,
    used: SystemTime,
    /// The ctime. The mtime is not used, since the writer may set it before the file is finished.
    changed: SystemTime,
}

/// Sets the atime of a file, which is its time of last use, to now. Most mounts do not update
/// atimes by themselves, but all of them let the owner set atimes.
const NOW_USED: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
};

/// A file that is being written. Dropping an unfinished draft removes the file.
#[derive(Debug)]
pub struct Draft<'a> {
    directory: &'a Directory,
    name: Option<String>,
    file: File,
}

impl Draft<'_> {
    /// The open file, to which the content is written.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Opens the draft again for reading. `None` if the file has been removed.
    ///
    /// # Errors
    /// As for [`Directory::file`].
    pub fn open(&self) -> Result<Option<File>, Error> {
        self.name.as_ref().map_or(Ok(None), |name| self.directory.file(name))
    }

    /// Writes the file to the disk, then gives it the name `name`. Replaces a file that has this
    /// name.
    ///
    /// # Errors
    /// When the file cannot be written to the disk or renamed.
    pub fn finish(mut self, name: &str) -> io::Result<()> {
        self.file.sync_all()?;
        let directory = &self.directory.fd;
        if let Some(draft) = &self.name {
            rustix::fs::renameat(directory, draft, directory, name)?;
        }
        self.name = None;
        // Makes the new name survive a power failure. Some network filesystems refuse this; after a
        // power failure the file may then have to be made again.
        let _ = rustix::fs::fsync(directory.as_fd());
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            // If this fails, a later server removes the draft as abandoned.
            let _ = rustix::fs::unlinkat(&self.directory.fd, name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests;
