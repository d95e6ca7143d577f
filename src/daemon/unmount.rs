//! Unmounts a mount that another process serves.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{
    Error,
    detach::{self, Mode},
    mount::GRACE,
    place::{self, Answer, Place},
    processes::{self, Process},
};
use crate::mounts;

/// Time that a server may take to end after its mount is gone. It gives up stuck requests after
/// [`GRACE`], and saves as many indexes as it can within another [`GRACE`].
const SERVER_END: Duration = Duration::from_secs(2 * GRACE.as_secs() + 10);

/// Unmounts the npzfs mount at `path`. Unless the mount is dead or `lazy` is set, also waits until
/// the server has ended, if the kernel shows its process (Linux 6.18 and later).
///
/// # Errors
/// When no npzfs mount is at `path`, the mount is in use, unmounting is refused, or the server does
/// not end.
pub(crate) fn unmount(path: &Path, lazy: bool) -> Result<(), Error> {
    let place = Place::open(path).map_err(|cause| match Errno::from_io_error(&cause) {
        Some(Errno::NOENT) => Error::NotMounted(path.into()),
        _ => place::unreachable(path, cause),
    })?;
    let mount = place.mount().clone();
    if !place.is_mount_root() {
        return Err(if mount.is_npzfs() {
            Error::NotMountRoot { path: path.into(), mount_point: mount.mount_point }
        } else {
            Error::NotMounted(path.into())
        });
    }
    if !mount.is_npzfs() {
        return Err(Error::NotNpzfs { path: path.into(), fs_type: mount.fs_type });
    }
    // A lazy unmount does not ask the filesystem first: a mount that hangs would not answer.
    let detach = lazy || matches!(place.stat(), Answer::Dead);
    // An open descriptor keeps the mount busy.
    drop(place);
    if detach {
        return detach::unmount(&mount.mount_point, Mode::Lazy);
    }

    let servers: Vec<Process> =
        processes::servers(mount.device).into_iter().filter_map(Process::open).collect();
    detach::unmount(&mount.mount_point, Mode::Ordinary).map_err(|error| match error {
        Error::InUse { path, .. } => Error::InUse { path, holders: processes::users(&mount) },
        other => other,
    })?;
    // If the filesystem is also mounted in another place, its server continues.
    let elsewhere = mounts::all().is_ok_and(|mounts| {
        mounts.iter().any(|other| other.is_npzfs() && other.device == mount.device)
    });
    if elsewhere {
        return Ok(());
    }
    let deadline = Instant::now() + SERVER_END;
    match servers.iter().find(|server| !server.ends_before(deadline)) {
        Some(server) => Err(Error::ServerStays { path: path.into(), pid: server.pid }),
        None => Ok(()),
    }
}
