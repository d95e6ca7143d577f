//! The source tree: the one file that touches the user's directories.
//!
//! All names are resolved beneath the directory that was opened before mounting, and never through
//! a symbolic link, so that what is put there while we run cannot lead outside, nor into the mount
//! that may lie on top.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt, unix::ffi::OsStringExt, unix::fs::FileExt},
    path::Path,
    sync::{Arc, OnceLock},
};

use rustix::{
    fs::{Access, AtFlags, Dir, Mode, OFlags, ResolveFlags, StatVfs, StatxFlags},
    io::Errno,
};

use super::attr::{Kind, Stat};
use crate::{mounts, serve::is_out_of_descriptors};

/// What is mounted. Open it before the mount covers it.
#[derive(Debug)]
pub struct Source {
    /// The directory, or the one that the archive lies in.
    directory: OwnedFd,
    /// The archive's name in it, if one archive is mounted.
    archive: Option<OsString>,
    shortage: Shortage,
}

/// Closes something that can be opened again; `false` if there is nothing.
type GiveUp = Box<dyn Fn() -> bool + Send + Sync>;

/// What to do when there is no descriptor left.
#[derive(Default)]
struct Shortage(OnceLock<GiveUp>);

impl fmt::Debug for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shortage")
    }
}

impl Source {
    /// Opens a directory, or a single archive.
    ///
    /// # Errors
    /// When `path` cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let open = |path: &Path| {
            rustix::fs::open(
                path,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        if path.metadata()?.is_dir() {
            return Ok(Self::directory(open(path)?));
        }
        // Through symbolic links now: later only the name in its own directory counts.
        let path = path.canonicalize()?;
        File::open(&path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok(Self { archive: Some(name.to_owned()), ..Self::directory(open(parent)?) })
    }

    /// An open directory.
    #[must_use]
    pub fn directory(directory: OwnedFd) -> Self {
        Self { directory, archive: None, shortage: Shortage::default() }
    }

    /// Calls `give_up`, once or more, when there is no descriptor left; it closes something that can
    /// be opened again, or says that there is nothing.
    pub(super) fn on_shortage(&self, give_up: impl Fn() -> bool + Send + Sync + 'static) {
        // There is one tree over a source, which sets it once.
        let _ = self.shortage.0.set(Box::new(give_up));
    }

    /// What `open` gives when it has a descriptor.
    fn with_descriptor<T>(&self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match open() {
                Err(error) if is_out_of_descriptors(&error) => {
                    if !self.shortage.0.get().is_some_and(|give_up| give_up()) {
                        return Err(error);
                    }
                }
                opened => return opened,
            }
        }
    }

    pub(super) fn archive(&self) -> Option<&OsStr> {
        self.archive.as_deref()
    }

    fn open_at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        self.with_descriptor(|| {
            match open_beneath(&self.directory, path, flags, ResolveFlags::NO_XDEV) {
                Err(error) if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => {
                    self.open_across(path, flags)
                }
                opened => opened,
            }
        })
    }

    /// Opens what lies in a filesystem that is mounted in the source; not if that is one of npzfs.
    /// A server that asked a mount which asks it back would wait for itself, and not even SIGKILL
    /// ends that.
    fn open_across(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let mut directory = self.directory.try_clone()?;
        let mut mount = mounts::id_of(&directory)?;
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            let name = Path::new(component.as_os_str());
            // Crossing a mount by O_PATH asks nothing of it.
            let next = open_beneath(
                &directory,
                name,
                OFlags::PATH | OFlags::NOFOLLOW,
                ResolveFlags::empty(),
            )?;
            let next_mount = mounts::id_of(&next)?;
            if next_mount != mount
                && mounts::by_id(next_mount)?.is_some_and(|mount| mount.is_npzfs())
            {
                return Err(Errno::LOOP.into());
            }
            if components.peek().is_none() {
                return open_beneath(&directory, name, flags, ResolveFlags::empty());
            }
            (directory, mount) = (next, next_mount);
        }
        Ok(directory)
    }

    /// stat of `path`, the last component not followed.
    pub(super) fn stat(&self, path: &Path) -> io::Result<Stat> {
        let file = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        stat_of(&file)
    }

    /// Opens the regular file `path` for reading, and says what stat(2) says of it.
    pub(super) fn open_file(&self, path: &Path) -> io::Result<(File, Stat)> {
        regular(self.open_at(path, FOR_READING)?)
    }

    /// Whether we may read, execute (search) `path`.
    pub(super) fn access(&self, path: &Path, read: bool, execute: bool) -> io::Result<()> {
        let mut access = Access::EXISTS;
        access.set(Access::READ_OK, read);
        access.set(Access::EXEC_OK, execute);
        let flags = AtFlags::EACCESS | AtFlags::SYMLINK_NOFOLLOW;
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => {
                let parent = self.open_at(parent, OFlags::PATH | OFlags::DIRECTORY)?;
                Ok(rustix::fs::accessat(parent, name, access, flags)?)
            }
            _ => Ok(rustix::fs::accessat(&self.directory, ".", access, flags)?),
        }
    }

    /// The target of the symbolic link `path`.
    pub(super) fn read_link(&self, path: &Path) -> io::Result<OsString> {
        let link = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// The directory `path`, for a question about one name in it.
    pub(super) fn at<'a>(&'a self, path: &'a Path) -> SourceDir<'a> {
        SourceDir { source: self, path, open: None, waits: true }
    }

    /// The directory `path`, opened once for questions about many names in it.
    pub(super) fn open_directory<'a>(&'a self, path: &'a Path) -> io::Result<SourceDir<'a>> {
        let open = self.open_at(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
        Ok(SourceDir { source: self, path, open: Some(open), waits: true })
    }

    /// What statvfs(2) says of the filesystem the source lies on.
    pub(super) fn stat_vfs(&self) -> io::Result<StatVfs> {
        Ok(rustix::fs::fstatvfs(&self.directory)?)
    }
}

/// A name in a directory of the source, its inode number, and its kind where that is known.
pub(super) type SourceName = (OsString, u64, Option<Kind>);

/// A directory of the source. Asking an open one for a name walks no path.
#[derive(Debug)]
pub(super) struct SourceDir<'a> {
    source: &'a Source,
    /// Relative to the source.
    pub path: &'a Path,
    open: Option<OwnedFd>,
    /// Whether large archives are opened when they are asked for, which may take seconds.
    pub waits: bool,
}

impl SourceDir<'_> {
    /// stat of `name`, not followed.
    pub fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        stat_of(self.open_at(name, OFlags::PATH | OFlags::NOFOLLOW)?)
    }

    /// Opens the regular file `name` for reading, and says what stat(2) says of it.
    pub fn open_file(&self, name: &OsStr) -> io::Result<(File, Stat)> {
        regular(self.open_at(name, FOR_READING)?)
    }

    /// Another descriptor of it, if it is open.
    pub fn try_clone(&self) -> Option<OwnedFd> {
        self.open.as_ref()?.try_clone().ok()
    }

    /// The names in it but `.` and `..`, with their inode numbers, and their kinds where they are
    /// known. Calls `grow` before each [`NAMES_AT_ONCE`] of them but the first.
    pub fn list(&self, mut grow: impl FnMut() -> io::Result<()>) -> io::Result<Vec<SourceName>> {
        let mut names = Vec::new();
        // Not by its descriptor: what may be listed and not searched has no `.` either.
        let open = self.source.open_at(self.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        for entry in Dir::new(open)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let kind = Kind::of(entry.file_type());
                if names.len() % NAMES_AT_ONCE == NAMES_AT_ONCE - 1 {
                    grow()?;
                }
                names.push((OsStr::from_bytes(name).to_owned(), entry.ino(), kind));
            }
        }
        Ok(names)
    }

    fn open_at(&self, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
        if let Some(directory) = &self.open {
            let open = || open_beneath(directory, Path::new(name), flags, ResolveFlags::NO_XDEV);
            match self.source.with_descriptor(open) {
                Err(error) if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => {}
                opened => return opened,
            }
        }
        self.source.open_at(&self.path.join(name), flags)
    }
}

/// Names of a directory between two questions whether there is memory for more.
pub(super) const NAMES_AT_ONCE: usize = 1 << 16;

/// NONBLOCK: should a fifo have taken a file's place, opening it must not wait.
const FOR_READING: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Opens the regular file `name` in `directory` for reading, and says what stat(2) says of it; not
/// if something is mounted there.
pub(super) fn open_regular(directory: &OwnedFd, name: &OsStr) -> io::Result<(File, Stat)> {
    regular(open_beneath(directory, Path::new(name), FOR_READING, ResolveFlags::NO_XDEV)?)
}

/// An opened file and what stat(2) says of it, if it is a regular one.
fn regular(file: OwnedFd) -> io::Result<(File, Stat)> {
    let stat = stat_of(&file)?;
    if stat.kind() != Kind::File {
        return Err(Errno::STALE.into());
    }
    Ok((file.into(), stat))
}

fn open_beneath(
    directory: &OwnedFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    let resolve =
        resolve | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve)?)
}

/// stat of an open file.
pub(super) fn stat_of(file: impl std::os::fd::AsFd) -> io::Result<Stat> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    Ok(Stat(rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, mask)?))
}

/// An open file that is no archive; all handles of its inode share one.
#[derive(Debug, Clone)]
pub struct PlainFile(pub(super) Arc<File>);

impl PlainFile {
    /// Fills `buf` from `offset`, less only at the end of the file, and says how much.
    ///
    /// # Errors
    /// What pread(2) says.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
