//! Takes a mount away: with umount2(2) where that is permitted, else with fusermount3.

use std::path::Path;

use rustix::{io::Errno, mount::UnmountFlags};

use super::{Error, fusermount};

/// How a mount is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Refused while it is in use.
    Ordinary,
    /// Out of the file tree at once, and gone when it is no longer in use.
    Lazy,
}

/// Unmounts what is mounted at `path`, which must be absolute and without symbolic links.
///
/// # Errors
/// `InUse` (without holders), `NotMounted`, or `UnmountRefused` with the message of the kernel.
pub fn unmount(path: &Path, mode: Mode) -> Result<(), Error> {
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
