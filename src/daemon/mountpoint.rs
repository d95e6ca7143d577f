//! Checks whether a directory can be mounted on, and removes dead npzfs mounts from it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    Error, Options, detach,
    place::{self, Answer, Place},
    serve::given_number,
    source::Source,
};
use crate::mounts;

/// The most dead mounts to remove from one mountpoint. They may lie on top of each other.
const MOST_DEAD_MOUNTS: usize = 16;

/// A mountpoint that did not exist before. Dropping this value removes it.
#[derive(Debug)]
pub(crate) struct MadeMountpoint {
    /// The canonical path.
    pub path: PathBuf,
}

impl MadeMountpoint {
    /// Makes the mountpoint if it does not exist, but not the directory that it lies in. `None` if
    /// there is something at its path already.
    ///
    /// # Errors
    /// When it cannot be made, or the source does not exist.
    pub(crate) fn make(options: &Options) -> Result<Option<Self>, Error> {
        let (source, path) = (&*options.source, &*options.mountpoint);
        let is_missing = |path| match Place::open(path) {
            Err(cause) => Errno::from_io_error(&cause) == Some(Errno::NOENT),
            Ok(_) => false,
        };
        if given_number(path).is_some() {
            return Ok(None);
        }
        // mkdir(2) alone would do, but could ask a filesystem that hangs.
        if !is_missing(path) {
            return Ok(None);
        }
        // If the source is the same path, it would be made here.
        if is_missing(source) {
            return Err(Error::Source(source.into(), Errno::NOENT.into()));
        }
        match std::fs::create_dir(path) {
            Ok(()) => {}
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                return Err(Error::MountpointMissing(path.into()));
            }
            Err(cause) => return Err(Error::Mountpoint(path.into(), cause)),
        }
        // The server changes its working directory.
        let path = path.canonicalize().map_err(|cause| Error::Mountpoint(path.into(), cause))?;
        Ok(Some(Self { path }))
    }
}

impl Drop for MadeMountpoint {
    fn drop(&mut self) {
        if let Err(cause) = std::fs::remove_dir(&self.path) {
            log::debug!("the mountpoint {} stays: {cause}", self.path.display());
        }
    }
}

/// A directory that can be mounted on.
#[derive(Debug)]
pub(super) struct Mountpoint {
    place: Place,
}

impl Mountpoint {
    /// Opens the mountpoint, and removes dead npzfs mounts from it.
    ///
    /// # Errors
    /// When the mountpoint does not exist, is not a directory, or already has a mount on it: a live
    /// npzfs mount, or any other mount that does not answer or refuses access.
    pub(super) fn find(path: &Path) -> Result<Self, Error> {
        for _ in 0..MOST_DEAD_MOUNTS {
            let place = Place::open(path).map_err(|cause| match Errno::from_io_error(&cause) {
                Some(Errno::NOENT) => Error::MountpointMissing(path.into()),
                Some(Errno::NOTDIR) => Error::MountpointNotDirectory(path.into()),
                _ => place::unreachable(path, cause),
            })?;
            let mount = place.mount().clone();
            let fs_type = mount.fs_type.clone();
            match place.stat() {
                Answer::Dead if mount.is_npzfs() && place.is_mount_root() => {
                    log::info!("clearing the dead mount at {}", place.path().display());
                    let path = place.path().to_path_buf();
                    // An open descriptor keeps the mount busy.
                    drop(place);
                    detach::unmount(&path, detach::Mode::Lazy)?;
                }
                Answer::Dead => return Err(Error::Dead { path: mount.mount_point, fs_type }),
                Answer::Hung => return Err(Error::Hung { path: mount.mount_point, fs_type }),
                // A FUSE mount of another user may refuse even stat(2).
                Answer::Refused(_) if mount.is_fuse() && place.is_mount_root() => {
                    return Err(busy(&place));
                }
                Answer::Refused(cause) => return Err(Error::Mountpoint(path.into(), cause)),
                Answer::Given(stat) => {
                    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                        return Err(Error::MountpointNotDirectory(path.into()));
                    }
                    if mount.is_npzfs() && place.is_mount_root() {
                        return Err(busy(&place));
                    }
                    return Ok(Self { place });
                }
            }
        }
        let fs_type = mounts::FS_TYPE.to_string();
        Err(Error::Dead { path: path.into(), fs_type })
    }

    /// The absolute path, without symbolic links.
    pub(super) fn path(&self) -> &Path {
        self.place.path()
    }

    /// The descriptor of the directory that the mount will cover.
    pub(super) fn fd(&self) -> &OwnedFd {
        self.place.fd()
    }

    /// Checks that a mount of `source` on this directory hides no files but those of the source,
    /// and does not become part of the directory that it shows.
    ///
    /// # Errors
    /// When the directory lies inside the source, or is neither empty nor the source itself.
    pub(super) fn check(&self, source: &Source) -> Result<(), Error> {
        let path = self.path().to_path_buf();
        let unusable = |errno: Errno| Error::Mountpoint(path.clone(), errno.into());
        if source.is(&rustix::fs::fstat(self.fd()).map_err(unusable)?) {
            return Ok(());
        }
        if self.lies_in(source).map_err(unusable)? {
            return Err(Error::Inside { mountpoint: path, source: source.path.clone() });
        }
        // Reading an automount point triggers it, and waits for the very mount that is being made.
        if self.place.is_mount_root() && self.place.mount().fs_type == "autofs" {
            return Ok(());
        }
        match self.place.ask(is_empty) {
            Answer::Given(true) => Ok(()),
            Answer::Given(false) if self.place.is_mount_root() => Err(busy(&self.place)),
            Answer::Given(false) => Err(Error::MountpointNotEmpty(path)),
            Answer::Refused(cause) => Err(Error::Mountpoint(path, cause)),
            Answer::Dead | Answer::Hung => {
                Err(Error::Hung { fs_type: self.place.mount().fs_type.clone(), path })
            }
        }
    }

    /// Whether the directory lies inside the source. Compares device and inode of each parent
    /// directory: with bind mounts, one directory has several paths.
    fn lies_in(&self, source: &Source) -> rustix::io::Result<bool> {
        let mut here: Stat = rustix::fs::fstat(self.fd())?;
        let mut fd: Option<OwnedFd> = None;
        loop {
            let at = fd.as_ref().unwrap_or(self.fd());
            let up =
                match rustix::fs::openat(at, "..", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
                    Ok(up) => up,
                    // This user may not search the parent directory, but has opened the source. So
                    // the source is neither that directory nor above it, unless another path leads
                    // there.
                    Err(Errno::ACCESS) => return Ok(self.path().starts_with(&source.path)),
                    Err(errno) => return Err(errno),
                };
            let above = rustix::fs::fstat(&up)?;
            if source.is(&above) {
                return Ok(true);
            }
            if (above.st_dev, above.st_ino) == (here.st_dev, here.st_ino) {
                return Ok(self.is_shared_into(source));
            }
            here = above;
            fd = Some(up);
        }
    }

    /// Whether the directory is a bind mount of a directory inside the source, in the same peer
    /// group. A mount on the directory then appears inside the source as well
    /// (mount_namespaces(7)).
    fn is_shared_into(&self, source: &Source) -> bool {
        let Ok(of_source) = Place::open(&source.path) else { return false };
        let (ours, theirs) = (self.place.mount(), of_source.mount());
        ours.peer_group.is_some()
            && ours.peer_group == theirs.peer_group
            && within_filesystem(&self.place).starts_with(within_filesystem(&of_source))
    }
}

/// The path of `place` within its filesystem, of which the mount may show only a part.
fn within_filesystem(place: &Place) -> PathBuf {
    let mount = place.mount();
    mount.root.join(place.path().strip_prefix(&mount.mount_point).unwrap_or(Path::new("")))
}

fn busy(place: &Place) -> Error {
    let mount = place.mount();
    Error::MountpointBusy {
        path: place.path().into(),
        fs_type: mount.fs_type.clone(),
        source: super::error::Shown(Path::new(&mount.source)).to_string(),
    }
}

fn is_empty(fd: &OwnedFd) -> rustix::io::Result<bool> {
    // An O_PATH descriptor cannot be read, so "." is opened.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(fd.as_fd(), ".", flags, Mode::empty())?;
    for entry in Dir::read_from(dir)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
