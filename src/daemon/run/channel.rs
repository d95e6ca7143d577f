//! The messages between `npzfs run` and its server, over a socket.
//!
//! The server first says which directory it shows. It then gets the device and a descriptor of the
//! process that becomes the command, and says when it serves. At any time it may say instead why it
//! cannot go on. The end of either process closes its end of the socket.

use std::{
    ffi::OsString,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::PathBuf,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// The longest message in bytes: a path, or the line of an error with two paths.
const LONGEST: usize = 16 << 10;

/// A message of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// The canonical path of the source, which is open.
    Source(PathBuf),
    /// The requests of the device are answered from now on.
    Serving,
    /// The server ends, for this reason.
    Failed(String),
}

/// One end of the socket.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// Both ends of a new socket.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        // A SEQPACKET socket keeps messages apart.
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(ours), theirs))
    }

    /// The end that the server gets as its standard input.
    pub(super) fn of_server(standard_input: OwnedFd) -> Self {
        Self(standard_input)
    }

    pub(super) fn send(&self, message: &Message) -> io::Result<()> {
        let (tag, text) = match message {
            Message::Source(path) => (b'S', path.as_os_str().as_bytes()),
            Message::Serving => (b'R', &b""[..]),
            Message::Failed(line) => (b'F', line.as_bytes()),
        };
        let text = &text[..text.len().min(LONGEST - 1)];
        let bytes = [&[tag], text].concat();
        // NOSIGNAL: the other process may have ended, which must not end this one.
        rustix::net::send(&self.0, &bytes, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for a message of the server. `None` if the server has ended.
    pub(super) fn receive(&self) -> io::Result<Option<Message>> {
        let mut bytes = vec![0; LONGEST];
        let (length, _) = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::empty())
        })?;
        let Some((tag, text)) = bytes[..length].split_first() else { return Ok(None) };
        Ok(Some(match tag {
            b'S' => Message::Source(OsString::from_vec(text.to_vec()).into()),
            b'R' => Message::Serving,
            _ => Message::Failed(String::from_utf8_lossy(text).into_owned()),
        }))
    }

    /// Sends the device of the mount, and a descriptor of the process that becomes the command.
    pub(super) fn send_device(&self, device: &OwnedFd, command: &OwnedFd) -> io::Result<()> {
        let fds = [device.as_fd(), command.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let byte = [IoSlice::new(b"D")];
        rustix::net::sendmsg(&self.0, &byte, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for the device and the descriptor of the command's process. `None` if the other
    /// process has ended.
    pub(super) fn receive_device(&self) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        rustix::io::retry_on_intr(|| {
            let mut bytes = [IoSliceMut::new(&mut byte)];
            rustix::net::recvmsg(&self.0, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        let mut fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let mut fds = fds.next().into_iter().flatten();
        Ok(fds.next().zip(fds.next()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_one_by_one_and_then_the_end() {
        let (ours, theirs) = Channel::pair().expect("a socket");
        let theirs = Channel::of_server(theirs);
        let sent = [
            Message::Source(OsString::from_vec(b"/a\xff\nb".to_vec()).into()),
            Message::Serving,
            Message::Failed("no such thing".into()),
        ];
        for message in &sent {
            theirs.send(message).expect("it is open");
        }
        drop(theirs);
        for message in sent {
            assert_eq!(ours.receive().expect("it is open"), Some(message));
        }
        assert_eq!(ours.receive().expect("the end"), None);
    }

    #[test]
    fn descriptors_arrive_in_their_order_and_then_the_end() {
        let (ours, theirs) = Channel::pair().expect("a socket");
        let theirs = Channel::of_server(theirs);
        let open = |path| OwnedFd::from(std::fs::File::open(path).expect("it is there"));
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).expect("it is open").st_ino;
        let (one, two) = (open("/proc"), open("/dev/null"));
        ours.send_device(&one, &two).expect("it is open");
        let (first, second) = theirs.receive_device().expect("it is open").expect("it was sent");
        assert_eq!((inode(&first), inode(&second)), (inode(&one), inode(&two)));
        drop(ours);
        assert!(theirs.receive_device().expect("the end").is_none());
    }
}
