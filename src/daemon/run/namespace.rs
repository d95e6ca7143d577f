//! Moves this process into a private mount namespace.

use std::io;

use rustix::{
    io::Errno,
    mount::MountPropagationFlags,
    thread::{CapabilitySet, UnshareFlags},
};

use super::refusal;
use crate::daemon::{Error, raw};

/// The namespaces that a process was moved into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Namespaces {
    /// A mount namespace only. Other users of the system keep their IDs in it.
    Mount,
    /// A mount namespace, and a user namespace in which only the user and the group of this process
    /// have IDs. (All other files belong to 65534, "nobody".)
    UserAndMount,
}

/// Moves this process, which must have one thread only, into a mount namespace of its own. If that
/// needs more rights than this process has, then also into a user namespace, which gives it these
/// rights until it runs another program. User and group stay the same.
///
/// # Errors
/// When the system allows no user namespaces.
pub(super) fn enter() -> Result<Namespaces, Error> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let entered = match raw::unshare(UnshareFlags::NEWNS) {
        Ok(()) => Namespaces::Mount,
        Err(Errno::PERM) => {
            raw::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)
                .map_err(|errno| refused("unshare", errno))?;
            let write = |file: &str, text: String| {
                std::fs::write(format!("/proc/self/{file}"), text).map_err(|cause| {
                    refused(file, Errno::from_io_error(&cause).unwrap_or(Errno::IO))
                })
            };
            // An ordinary user may map a group only once setgroups(2) is off: else the user could
            // leave a group that is denied access to a file.
            write("setgroups", "deny".into())?;
            write("uid_map", format!("{uid} {uid} 1"))?;
            write("gid_map", format!("{gid} {gid} 1"))?;
            Namespaces::UserAndMount
        }
        Err(errno) => return Err(refused("unshare", errno)),
    };
    // What is mounted and unmounted outside is seen inside, and nothing the other way round.
    let flags = MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM;
    rustix::mount::mount_change("/", flags).map_err(|errno| refused("mount", errno))?;
    Ok(entered)
}

/// The user and the group that alone have numbers in the namespace that [`enter`] makes for a
/// process with the rights of this one. `None` if all users have numbers there.
///
/// # Errors
/// When the rights of this process cannot be read.
pub(super) fn only_user() -> io::Result<Option<(u32, u32)>> {
    let rights = rustix::thread::capabilities(None)?.effective;
    if rights.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(None);
    }
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    Ok(Some((uid.as_raw(), gid.as_raw())))
}

/// The error for a step that a system without user namespaces refuses.
pub(super) fn refused(step: &str, errno: Errno) -> Error {
    let setting = |path: &str| std::fs::read_to_string(path).ok();
    Error::Namespace(refusal::explain(step, errno, setting))
}
