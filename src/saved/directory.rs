//! A directory of files that only we write, within a size.
//!
//! A file gets its name when it is complete and on the disk, and is never written again: whoever
//! opens it finds all of it or none. All is done beneath a descriptor that is opened before
//! mounting, so that a mount over the directory, ours even, does not matter. Several servers, on
//! several hosts, may share one.

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

use super::{Error, Map};

/// What the names of unfinished files begin with.
const DRAFT: &str = ".draft-";

/// The age at which an unfinished file counts as left behind by a server that died, where files
/// cannot be locked.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A directory of files of ours.
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
    /// Opens `path`, and makes it if it is not there. Its files have names that end with `suffix`;
    /// others in it are left alone.
    ///
    /// # Errors
    /// When it cannot be made or opened.
    pub fn open(path: &Path, suffix: &'static str, limit: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { fd, path: path.into(), suffix, limit, next_draft: AtomicU64::new(0) })
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

    /// The file `name`, if there is one; it then counts as used just now.
    ///
    /// # Errors
    /// When it cannot be read, or others may write it.
    pub fn map(&self, name: &str) -> Result<Option<Map>, Error> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        Ok(Some(Map::of(&file)?))
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
        let metadata = file.metadata()?;
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o777);
        let ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
        if !metadata.is_file() || !ours || mode & 0o022 != 0 {
            return Err(Error::Untrusted { owner, mode });
        }
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
            // The lock says that its writer lives; where files cannot be locked, their age does.
            let _ = rustix::fs::flock(&file, FlockOperation::LockExclusive);
            let draft = Draft { directory: self, name: Some(name), file };
            // Somebody else may have found it before it was locked, and taken it for abandoned.
            if draft.file.metadata()?.nlink() > 0 {
                return Ok(draft);
            }
        }
    }

    fn create_draft(&self) -> io::Result<(String, File)> {
        // Hosts that share the directory may have the same process numbers; the time tells them
        // apart, and `EXCL` what is left.
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

    /// Removes the least recently used files until the rest is within the limit, and what servers
    /// that died have left. Returns how many bytes are left.
    ///
    /// # Errors
    /// When the directory cannot be read. A file that cannot be removed is passed over.
    pub fn shrink(&self) -> io::Result<u64> {
        self.evict(self.limit)
    }

    /// As `shrink`, so that a file of `bytes` fits in as well; `false` if it cannot.
    ///
    /// Servers that do so at the same moment may go beyond the limit together, until the next
    /// file.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn make_room(&self, bytes: u64) -> io::Result<bool> {
        let Some(limit) = self.limit.checked_sub(bytes) else { return Ok(false) };
        Ok(self.evict(limit)? <= limit)
    }

    /// Bytes that the filesystem has left for us.
    ///
    /// # Errors
    /// What fstatvfs(2) says.
    pub fn free(&self) -> io::Result<u64> {
        let room = rustix::fs::fstatvfs(&self.fd)?;
        Ok(room.f_bavail.saturating_mul(room.f_frsize))
    }

    fn evict(&self, limit: u64) -> io::Result<u64> {
        let mut files = Vec::new();
        let (mut total, mut drafts) = (0, 0);
        for (name, stat) in self.files()? {
            if stat.is_draft && self.is_abandoned(&name, &stat) {
                // Somebody else may have been faster.
                let _ = rustix::fs::unlinkat(&self.fd, &name, AtFlags::empty());
                continue;
            }
            total += stat.bytes;
            if stat.is_draft {
                drafts += stat.bytes;
            } else {
                files.push((stat.used, stat.bytes, name));
            }
        }
        // Then nothing would be gained.
        if drafts > limit {
            return Ok(total);
        }
        files.sort();
        for (_, bytes, name) in files {
            if total <= limit {
                break;
            }
            if rustix::fs::unlinkat(&self.fd, &name, AtFlags::empty()).is_ok() {
                total -= bytes;
            }
        }
        Ok(total)
    }

    /// Whether nobody writes a draft any more: its writer holds a lock, which ends with it.
    fn is_abandoned(&self, name: &CStr, stat: &Stat) -> bool {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let locked = rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .and_then(|fd| rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive));
        match locked {
            Ok(()) => true,
            Err(Errno::WOULDBLOCK) => false,
            Err(_) => {
                SystemTime::now().duration_since(stat.written).unwrap_or_default() > ABANDONED
            }
        }
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
        let on_disk = stat.st_blocks as u64 * 512;
        Ok(Some(Stat {
            is_draft,
            bytes: if is_draft { on_disk.max(stat.st_size as u64) } else { on_disk },
            used: time(stat.st_atime as i64, stat.st_atime_nsec as u32),
            written: time(stat.st_mtime as i64, stat.st_mtime_nsec as u32),
        }))
    }
}

struct Stat {
    is_draft: bool,
    /// On the disk; of a draft as many as it will be, if its writer has said so by its length.
    bytes: u64,
    used: SystemTime,
    written: SystemTime,
}

/// The atime of a file is when it was last used. We set it: most mounts do not keep it, but all
/// take it.
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
            // What is left is removed as abandoned one day.
            let _ = rustix::fs::unlinkat(&self.directory.fd, name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write};

    use super::*;

    fn directory(limit: u64) -> (tempfile::TempDir, Directory) {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::open(&place.path().join("a/b"), ".idx", limit).unwrap();
        (place, directory)
    }

    fn save(directory: &Directory, name: &str, bytes: &[u8]) {
        let draft = directory.draft().unwrap();
        draft.file().write_all(bytes).unwrap();
        draft.finish(name).unwrap();
    }

    fn set_used(directory: &Directory, name: &str, seconds: u64) {
        let file = File::options().write(true).open(directory.path().join(name)).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        file.set_times(fs::FileTimes::new().set_accessed(time)).unwrap();
    }

    fn names(directory: &Directory) -> Vec<String> {
        let entries = fs::read_dir(directory.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_there_when_it_is_finished_and_not_before() {
        let (_place, directory) = directory(u64::MAX);
        let draft = directory.draft().unwrap();
        draft.file().write_all(b"one").unwrap();
        assert!(directory.map("a.idx").unwrap().is_none());
        draft.finish("a.idx").unwrap();
        let map = directory.map("a.idx").unwrap().unwrap();
        assert_eq!(map.as_ref(), b"one");
        save(&directory, "a.idx", b"two");
        assert_eq!(map.as_ref(), b"one", "a map keeps what it had");
        assert_eq!(directory.map("a.idx").unwrap().unwrap().as_ref(), b"two");
        assert_eq!(names(&directory), ["a.idx"]);
    }

    #[test]
    fn a_draft_that_is_given_up_leaves_nothing() {
        let (_place, directory) = directory(u64::MAX);
        drop(directory.draft().unwrap());
        assert!(names(&directory).is_empty());
    }

    #[test]
    fn the_least_recently_used_files_go_first() {
        let (_place, directory) = directory(3 * 4096);
        for (number, name) in ["a.idx", "b.idx", "c.idx", "d.idx"].iter().enumerate() {
            save(&directory, name, &[1; 4096]);
            set_used(&directory, name, 1_000_000 + number as u64);
        }
        assert!(directory.map("a.idx").unwrap().is_some(), "used again");
        fs::write(directory.path().join("notes.txt"), "not ours").unwrap();
        assert_eq!(directory.shrink().unwrap(), 3 * 4096);
        assert_eq!(names(&directory), ["a.idx", "c.idx", "d.idx", "notes.txt"]);
    }

    #[test]
    fn what_a_dead_server_left_is_cleared_away_and_what_is_being_written_stays() {
        let (_place, directory) = directory(u64::MAX);
        let draft = directory.draft().unwrap();
        fs::write(directory.path().join(format!("{DRAFT}7-7-7")), "left").unwrap();
        directory.shrink().unwrap();
        assert_eq!(names(&directory).len(), 1);
        draft.finish("a.idx").unwrap();
        assert_eq!(names(&directory), ["a.idx"]);
    }

    #[test]
    fn room_is_made_for_what_fits_and_drafts_count_by_their_length() {
        let (_place, directory) = directory(4 * 4096);
        for (number, name) in ["a.idx", "b.idx"].iter().enumerate() {
            save(&directory, name, &[1; 4096]);
            set_used(&directory, name, 1_000_000 + number as u64);
        }
        assert!(!directory.make_room(5 * 4096).unwrap(), "it is larger than the limit");
        assert_eq!(names(&directory).len(), 2, "so nothing was removed for it");
        assert!(directory.make_room(2 * 4096).unwrap());
        assert_eq!(names(&directory).len(), 2);
        let draft = directory.draft().unwrap();
        draft.file().set_len(2 * 4096).unwrap();
        assert!(!directory.make_room(3 * 4096).unwrap(), "the draft is in the way");
        assert_eq!(names(&directory).len(), 3, "so nothing was removed for it");
        assert!(directory.make_room(4096).unwrap());
        drop(draft);
        assert_eq!(names(&directory), ["b.idx"]);
    }

    #[test]
    fn a_file_that_others_may_write_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let (_place, directory) = directory(u64::MAX);
        save(&directory, "a.idx", b"bytes");
        let path = directory.path().join("a.idx");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        assert!(matches!(directory.map("a.idx"), Err(Error::Untrusted { mode: 0o620, .. })));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("b.idx", &path).unwrap();
        save(&directory, "b.idx", b"bytes");
        assert!(matches!(directory.map("a.idx"), Err(Error::Io(_))));
    }
}
