//! The errors of the tree's operations, and the errno for each.

use std::{fmt, io, sync::Arc};

use rustix::io::Errno;

use super::Weight;
use crate::{archive, serve};

/// Why an operation fails.
#[derive(Debug)]
#[non_exhaustive]
pub(crate) enum FsError {
    /// There is no such name.
    NotFound,
    /// There is no such inode, or the kernel has forgotten it.
    NoInode,
    /// There is no such handle.
    NoHandle,
    /// A name was looked up in a file that is not a directory.
    NotADirectory,
    /// A directory was opened as a file.
    IsADirectory,
    /// The inode is not a symbolic link.
    NotASymlink,
    /// There is no such extended attribute.
    NoAttribute,
    /// The limit on open files is reached, for this user or for all users together.
    TooManyOpen,
    /// The mount is read-only.
    ReadOnly,
    /// The mode bits do not allow the access.
    NotPermitted,
    /// The name no longer leads to this file, or to this generation of it. The kernel then looks
    /// the name up again.
    Stale,
    /// The single file that is mounted is not an archive.
    NotAnArchive(Arc<archive::Error>),
    /// Bytes of a member cannot be read or decoded.
    Content(serve::Failure),
    /// A large archive must be opened first. Repeat the call on a thread for this weight.
    Heavy(Weight),
    /// An operation on the source failed.
    Io(io::Error),
}

impl FsError {
    /// The errno for the kernel. It is chosen here and nowhere else.
    pub(crate) fn errno(&self) -> i32 {
        let errno = match self {
            Self::NotFound => Errno::NOENT,
            Self::NoInode | Self::Stale => Errno::STALE,
            Self::NoHandle => Errno::BADF,
            Self::NotADirectory => Errno::NOTDIR,
            Self::IsADirectory => Errno::ISDIR,
            Self::NotASymlink => Errno::INVAL,
            Self::NoAttribute => Errno::NODATA,
            Self::TooManyOpen => Errno::NFILE,
            Self::Heavy(_) => Errno::AGAIN,
            Self::ReadOnly => Errno::ROFS,
            Self::NotPermitted => Errno::ACCESS,
            Self::Content(failure) => match &failure.error {
                serve::Error::Encrypted => Errno::ACCESS,
                serve::Error::UnsupportedMethod(_) => Errno::OPNOTSUPP,
                serve::Error::Io(error) => of_kind(error),
                _ => Errno::IO,
            },
            Self::NotAnArchive(_) => Errno::IO,
            Self::Io(error) => {
                return error.raw_os_error().unwrap_or(of_kind(error).raw_os_error());
            }
        };
        errno.raw_os_error()
    }

    /// Whether the file may exist, but was not opened, so that its kind is not known.
    pub(crate) fn leaves_open(&self) -> bool {
        match self {
            Self::Heavy(_) => true,
            Self::Io(error) => error.kind() == io::ErrorKind::OutOfMemory,
            _ => false,
        }
    }

    /// Whether the source failed (EIO, ENOMEM). Other errors are normal replies to a request.
    pub(crate) fn is_of_source(&self) -> bool {
        let errnos = [Errno::IO, Errno::NOMEM].map(Errno::raw_os_error);
        matches!(self, Self::Io(_)) && errnos.contains(&self.errno())
    }
}

/// The errno for an I/O error, which does not mean that the file is damaged.
fn of_kind(error: &io::Error) -> Errno {
    match error.kind() {
        io::ErrorKind::FileTooLarge => Errno::FBIG,
        io::ErrorKind::StorageFull => Errno::NOSPC,
        io::ErrorKind::OutOfMemory => Errno::NOMEM,
        _ => Errno::IO,
    }
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("no such name"),
            Self::NoInode => f.write_str("no such inode"),
            Self::NoHandle => f.write_str("no such handle"),
            Self::NotADirectory => f.write_str("not a directory"),
            Self::IsADirectory => f.write_str("a directory"),
            Self::NotASymlink => f.write_str("not a symbolic link"),
            Self::NoAttribute => f.write_str("no such extended attribute"),
            Self::TooManyOpen => f.write_str("too many files are open"),
            Self::Heavy(_) => f.write_str("a large archive is to be opened first"),
            Self::ReadOnly => f.write_str("the mount is read-only"),
            Self::NotPermitted => f.write_str("its mode does not allow it"),
            Self::Stale => f.write_str("replaced since it was looked up"),
            Self::Content(failure) => write!(f, "{}", failure.error),
            Self::NotAnArchive(error) => write!(f, "{error}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for FsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Content(failure) => Some(&failure.error),
            Self::NotAnArchive(error) => Some(&**error),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for FsError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound { Self::NotFound } else { Self::Io(error) }
    }
}

impl From<Errno> for FsError {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}
