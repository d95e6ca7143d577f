//! Opens the directory or archive to show, before the mount may cover it.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, Mode, OFlags, Stat};

use super::{
    Error,
    place::{Answer, Place},
};
use crate::tree;

/// The open directory or archive that a mount shows.
#[derive(Debug)]
pub(super) struct Source {
    /// The canonical path of the source.
    pub path: PathBuf,
    /// stat(2) of the source.
    pub stat: Stat,
    kind: FileType,
    fd: OwnedFd,
}

impl Source {
    /// Opens `path` for reading, once its kind is known.
    ///
    /// # Errors
    /// When the source does not exist, cannot be read, or is neither a directory nor a file.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let place = Place::open(path).map_err(|cause| Error::Source(path.into(), cause))?;
        let fs_type = place.mount().fs_type.clone();
        // The kind is checked before the source is opened for reading: opening a FIFO waits for a
        // writer, and opening a device may do anything.
        match place.stat() {
            Answer::Given(stat) => {
                let kind = FileType::from_raw_mode(stat.st_mode);
                if kind != FileType::Directory && kind != FileType::RegularFile {
                    return Err(Error::SourceKind(path.into()));
                }
                let fd = readable(&place).map_err(|cause| Error::Source(path.into(), cause))?;
                Ok(Self { path: place.path().into(), stat, kind, fd })
            }
            Answer::Dead => Err(Error::Dead { path: path.into(), fs_type }),
            Answer::Hung => Err(Error::Hung { path: path.into(), fs_type }),
            Answer::Refused(cause) => Err(Error::Source(path.into(), cause)),
        }
    }

    /// Checks that the source can be covered by a mount in `npzfs run`.
    ///
    /// # Errors
    /// When it is a file, or the root directory.
    pub(super) fn check_coverable(&self) -> Result<(), Error> {
        if self.kind == FileType::Directory && self.path != Path::new("/") {
            return Ok(());
        }
        Err(Error::RunSource(self.path.clone()))
    }

    /// Whether `stat` describes the source itself.
    pub(super) fn is(&self, stat: &Stat) -> bool {
        (self.stat.st_dev, self.stat.st_ino) == (stat.st_dev, stat.st_ino)
    }

    /// Converts the source into the form that the tree needs.
    ///
    /// # Errors
    /// When the directory that contains the archive cannot be opened.
    pub(super) fn into_tree(self) -> io::Result<tree::Source> {
        if self.kind == FileType::Directory {
            Ok(tree::Source::directory(self.fd))
        } else {
            // The archive may be replaced by another file, so the tree looks up its name each time.
            tree::Source::open(&self.path)
        }
    }
}

/// Opens `place` for reading, through its descriptor: its path may lead to another file by now.
fn readable(place: &Place) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", place.fd().as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}
