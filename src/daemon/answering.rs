//! Adds threads to a running mount when all of its threads wait for the source.

use std::{
    io,
    mem::ManuallyDrop,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    thread,
};

use fuser::{Config, Session, SessionACL};
use rustix::{
    io::DupFlags,
    net::{AddressFamily, SendFlags, SocketFlags, SocketType},
};

use crate::fuse::Watched;

/// Starts `threads` more threads that answer the requests of `device`.
///
/// The number of threads of a fuser session is fixed, so the new threads get a session of their
/// own. A session begins with an INIT request, which the kernel sends only once. So the new session
/// reads INIT from a socket, and then the device takes the place of that socket.
///
/// # Errors
/// When no more descriptors or threads can be created.
pub(super) fn join(
    filesystem: Watched,
    device: &OwnedFd,
    acl: SessionACL,
    threads: usize,
) -> io::Result<()> {
    let (ours, session) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::send(&ours, &init(), SendFlags::empty())?;
    let mut config = Config::default();
    config.n_threads = Some(threads);
    config.clone_fd = false;
    let session = Session::from_fd(filesystem, session, acl, config)?;
    replace(session.as_fd().as_raw_fd(), device)?;
    let run = move || {
        if let Err(error) = session.run() {
            log::debug!("an additional session has ended: {error}");
        }
    };
    thread::Builder::new().name("joined".into()).spawn(run)?;
    Ok(())
}

/// Replaces every descriptor of the FUSE device with /dev/null. A thread that is stuck in the
/// source for good keeps the descriptors of the process open even after the process has ended, and
/// programs that use the mount would wait until that thread ends.
pub(super) fn let_go() -> io::Result<()> {
    let null = OwnedFd::from(std::fs::File::open("/dev/null")?);
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let is_device = std::fs::read_link(entry.path()).is_ok_and(|to| to.ends_with("dev/fuse"));
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|_| is_device) {
            replace(number, &null)?;
        }
    }
    Ok(())
}

/// Makes the open descriptor `number` a duplicate of `by`.
fn replace(number: i32, by: impl AsFd) -> io::Result<()> {
    // SAFETY: the caller has seen that the descriptor `number` is open. It stays open, since
    // dup3(2) replaces it in one step. It is not closed here (`ManuallyDrop`): its owner still owns
    // it.
    let mut replaced = unsafe { ManuallyDrop::new(OwnedFd::from_raw_fd(number)) };
    Ok(rustix::io::dup3(by, &mut replaced, DupFlags::CLOEXEC)?)
}

/// The INIT request as the kernel writes it: fuse_in_header and fuse_init_in, protocol 7.40.
fn init() -> Vec<u8> {
    const LENGTH: u32 = 40 + 64;
    const OPCODE: u32 = 26;
    // length, opcode, number (64 bits), inode (64), uid, gid, pid, padding
    let header = [LENGTH, OPCODE, 1, 0, 0, 0, 0, 0, 0, 0];
    // major, minor, read-ahead, flags, flags2, unused
    let body = [7, 40, 128 << 10, 0, 0];
    let words = header.into_iter().chain(body).chain([0; 11]);
    words.flat_map(u32::to_ne_bytes).collect()
}
