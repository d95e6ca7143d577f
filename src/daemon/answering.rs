//! Adds threads to a mount that is being served, whose own threads are stuck in the source.

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

/// Starts `threads` that answer what comes through `device`.
///
/// The threads of a fuser session are fixed in number, and a session begins with INIT, which the
/// kernel sends once. So the new session reads INIT from a socket, and then the device is put in the
/// place of the socket.
///
/// # Errors
/// When there are no more descriptors or threads.
pub fn join(
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

/// Puts /dev/null in the place of every descriptor of the device. A thread that is stuck in the source
/// for good keeps the descriptors of the process open after its end, and all who use the mount would
/// wait as long.
pub fn let_go() -> io::Result<()> {
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
    // SAFETY: the caller has seen the descriptor `number` open. It stays open, for dup3(2) replaces it
    // in one step, and it is not closed here: its owner goes on owning it.
    let mut replaced = unsafe { ManuallyDrop::new(OwnedFd::from_raw_fd(number)) };
    Ok(rustix::io::dup3(by, &mut replaced, DupFlags::CLOEXEC)?)
}

/// What the kernel writes for INIT: struct fuse_in_header and struct fuse_init_in, protocol 7.40.
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
