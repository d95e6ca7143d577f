//! Takes away a mount of another process.

use std::path::Path;

use super::{Error, detach, place::Place};

/// Unmounts the npzfs mount at `path`.
///
/// # Errors
/// When nothing, or something else, is mounted there, or unmounting is refused.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), Error> {
    let place = Place::open(path).map_err(|cause| Error::Mountpoint(path.into(), cause))?;
    let mount = place.mount().clone();
    if !place.is_mount_root() {
        return Err(if mount.is_npzfs() {
            Error::NotMountRoot { path: path.into(), mount_point: mount.mount_point }
        } else {
            Error::NotMounted(path.into())
        });
    }
    if !mount.is_npzfs() {
        let fs_type = mount.fs_type.to_string_lossy().into_owned();
        return Err(Error::NotNpzfs { path: path.into(), fs_type });
    }
    drop(place);
    let mode = if lazy { detach::Mode::Lazy } else { detach::Mode::Ordinary };
    detach::unmount(&mount.mount_point, mode)
}
