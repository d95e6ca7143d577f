//! Takes the writes of a command: an overlayfs above the mount, whose upper layer is a directory of
//! the caller (`--writable`).
//!
//! Files that are written first are copied from the mount to the upper layer by the kernel. The
//! server holds a lock on the directory as long as the overlay may exist: of two overlays with one
//! upper layer, neither would be defined.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::FlockOperation,
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
};

use super::directory;
use crate::daemon::{
    Error,
    error::plain,
    kernel::{self, message},
};

/// The upper layer, within the directory of the caller.
const UPPER: &str = "upper";

/// The directory that overlayfs needs for itself on the same filesystem.
const WORK: &str = "work";

/// Time that an earlier command may take to let go of the directory. Its server saves indexes
/// first.
const RELEASE: Duration = Duration::from_secs(10);

/// Time between two attempts to lock the directory.
const POLL: Duration = Duration::from_millis(5);

/// A directory that takes writes, locked.
#[derive(Debug)]
pub(super) struct Writable {
    path: PathBuf,
    _lock: File,
}

impl Writable {
    /// Makes the directory and those in it if they are missing, and locks it. `source` is the
    /// canonical path of the source.
    ///
    /// # Errors
    /// When that fails, or the directory lies in the source or the source in it.
    pub(super) fn open(given: &Path, source: &Path) -> Result<Self, Error> {
        let failed = |cause: io::Error| Error::Writable(given.into(), plain(&cause));
        fs::create_dir_all(given).map_err(failed)?;
        let path = given.canonicalize().map_err(failed)?;
        if path.starts_with(source) || source.starts_with(&path) {
            let said = "it must lie outside of the source, and the source outside of it";
            return Err(Error::Writable(path, said.into()));
        }
        let lock = File::open(&path).map_err(failed)?;
        if !lock_within(&lock, RELEASE).map_err(failed)? {
            return Err(Error::Writable(path, "another npzfs run writes there".into()));
        }
        let made = DirBuilder::new().mode(0o700).create(path.join(UPPER));
        match made {
            // The source gets the mode of the upper layer.
            Ok(()) => {
                let mode = fs::metadata(source).map_err(failed)?.mode() & 0o7777 | 0o700;
                fs::set_permissions(path.join(UPPER), Permissions::from_mode(mode))
                    .map_err(failed)?;
            }
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(failed(cause)),
        }
        fs::create_dir_all(path.join(WORK)).map_err(failed)?;
        Ok(Self { path, _lock: lock })
    }

    /// Removes what overlayfs leaves behind when it is unmounted: a directory that nobody may read.
    pub(super) fn clear(self) {
        let work = self.path.join(WORK);
        let readable = match fs::set_permissions(work.join(WORK), Permissions::from_mode(0o700)) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()), // no overlay was made
            result => result,
        };
        if let Err(cause) = readable.and_then(|()| fs::remove_dir_all(&work)) {
            log::debug!("{} stays: {cause}", work.display());
        }
    }
}

/// Takes the lock on `file`. Returns `false` if it has not become free within `limit`.
fn lock_within(file: &File, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() >= deadline => return Ok(false),
            Err(Errno::WOULDBLOCK) => thread::sleep(POLL),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Mounts an overlay over the mount on `source`. Its upper layer is in `writable`, the canonical
/// path of a directory that [`Writable::open`] has prepared. `is_user` is whether this process is
/// in a user namespace of its own, where overlayfs may not use its usual extended attributes.
///
/// # Errors
/// When overlayfs is missing or refuses.
pub(super) fn cover(
    source: &Path,
    writable: &Path,
    is_user: bool,
    noexec: bool,
) -> Result<(), Error> {
    let refused = |errno: Errno, context: Option<OwnedFd>| {
        Error::Writable(writable.into(), message(errno, context))
    };
    let [lower, upper, work] = [source.into(), writable.join(UPPER), writable.join(WORK)]
        .map(|path: PathBuf| directory(&path));
    let (lower, upper, work) = (lower?, upper?, work?);
    let overlay = match rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(fd) => fd,
        Err(errno) => return Err(refused(errno, None)),
    };
    let configure = || -> rustix::io::Result<()> {
        use rustix::mount::{fsconfig_create, fsconfig_set_flag, fsconfig_set_string};
        // The kernel takes no value of more than 255 bytes, and splits paths at colons.
        let set = |key, fd: &OwnedFd| {
            fsconfig_set_string(&overlay, key, format!("/proc/self/fd/{}", fd.as_raw_fd()))
        };
        fsconfig_set_string(&overlay, "source", kernel::shortened(source.as_os_str()))?;
        set("lowerdir", &lower)?;
        set("upperdir", &upper)?;
        set("workdir", &work)?;
        if is_user {
            fsconfig_set_flag(&overlay, "userxattr")?;
        }
        fsconfig_create(&overlay)
    };
    if let Err(errno) = configure() {
        return Err(refused(errno, Some(overlay)));
    }
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    if noexec {
        attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC;
    }
    match rustix::mount::fsmount(&overlay, FsMountFlags::FSMOUNT_CLOEXEC, attributes) {
        Ok(mount) => kernel::attach(&mount, &lower, source),
        Err(errno) => Err(refused(errno, Some(overlay))),
    }
}
