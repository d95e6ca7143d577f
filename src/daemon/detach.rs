//! Unmounts: with umount2(2) if that is permitted, else with fusermount3.

use std::path::Path;

use rustix::{io::Errno, mount::UnmountFlags};

use super::{Error, fusermount};

/// How to unmount a mount that may be in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Unmounting is refused while the mount is in use.
    Ordinary,
    /// The mount leaves the file tree at once, and ends when it is no longer in use.
    Lazy,
}

/// Unmounts the topmost mount at `path`, which must be absolute and have no symbolic links.
///
/// # Errors
/// `InUse` (with an empty list of holders), `NotMounted`, `UnmountRefused` with the message of the
/// kernel, or the errors of `fusermount::unmount`.
pub(super) fn unmount(path: &Path, mode: Mode) -> Result<(), Error> {
    let mut flags = UnmountFlags::NOFOLLOW;
    if mode == Mode::Lazy {
        flags |= UnmountFlags::DETACH;
    }
    match rustix::mount::unmount(path, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(Error::InUse { path: path.into(), holders: Vec::new() }),
        Err(Errno::PERM) => fusermount::unmount(path, mode),
        Err(Errno::INVAL) => Err(Error::NotMounted(path.into())),
        Err(errno) => Err(Error::UnmountRefused {
            path: path.into(),
            said: super::error::plain(&errno.into()),
        }),
    }
}
