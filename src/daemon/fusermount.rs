//! Mounts and unmounts for ordinary users, through the setuid program fusermount3.
//!
//! The protocol is that of libfuse: fusermount3 opens /dev/fuse, mounts the filesystem, and sends
//! the descriptor over the socket whose number is in the variable `_FUSE_COMMFD`.

use std::{
    ffi::{OsStr, OsString},
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, ffi::OsStringExt, net::UnixStream},
    },
    path::Path,
    process::{Command, Output, Stdio},
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::{Error, Options, detach};

/// The program of fuse3, then the program of fuse2, which has the same protocol.
const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];

/// Mounts on `mountpoint`, and returns the descriptor of /dev/fuse that serves the mount.
///
/// # Errors
/// When fusermount3 is missing or refuses.
pub(super) fn mount(
    mountpoint: &Path,
    source: &OsStr,
    options: &Options,
) -> Result<OwnedFd, Error> {
    let refused = |said: String| Error::Refused { mountpoint: mountpoint.into(), said };
    let (ours, theirs) = UnixStream::pair().map_err(Error::Fusermount)?;
    let mut arguments = vec![OsString::from("-o"), option_string(source, options)];
    arguments.extend([OsString::from("--"), mountpoint.into()]);
    // The socket is passed as standard input, since every other descriptor is closed on exec.
    let output = run(&arguments, Some(theirs))?;
    if !output.status.success() {
        let said = first_line(&output);
        return Err(if said.contains("user_allow_other") {
            Error::AllowOtherRefused
        } else {
            refused(said)
        });
    }
    match receive_descriptor(&ours) {
        Ok(Some(fd)) => Ok(fd),
        Ok(None) => Err(refused("fusermount3 sent no descriptor".into())),
        Err(cause) => Err(Error::Fusermount(cause)),
    }
}

/// Unmounts the mount at `path` through fusermount3.
///
/// # Errors
/// `InUse`, `NotMounted`, `NoFusermount` or `UnmountRefused`.
pub(super) fn unmount(path: &Path, mode: detach::Mode) -> Result<(), Error> {
    let mut arguments = vec![OsString::from("-u")];
    if mode == detach::Mode::Lazy {
        arguments.push("-z".into());
    }
    arguments.extend([OsString::from("--"), path.into()]);
    let output = run(&arguments, None)?;
    if output.status.success() {
        return Ok(());
    }
    let said = first_line(&output);
    let path = path.to_path_buf();
    Err(if said.contains("busy") {
        Error::InUse { path, holders: Vec::new() }
    } else if said.contains("Invalid argument") {
        Error::NotMounted(path)
    } else {
        Error::UnmountRefused { path, said }
    })
}

fn run(arguments: &[OsString], socket: Option<UnixStream>) -> Result<Output, Error> {
    let mut stdin = socket.map(OwnedFd::from);
    for program in PROGRAMS {
        let mut command = Command::new(program);
        command.args(arguments).env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::piped());
        match &stdin {
            Some(socket) => {
                let socket = socket.try_clone().map_err(Error::Fusermount)?;
                command.stdin(socket).env("_FUSE_COMMFD", "0");
            }
            None => {
                command.stdin(Stdio::null()).env_remove("_FUSE_COMMFD");
            }
        }
        match command.spawn() {
            Ok(child) => {
                // If these copies of the socket stayed open, a read would wait forever for a
                // descriptor that fusermount3 did not send.
                drop((command, stdin.take()));
                return child.wait_with_output().map_err(Error::Fusermount);
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(Error::Fusermount(cause)),
        }
    }
    Err(Error::NoFusermount)
}

/// The first line that fusermount3 wrote to standard error, without the name of the program.
fn first_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().next().unwrap_or_default();
    let line = PROGRAMS.iter().find_map(|name| line.strip_prefix(name)).unwrap_or(line);
    let line = line.strip_prefix(':').unwrap_or(line).trim();
    if line.is_empty() { format!("fusermount3 ended with {}", output.status) } else { line.into() }
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }))
}

fn option_string(source: &OsStr, options: &Options) -> OsString {
    let mut text = b"ro,nosuid,nodev,noatime,subtype=npzfs".to_vec();
    if options.noexec {
        text.extend(b",noexec");
    }
    if options.kernel_checks_modes() {
        text.extend(b",default_permissions");
    }
    if options.kernel_allows_others() {
        text.extend(b",allow_other");
    }
    text.extend(b",fsname=");
    for &byte in source.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            text.push(b'\\');
        }
        text.push(byte);
    }
    OsString::from_vec(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::Access;

    #[test]
    fn commas_and_backslashes_of_the_source_are_escaped() {
        let options = Options { noexec: true, access: Access::OwnerAndRoot, ..Options::default() };
        assert_eq!(
            option_string(OsStr::new(r"/a,b\c"), &options),
            OsString::from(
                "ro,nosuid,nodev,noatime,subtype=npzfs,noexec,default_permissions,allow_other,\
                 fsname=/a\\,b\\\\c"
            )
        );
    }
}
