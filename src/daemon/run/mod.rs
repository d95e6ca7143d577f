//! `npzfs run`: a command that sees the source covered by a mount of it.
//!
//! This process makes the mount in a mount namespace of its own, and then *becomes* the command by
//! execve(2). So the command has the process number, the parent, the terminal, the signals and the
//! exit code that it would have without us, and no forwarding can go wrong. Only the server is a
//! second process, outside of the namespace (`server`). The namespace, and with it the mount, lives
//! as long as a process is in it: the kernel clears away everything, also after a SIGKILL.

mod channel;
mod namespace;
mod refusal;
mod server;
mod writable;

use std::{
    convert::Infallible,
    ffi::OsString,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::Command,
    sync::Arc,
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    process::PidfdFlags,
};

pub(crate) use self::server::{launch as launch_server, serve as serve_command};
use self::{
    channel::{Channel, Message},
    namespace::Namespaces,
};
use super::{
    Access, Error, Options, error,
    kernel::{self, Detached},
    mount,
};

/// Makes the mount that `options` describe, over the source itself, and replaces this process,
/// which must have one thread only, by `command` with its arguments. Writes go to the directory
/// `writable`, if there is one. `server` are the arguments that make this program start the server.
///
/// # Errors
/// When the mount cannot be made, or the command cannot be run.
pub(crate) fn run(
    options: Options,
    writable: Option<&Path>,
    server: &[OsString],
    command: &[OsString],
) -> Result<Infallible, Error> {
    let server = server::start(server)?;
    let source = match next(&server)? {
        Message::Source(path) => path,
        _ => return Err(Error::RunServerDied),
    };
    // It fails if the directory was removed, and then that directory is not in the source.
    let directory = std::env::current_dir().ok();
    // The server has made this directory. A relative path means something else after the next step.
    let canonical = |path: &Path| {
        path.canonicalize().map_err(|cause| writable::unusable(path, &error::plain(&cause)))
    };
    let writable = writable.map(canonical).transpose()?;
    let noexec = options.noexec;
    let entered = cover(options, &server, &source)?;
    if let Some(writable) = writable {
        writable::cover(&source, &writable, entered == Namespaces::UserAndMount, noexec)?;
    }
    // The directory of this process is still the one below the mount.
    if let Some(directory) = directory.filter(|directory| directory.starts_with(&source)) {
        std::env::set_current_dir(&directory)
            .map_err(|cause| Error::Directory(directory, cause))?;
    }
    let Some((program, arguments)) = command.split_first() else {
        return Err(Error::Command(OsString::new(), io::ErrorKind::NotFound.into()));
    };
    let cause = Command::new(program).args(arguments).exec();
    Err(Error::Command(program.clone(), cause))
}

/// Mounts the filesystem of `server` over `source`, in a new namespace.
fn cover(mut options: Options, server: &Channel, source: &Path) -> Result<Namespaces, Error> {
    let entered = namespace::enter()?;
    if entered == Namespaces::UserAndMount {
        // There is no other user in this namespace. The kernel must not check modes here: it knows
        // none of the groups that let this user read a file. The server reads as the user does.
        (options.access, options.default_permissions) = (Access::Owner, false);
    } else if options.access == Access::Owner {
        options.access = Access::Everybody;
    }
    let device = kernel::open_device()?;
    let name = options.fs_name.clone().unwrap_or_else(|| source.into());
    let detached = Detached::new(&device, source, &name, &options)?
        .ok_or_else(|| namespace::refused("mount", rustix::io::Errno::PERM))?;
    let setup = |cause| Error::Setup("the server", cause);
    let this = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .map_err(|errno| setup(errno.into()))?;
    match server.send_device(&device, &this) {
        // The server has ended, and has left a message.
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => {}
        sent => sent.map_err(setup)?,
    }
    // The filesystem ends with the server, not with this process.
    drop(device);
    if next(server)? != Message::Serving {
        return Err(Error::RunServerDied);
    }
    let root = Arc::new(detached.mount(source, &options)?);
    mount::first_answer(source, Arc::clone(&root))?;
    kernel::attach(&root, &mountpoint(source)?, source)?;
    Ok(entered)
}

/// Waits for the next message of the server. If that is `Failed`, or the server has ended without a
/// message, returns an error.
fn next(server: &Channel) -> Result<Message, Error> {
    match server.receive().map_err(|cause| Error::Setup("the server", cause))? {
        Some(Message::Failed(line)) => Err(Error::RunServer(line)),
        Some(message) => Ok(message),
        None => Err(Error::RunServerDied),
    }
}

/// Opens a directory to mount on. A descriptor from before the namespace would not do: it lies in a
/// mount of another namespace.
fn mountpoint(path: &Path) -> Result<OwnedFd, Error> {
    directory(path).map_err(|errno| Error::Mountpoint(path.into(), errno.into()))
}

/// Opens the directory with this canonical path. A symbolic link that somebody has put there since
/// is not followed.
fn directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
}

/// A path of an open file that stays right when the file is moved.
fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_not_opened_through_a_symbolic_link() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let base = dir.path().canonicalize().expect("it exists");
        std::fs::create_dir_all(base.join("real/below")).expect("mkdir");
        std::os::unix::fs::symlink("real", base.join("link")).expect("symlink");
        assert!(directory(&base.join("real/below")).is_ok());
        for path in ["link", "link/below"] {
            assert_eq!(directory(&base.join(path)).err(), Some(rustix::io::Errno::LOOP), "{path}");
        }
    }
}
