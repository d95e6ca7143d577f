//! Opens the files of the source: no other module of this layer does.
//!
//! All names are resolved beneath the directory that was opened before mounting, and symbolic links
//! are never followed. So no file that somebody adds while npzfs runs can lead outside the
//! directory, or into the mount that may cover it.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt, unix::ffi::OsStringExt},
    path::Path,
    sync::OnceLock,
};

use rustix::{
    fs::{Access, AtFlags, Dir, Mode, OFlags, ResolveFlags, StatVfs, StatxFlags},
    io::Errno,
};

use super::attr::{Kind, Stat};
use crate::{mounts, serve::is_out_of_descriptors};

/// The directory or the archive that is mounted. Open it before the mount covers it.
pub(crate) struct Source {
    /// The mounted directory, or the directory that contains the mounted archive.
    directory: OwnedFd,
    /// The archive's name in `directory`, if a single archive is mounted.
    archive: Option<OsString>,
    shortage: Shortage,
}

/// Closes a file that can be opened again; returns `false` if there is none.
type GiveUp = Box<dyn Fn() -> bool + Send + Sync>;

/// The function to call when no descriptor is left.
#[derive(Default)]
struct Shortage(OnceLock<GiveUp>);

impl Source {
    /// Opens a directory, or a single archive.
    ///
    /// # Errors
    /// When `path` cannot be opened.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
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
        // Symbolic links are resolved now. Later the archive is opened by its name in its
        // directory.
        let path = path.canonicalize()?;
        File::open(&path)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok(Self { archive: Some(name.to_owned()), ..Self::directory(open(parent)?) })
    }

    /// A source that is an open directory.
    pub(crate) fn directory(directory: OwnedFd) -> Self {
        Self { directory, archive: None, shortage: Shortage::default() }
    }

    /// Sets the function that is called, perhaps repeatedly, when no descriptor is left. It must
    /// close a file that can be opened again, or return `false` if there is none.
    pub(super) fn on_shortage(&self, give_up: impl Fn() -> bool + Send + Sync + 'static) {
        // The function cannot be set already: a source has one tree, which sets it once.
        let _ = self.shortage.0.set(Box::new(give_up));
    }

    /// Calls `open`; while it fails for lack of a descriptor, closes files and calls it again.
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

    /// Opens a file of another filesystem that is mounted in the source, unless that is a mount of
    /// npzfs. Two npzfs servers that read each other's mounts would wait for each other, and not
    /// even SIGKILL ends that.
    fn open_across(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let mut directory = self.directory.try_clone()?;
        let mut mount = mounts::id_of(&directory)?;
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            let name = Path::new(component.as_os_str());
            // With O_PATH, the kernel sends no request to the mount that is crossed.
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

    /// stat of `path`. A symbolic link as the last component is not followed.
    pub(super) fn stat(&self, path: &Path) -> io::Result<Stat> {
        let file = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        stat_of(&file)
    }

    /// Opens the regular file `path` for reading. Returns its stat too.
    pub(super) fn open_file(&self, path: &Path) -> io::Result<(File, Stat)> {
        regular(self.open_at(path, FOR_READING)?)
    }

    /// Checks whether npzfs may read or execute (search) `path`.
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

    /// The directory `path`, to look up one name in it.
    pub(super) fn at<'a>(&'a self, path: &'a Path) -> SourceDir<'a> {
        SourceDir { source: self, path, open: None, waits: true }
    }

    /// The directory `path`, opened once to look up many names in it.
    pub(super) fn open_directory<'a>(&'a self, path: &'a Path) -> io::Result<SourceDir<'a>> {
        let open = self.open_at(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
        Ok(SourceDir { source: self, path, open: Some(open), waits: true })
    }

    /// The result of statvfs(2) for the filesystem of the source.
    pub(super) fn stat_vfs(&self) -> io::Result<StatVfs> {
        Ok(rustix::fs::fstatvfs(&self.directory)?)
    }
}

/// A name in a directory of the source, its inode number, and its kind. The kind is `None` if the
/// filesystem does not store kinds in directories (DT_UNKNOWN).
pub(super) type SourceName = (OsString, u64, Option<Kind>);

/// A directory of the source. If it is open, names in it are resolved without walking its path.
pub(super) struct SourceDir<'a> {
    source: &'a Source,
    /// The directory's path within the source.
    pub path: &'a Path,
    open: Option<OwnedFd>,
    /// Whether a lookup may open a large archive, which may take seconds.
    pub waits: bool,
}

impl SourceDir<'_> {
    /// stat of `name`. A symbolic link is not followed.
    pub(super) fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        stat_of(self.open_at(name, OFlags::PATH | OFlags::NOFOLLOW)?)
    }

    /// Opens the regular file `name` for reading. Returns its stat too.
    pub(super) fn open_file(&self, name: &OsStr) -> io::Result<(File, Stat)> {
        regular(self.open_at(name, FOR_READING)?)
    }

    /// Another descriptor of the directory, if it is open.
    pub(super) fn try_clone(&self) -> Option<OwnedFd> {
        self.open.as_ref()?.try_clone().ok()
    }

    /// The names in the directory except `.` and `..`, with their inode numbers, and with their
    /// kinds if the directory holds them. Calls `grow` before it adds every [`NAMES_AT_ONCE`]-th
    /// name.
    pub(super) fn list(
        &self,
        mut grow: impl FnMut() -> io::Result<()>,
    ) -> io::Result<Vec<SourceName>> {
        let mut names = Vec::new();
        // Opened by its path: opening `.` at its descriptor fails if the directory may be listed
        // but not searched.
        let open = self.source.open_at(self.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        for entry in Dir::new(open)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let kind = Some(entry.file_type()).filter(|kind| *kind != Kind::Unknown);
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

/// While a directory is read, memory is reserved for this many names at a time.
pub(super) const NAMES_AT_ONCE: usize = 1 << 16;

/// NONBLOCK: if a fifo has replaced the file, opening it must not wait.
const FOR_READING: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Opens the regular file `name` in `directory` for reading. Returns its stat too. Fails if another
/// filesystem is mounted at `name`.
pub(super) fn open_regular(directory: &OwnedFd, name: &OsStr) -> io::Result<(File, Stat)> {
    regular(open_beneath(directory, Path::new(name), FOR_READING, ResolveFlags::NO_XDEV)?)
}

/// The open file and its stat. Fails with ESTALE if it is not a regular file.
fn regular(file: OwnedFd) -> io::Result<(File, Stat)> {
    let stat = stat_of(&file)?;
    if stat.kind() != Kind::RegularFile {
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
