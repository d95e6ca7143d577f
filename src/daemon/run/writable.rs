//! Takes the writes of a command: an overlayfs above the mount, whose upper layer is a directory of
//! the caller (`--writable`).
//!
//! Files that are written first are copied from the mount to the upper layer by the kernel. The
//! server holds a lock on the directory until it ends: what two overlays with one upper layer show
//! is undefined.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
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

use super::{directory, mountpoint, path_of};
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

const INSIDE: &str = "it must lie outside of the source, and the source outside of it";
const BUSY: &str = "another npzfs run writes there; wait for its end, or give another directory";

/// A directory that takes writes, locked. When it is dropped, only the upper layer is left in it.
#[derive(Debug)]
pub(super) struct Writable {
    path: PathBuf,
    _lock: File,
}

impl Writable {
    /// Makes the directory and those in it if they are missing, and locks it. `source` is the
    /// canonical path of the source, and `shows_owners` is whether the overlay shows the owners of
    /// the source.
    ///
    /// # Errors
    /// When that fails, or the directory lies in the source or the source in it.
    pub(super) fn open(given: &Path, source: &Path, shows_owners: bool) -> Result<Self, Error> {
        let failed = |cause: io::Error| unusable(given, &plain(&cause));
        let inside = || Error::Writable(given.into(), INSIDE.into());
        let from_here = Path::new(".").join(given);
        let missing: Vec<_> = from_here.ancestors().take_while(|path| !path.is_dir()).collect();
        for path in missing.into_iter().rev() {
            let parent = path.parent().unwrap_or(path).canonicalize().map_err(failed)?;
            // Else a command that is refused would leave a directory in the source.
            if parent.starts_with(source) {
                return Err(inside());
            }
            fs::create_dir_all(path).map_err(failed)?;
        }
        let path = given.canonicalize().map_err(failed)?;
        if path.starts_with(source) || source.starts_with(&path) {
            return Err(inside());
        }
        let lock = File::open(&path).map_err(failed)?;
        if !lock_within(&lock, RELEASE).map_err(failed)? {
            return Err(Error::Writable(path, BUSY.into()));
        }
        match DirBuilder::new().mode(0o700).create(path.join(UPPER)) {
            Ok(()) => as_source(&path.join(UPPER), source, shows_owners).map_err(failed)?,
            Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(failed(cause)),
        }
        fs::create_dir_all(path.join(WORK)).map_err(failed)?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Writable {
    /// Removes the directory that overlayfs leaves when it is unmounted, and that nobody may read.
    fn drop(&mut self) {
        let work = self.path.join(WORK);
        let readable = match directory(&work.join(WORK)) {
            Err(Errno::NOENT) => Ok(()), // no overlay was made
            Err(errno) => Err(errno.into()),
            Ok(fd) => fs::set_permissions(path_of(&fd), Permissions::from_mode(0o700)),
        };
        if let Err(cause) = readable.and_then(|()| fs::remove_dir_all(&work)) {
            log::debug!("{} stays: {cause}", work.display());
        }
    }
}

/// Gives a new upper layer the mode of `source` and, if `shows_owners`, its owner, because the
/// overlay shows these attributes of the upper layer for the source itself.
fn as_source(upper: &Path, source: &Path, shows_owners: bool) -> io::Result<()> {
    let of_source = fs::metadata(source)?;
    let upper = directory(upper)?;
    if shows_owners {
        let done = chown(path_of(&upper), Some(of_source.uid()), Some(of_source.gid()));
        match done.as_ref().map_err(Errno::from_io_error) {
            // The owner has no number in this container, or this process lacks CAP_CHOWN.
            Err(Some(Errno::INVAL | Errno::PERM)) => {}
            _ => done?,
        }
    }
    // After chown(2), which clears the setgid bit.
    let mode = of_source.mode() & 0o7777 | 0o700;
    fs::set_permissions(path_of(&upper), Permissions::from_mode(mode))
}

/// The error for a directory that is of no use for writes.
pub(super) fn unusable(path: &Path, said: &str) -> Error {
    let advice = "give a directory of your own, on ext4, xfs, btrfs or tmpfs";
    Error::Writable(path.into(), format!("{said}; {advice}"))
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
    let refused =
        |errno: Errno, context: Option<OwnedFd>| unusable(writable, &message(errno, context));
    let lower = mountpoint(source)?;
    let layer = |name| directory(&writable.join(name)).map_err(|errno| refused(errno, None));
    let (upper, work) = (layer(UPPER)?, layer(WORK)?);
    let overlay = match rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(fd) => fd,
        Err(errno) => return Err(refused(errno, None)),
    };
    let configure = || -> rustix::io::Result<()> {
        use rustix::mount::{fsconfig_create, fsconfig_set_flag, fsconfig_set_string};
        // The kernel takes no value of more than 255 bytes, and splits paths at colons.
        let set = |key, fd: &OwnedFd| fsconfig_set_string(&overlay, key, path_of(fd));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o7777
    }

    #[test]
    fn only_the_upper_layer_is_left_at_the_end() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [source, given] = ["source", "new/given"].map(|name| dir.path().join(name));
        fs::create_dir(&source).expect("mkdir");
        fs::set_permissions(&source, Permissions::from_mode(0o2551)).expect("chmod");
        let writable = Writable::open(&given, &source, true).expect("it will do");
        let sealed = given.join("work/work");
        DirBuilder::new().mode(0o000).create(sealed).expect("mkdir");
        drop(writable);
        let left =
            fs::read_dir(&given).expect("it is there").map(|entry| entry.expect("ls").path());
        assert_eq!(left.collect::<Vec<_>>(), [given.join(UPPER)]);
        assert_eq!(mode(&given.join(UPPER)), 0o2751);
    }

    #[test]
    fn no_mode_changes_through_a_link_that_another_user_has_put_there() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [source, given, other] = ["source", "given", "other"].map(|name| dir.path().join(name));
        for path in [&source, &other] {
            fs::create_dir(path).expect("mkdir");
            fs::set_permissions(path, Permissions::from_mode(0o751)).expect("chmod");
        }
        let writable = Writable::open(&given, &source, true).expect("it will do");
        std::os::unix::fs::symlink(&other, given.join("work/work")).expect("symlink");
        drop(writable);
        assert_eq!(mode(&other), 0o751);
    }
}
