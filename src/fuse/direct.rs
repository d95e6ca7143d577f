//! Writes to the device the replies that fuser cannot express, in the format of the kernel.
//!
//! fuser cannot express two kinds of entries in a listing: entries of unknown type (DT_UNKNOWN)
//! and, in a reply to FUSE_READDIRPLUS, entries without an inode. And fuser cannot answer a request
//! from another thread than the one that has its reply object. A reply written here needs only the
//! number of the request, which fuser provides. The kernel refuses the second reply, which fuser
//! sends afterwards. This is not an error.

use std::{
    ffi::OsStr,
    io::{self, IoSlice},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    time::Duration,
};

use fuser::{Errno, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus, RequestId};

use super::attributes::{dots_attr, file_attr, file_type, kernel_rdev};
use crate::tree::{Attr, Ino, Kind, Listed};

/// Size of struct fuse_out_header in bytes.
const HEADER: usize = 16;

/// Size of struct fuse_entry_out in bytes.
const ENTRY: usize = 128;

/// Answers the request `unique`: with `error` if it is not 0, else with `body`.
///
/// # Errors
/// `ENOENT` if the request was answered or interrupted, or the mount is gone. Any other error of
/// writev(2).
pub(super) fn answer(
    device: &OwnedFd,
    unique: RequestId,
    error: i32,
    body: &[u8],
) -> io::Result<()> {
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&(-error).to_ne_bytes());
    header[8..].copy_from_slice(&unique.0.to_ne_bytes());
    rustix::io::writev(device, &[IoSlice::new(&header), IoSlice::new(body)])?;
    Ok(())
}

/// Whether this line of fuser's log only reports that the kernel refused a reply (ENOENT,
/// fuse_dev_do_write in fs/fuse/dev.c). The kernel does so if the request was answered here or
/// interrupted, or if the mount is gone.
pub(crate) fn is_late_reply(record: &log::Record) -> bool {
    record.target().starts_with("fuser::reply") && {
        let text = record.args().to_string();
        text.ends_with(&io::Error::from(rustix::io::Errno::NOENT).to_string())
    }
}

/// A reply to FUSE_READDIR or FUSE_READDIRPLUS that is being built.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    /// The listing as far as fuser can express it. fuser checks how much room the kernel has for
    /// it.
    reply: Reply,
    /// The same entries in the format of the kernel.
    entries: Vec<u8>,
    /// Whether fuser can express all entries.
    is_plain: bool,
    /// The device that the request came from.
    device: &'a OwnedFd,
    /// How long the kernel may keep names and attributes.
    ttl: Duration,
    pub count: usize,
}

#[derive(Debug)]
pub(super) enum Reply {
    Names(ReplyDirectory),
    /// Names, each with its inode and attributes.
    Entries(ReplyDirectoryPlus),
}

impl<'a> Listing<'a> {
    pub(super) fn new(reply: Reply, device: &'a OwnedFd, ttl: Duration) -> Self {
        Self { reply, entries: Vec::new(), is_plain: true, device, ttl, count: 0 }
    }

    /// Adds an entry with the inode number `ino`; `false` if there is no room for it. In a listing
    /// with attributes, an entry that was not looked up has none. The kernel looks up its name when
    /// a program asks for the attributes.
    pub(super) fn add(&mut self, ino: INodeNo, entry: &Listed<'_>) -> bool {
        let Listed { looked_up, cookie, kind, name, .. } = *entry;
        let is_full = match &mut self.reply {
            Reply::Names(reply) => {
                self.is_plain &= kind.is_some();
                reply.add(ino, cookie, file_type(kind.unwrap_or(Kind::RegularFile)), name)
            }
            Reply::Entries(reply) => {
                self.is_plain &= looked_up.is_some() || name == "." || name == "..";
                let attr =
                    looked_up.map_or_else(|| dots_attr(ino), |(ino, attr)| file_attr(ino, &attr));
                reply.add(ino, cookie, name, &self.ttl, &attr, Generation(0))
            }
        };
        if is_full {
            return false;
        }
        if let Reply::Entries(_) = self.reply {
            match looked_up {
                Some((ino, attr)) => push_entry(&mut self.entries, ino, &attr, self.ttl),
                None => self.entries.resize(self.entries.len() + ENTRY, 0),
            }
        }
        push_name(&mut self.entries, ino, cookie, kind, name);
        self.count += 1;
        true
    }

    /// Gives the reply back. No entry may have been added.
    pub(super) fn into_reply(self) -> Reply {
        self.reply
    }

    /// Sends the listing. `unique` is the number of the request that it answers.
    pub(super) fn send(self, unique: RequestId) {
        if self.is_plain {
            return match self.reply {
                Reply::Names(reply) => reply.ok(),
                Reply::Entries(reply) => reply.ok(),
            };
        }
        if let Err(error) = answer(self.device, unique, 0, &self.entries) {
            log::debug!("a listing was not taken: {error}");
        }
        // fuser's reply must be sent as well. The kernel has got its answer, and refuses this
        // reply.
        self.fail(Errno::EIO);
    }

    /// Answers with `error` instead of the listing.
    pub(super) fn fail(self, error: Errno) {
        match self.reply {
            Reply::Names(reply) => reply.error(error),
            Reply::Entries(reply) => reply.error(error),
        }
    }
}

/// Appends a struct fuse_entry_out.
fn push_entry(out: &mut Vec<u8>, ino: Ino, attr: &Attr, ttl: Duration) {
    let times = [attr.atime, attr.mtime, attr.ctime];
    // Inode number, generation, and how long the kernel may keep name and attributes: first both
    // numbers of seconds, then both numbers of nanoseconds.
    for number in [ino.0, 0, ttl.as_secs(), ttl.as_secs()] {
        out.extend(number.to_ne_bytes());
    }
    for nanoseconds in [ttl.subsec_nanos(); 2] {
        out.extend(nanoseconds.to_ne_bytes());
    }
    // struct fuse_attr.
    for number in [ino.0, attr.size, attr.blocks] {
        out.extend(number.to_ne_bytes());
    }
    for time in &times {
        out.extend(time.seconds.to_ne_bytes());
    }
    for time in &times {
        out.extend(time.nanoseconds.to_ne_bytes());
    }
    let mode = dirent_type(attr.kind) << 12 | u32::from(attr.mode);
    let links = 1;
    for number in [mode, links, attr.uid, attr.gid, kernel_rdev(attr.rdev), attr.block_size, 0] {
        out.extend(number.to_ne_bytes());
    }
}

/// Appends a struct fuse_dirent.
fn push_name(out: &mut Vec<u8>, ino: INodeNo, cookie: u64, kind: Option<Kind>, name: &OsStr) {
    out.extend(ino.0.to_ne_bytes());
    out.extend(cookie.to_ne_bytes());
    out.extend((name.len() as u32).to_ne_bytes());
    out.extend(kind.map_or(0, dirent_type).to_ne_bytes());
    out.extend(name.as_bytes());
    out.resize(out.len().next_multiple_of(8), 0);
}

/// The type of a directory entry (dirent.h): the file type bits of its mode, shifted right by 12.
fn dirent_type(kind: Kind) -> u32 {
    kind.as_raw_mode() >> 12
}

#[cfg(test)]
mod tests;
