//! Mounts with the mount system calls of Linux 5.2 and later, as root or in a user namespace.
//!
//! A mount is first made outside the file tree, and is moved to its mountpoint only when its
//! filesystem answers. So a server that fails to start leaves nothing mounted, and no program sees
//! a mount before it answers. The move looks up no path: on an automount point, the lookup would
//! wait for the very mount that is being made.

use std::{
    ffi::OsStr,
    io::Read,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags},
};

use super::{Error, Options};

/// Opens /dev/fuse.
///
/// # Errors
/// When the device is missing, or this user may not open it.
pub(super) fn open_device() -> Result<OwnedFd, Error> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::FuseDevice(errno.into()))
}

/// A new filesystem that is not in the file tree yet.
#[derive(Debug)]
pub(super) struct Detached {
    filesystem: OwnedFd,
}

impl Detached {
    /// Makes a filesystem that is served through `device`. Returns `None` if this process may not
    /// mount, or if the kernel is older than 5.2.
    ///
    /// # Errors
    /// When the kernel refuses for another reason.
    pub(super) fn new(
        device: &OwnedFd,
        mountpoint: &Path,
        source: &OsStr,
        options: &Options,
    ) -> Result<Option<Self>, Error> {
        let filesystem = match rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC) {
            Ok(fd) => fd,
            Err(Errno::PERM | Errno::NOSYS) => return Ok(None),
            Err(errno) => return Err(refused(mountpoint, errno, None)),
        };
        match configure(&filesystem, device, source, options) {
            Ok(()) => Ok(Some(Self { filesystem })),
            Err(errno) => Err(refused(mountpoint, errno, Some(filesystem))),
        }
    }

    /// Mounts the filesystem outside the file tree. Returns a descriptor of its root directory,
    /// which keeps the mount busy.
    ///
    /// # Errors
    /// When fsmount(2) fails.
    pub(super) fn mount(self, mountpoint: &Path, options: &Options) -> Result<OwnedFd, Error> {
        let mut attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOATIME;
        if options.noexec {
            attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC;
        }
        rustix::mount::fsmount(&self.filesystem, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|errno| refused(mountpoint, errno, Some(self.filesystem)))
    }
}

/// Moves a detached mount to its mountpoint.
///
/// # Errors
/// When move_mount(2) fails.
pub(super) fn attach(mount: &OwnedFd, target: &OwnedFd, mountpoint: &Path) -> Result<(), Error> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
        .map_err(|errno| refused(mountpoint, errno, None))
}

fn configure(
    filesystem: &OwnedFd,
    device: &OwnedFd,
    source: &OsStr,
    options: &Options,
) -> rustix::io::Result<()> {
    use rustix::mount::{fsconfig_create, fsconfig_set_flag, fsconfig_set_string};
    let uid = rustix::process::getuid().as_raw().to_string();
    let gid = rustix::process::getgid().as_raw().to_string();
    let fd = device.as_raw_fd().to_string();
    fsconfig_set_string(filesystem, "source", shortened(source))?;
    fsconfig_set_string(filesystem, "subtype", "npzfs")?;
    fsconfig_set_string(filesystem, "fd", fd.as_str())?;
    fsconfig_set_string(filesystem, "rootmode", "40000")?;
    fsconfig_set_string(filesystem, "user_id", uid.as_str())?;
    fsconfig_set_string(filesystem, "group_id", gid.as_str())?;
    fsconfig_set_flag(filesystem, "ro")?;
    if options.kernel_checks_modes() {
        fsconfig_set_flag(filesystem, "default_permissions")?;
    }
    if options.kernel_allows_others() {
        fsconfig_set_flag(filesystem, "allow_other")?;
    }
    fsconfig_create(filesystem)
}

/// The error for `errno`, with the message that the kernel has left in the filesystem descriptor
/// `context`, if there is one.
fn refused(mountpoint: &Path, errno: Errno, context: Option<OwnedFd>) -> Error {
    Error::Refused { mountpoint: mountpoint.into(), said: message(errno, context) }
}

/// The text for `errno`, with the message that the kernel has left in the filesystem descriptor
/// `context`, if there is one.
pub(super) fn message(errno: Errno, context: Option<OwnedFd>) -> String {
    let said = super::error::plain(&errno.into());
    let mut line = [0; 256];
    // Each read returns one message, or ENODATA if there is none.
    match context.map(|fd| std::fs::File::from(fd).read(&mut line)) {
        Some(Ok(length)) => {
            format!("{said} ({})", String::from_utf8_lossy(&line[..length]).trim())
        }
        _ => said,
    }
}

/// `source` as the kernel takes it: fsconfig(2) refuses values of more than 255 bytes. Of a longer
/// path the end tells more than the start.
pub(super) fn shortened(source: &OsStr) -> Vec<u8> {
    const MOST: usize = 255;
    let bytes = source.as_bytes();
    match bytes.len().checked_sub(MOST) {
        None | Some(0) => bytes.to_vec(),
        Some(more) => [b"...", &bytes[more + 3..]].concat(),
    }
}
