//! A directory of files that only we write, within a size.
//!
//! A file gets its name when it is complete and on the disk, and is never written again: a reader
//! finds all of it or none. Everything is done through a descriptor that is opened before mounting,
//! so a mount over the directory, even our own, does no harm. Several servers, on several hosts, may
//! share a directory.

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

/// What the names of unfinished files begin with.
const DRAFT: &str = ".draft-";

/// Where files cannot be locked, an unfinished file of this age is taken for one of a server that
/// died.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A directory of files that only we write.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    /// Names of our files end with this.
    suffix: &'static str,
    /// Bytes that they may take together.
    limit: u64,
    next_draft: AtomicU64,
}

impl Directory {
    /// Opens the directory `path`, or creates it. Our files have names that end with `suffix`; all
    /// others are left alone.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub fn open(path: &Path, suffix: &'static str, limit: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { fd, path: path.into(), suffix, limit, next_draft: AtomicU64::new(0) })
    }

    /// Fails if others can write the directory itself: they could give one file the name of another.
    ///
    /// # Errors
    /// `Untrusted`, and when it cannot be looked at.
    pub fn check_private(&self) -> Result<(), Error> {
        check_owner_and_mode(&rustix::fs::fstat(&self.fd).map_err(io::Error::from)?)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that its files may take together.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The file `name`, if there is one, to be read; it then counts as used just now.
    ///
    /// # Errors
    /// When it cannot be opened, or others may write it.
    pub fn file(&self, name: &str) -> Result<Option<File>, Error> {
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
        // Only what is evicted first depends on it.
        let _ = rustix::fs::futimens(&file, &NOW_USED);
        Ok(Some(file))
    }

    /// Begins a file.
    ///
    /// # Errors
    /// When none can be created.
    pub fn draft(&self) -> io::Result<Draft<'_>> {
        loop {
            let (name, file) = self.create_draft()?;
            if let Some(draft) = self.lock_draft(name, file)? {
                return Ok(draft);
            }
        }
    }

    /// Locks a file that was just created; `None` if it is gone.
    fn lock_draft(&self, name: String, file: File) -> io::Result<Option<Draft<'_>>> {
        // The lock says that the writer is alive; where files cannot be locked, their age does.
        let _ = rustix::fs::flock(&file, FlockOperation::LockExclusive);
        let draft = Draft { directory: self, name: Some(name), file };
        // Another server may have found it before it was locked, and taken it for abandoned.
        Ok((draft.file.metadata()?.nlink() > 0).then_some(draft))
    }

    fn create_draft(&self) -> io::Result<(String, File)> {
        // Hosts that share the directory may have the same process numbers. The time makes the names
        // differ; `EXCL` catches the rest.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let number = self.next_draft.fetch_add(1, Ordering::Relaxed);
        let name = format!("{DRAFT}{}-{}-{number}", std::process::id(), now.as_nanos());
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, &name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok((name, fd.into()))
    }

    /// Removes `name`.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes unfinished files of servers that died, then the least recently used files until the
    /// rest is within the limit. Returns how many bytes the rest takes.
    ///
    /// # Errors
    /// When the directory cannot be read. A file that cannot be removed is passed over.
    pub fn shrink(&self) -> io::Result<u64> {
        let mut stock = self.take_stock()?;
        // If the drafts alone exceed the limit, removing files gains nothing.
        if let Some(limit) = self.limit.checked_sub(stock.drafts) {
            self.evict(&mut stock, limit);
        }
        Ok(stock.finished + stock.drafts)
    }

    /// Makes room for a file of `bytes`, within the limit and on the disk, as `shrink` does; `false`
    /// if the limit is too small for it.
    ///
    /// Servers that do so at the same moment may go beyond the limit together: look again, with
    /// `make_room(0)`, once a draft of that length is there.
    ///
    /// # Errors
    /// `StorageFull` if the disk is too small for it, with all that is ours there; and when the
    /// directory cannot be read.
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

    /// The existing files. Unfinished files of servers that died are removed.
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

    /// Removes a draft without a living writer: the writer holds a lock, which ends with its process.
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
        // Removed while it is locked: a writer that has just created it then finds it gone when it
        // gets the lock. Another server may have removed it before.
        if abandoned {
            let _ = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
        }
        abandoned
    }

    /// Our files, finished and not.
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

/// Fails if users other than root and our own could have written a file.
fn check_owner_and_mode(stat: &rustix::fs::Stat) -> Result<(), Error> {
    let (owner, mode) = (stat.st_uid, stat.st_mode & 0o777);
    let ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
    if ours && mode & 0o022 == 0 { Ok(()) } else { Err(Error::Untrusted { owner, mode }) }
}

/// What a directory holds, in bytes.
#[derive(Default)]
struct Stock {
    /// Finished files: when they were last used, what they take, and their names.
    files: Vec<(SystemTime, u64, CString)>,
    /// What those take.
    finished: u64,
    /// What drafts will take.
    drafts: u64,
    /// What they take now.
    drafts_written: u64,
}

struct Stat {
    is_draft: bool,
    /// Bytes that it takes.
    on_disk: u64,
    /// Its length; the writer of a draft may say by it how much it will be.
    len: u64,
    used: SystemTime,
    /// The ctime: the mtime may be set to another before it is finished.
    changed: SystemTime,
}

/// Sets the atime of a file to now: the time of its last use. Most mounts do not update atimes by
/// themselves, but all let us set them.
const NOW_USED: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
};

/// A file that is being written. Dropping it removes it.
#[derive(Debug)]
pub struct Draft<'a> {
    directory: &'a Directory,
    name: Option<String>,
    file: File,
}

impl Draft<'_> {
    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Opens the file again, for reading. `None` if it has been removed.
    ///
    /// # Errors
    /// As [`Directory::file`].
    pub fn open(&self) -> Result<Option<File>, Error> {
        self.name.as_ref().map_or(Ok(None), |name| self.directory.file(name))
    }

    /// Gives the file its name, in the place of one that has it, once it is on the disk.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn finish(mut self, name: &str) -> io::Result<()> {
        self.file.sync_all()?;
        let directory = &self.directory.fd;
        if let Some(draft) = &self.name {
            rustix::fs::renameat(directory, draft, directory, name)?;
        }
        self.name = None;
        // So that the name is there after a power failure. Some network filesystems refuse it, and
        // then the file is only made again.
        let _ = rustix::fs::fsync(directory.as_fd());
        Ok(())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            // If that fails, a later server removes it as abandoned.
            let _ = rustix::fs::unlinkat(&self.directory.fd, name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests;
