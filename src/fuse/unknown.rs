//! Writes listings to the kernel, instead of fuser, which cannot express two kinds of entries: those of
//! unknown type (DT_UNKNOWN), and, in a reply to FUSE_READDIRPLUS, those without an inode.

use std::{
    ffi::OsStr,
    io::IoSlice,
    mem,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    time::Duration,
};

use fuser::{Errno, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::attributes::{dots_attr, file_attr, file_type, kernel_rdev};
use crate::tree::{Attr, Ino, Kind};

/// A listing that is being made.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    reply: Reply,
    /// The device that the request came from; without it, fuser answers.
    device: Option<&'a OwnedFd>,
    /// Bytes of entries that the kernel takes.
    room: usize,
    /// Entries as the kernel reads them (struct fuse_dirent).
    entries: Vec<u8>,
    pub count: usize,
}

#[derive(Debug)]
pub(super) enum Reply {
    Names(ReplyDirectory),
    /// Each with its inode and attributes.
    Entries(ReplyDirectoryPlus),
}

impl Reply {
    fn ok(self) {
        match self {
            Self::Names(reply) => reply.ok(),
            Self::Entries(reply) => reply.ok(),
        }
    }
}

/// Bytes of struct fuse_entry_out.
const ENTRY: usize = 128;

/// Bytes of struct fuse_out_header.
const HEADER: usize = 16;

/// Bytes of entries that the kernel takes at least: a page.
const LEAST_ROOM: usize = 4096;

impl<'a> Listing<'a> {
    pub fn new(reply: Reply, device: Option<&'a OwnedFd>) -> Self {
        // fuser keeps it to itself otherwise. Filling its reply as well would tell, but that is
        // forgotten below, with all that it holds.
        let room = room_in(&format!("{reply:?}")).unwrap_or(LEAST_ROOM);
        Self { reply, device, room, entries: Vec::new(), count: 0 }
    }

    /// Adds an entry, if there is room for it.
    pub fn add(&mut self, ino: INodeNo, cookie: u64, kind: Option<Kind>, name: &OsStr) -> bool {
        let is_added = match (&mut self.reply, self.device) {
            (Reply::Names(reply), None) => {
                !reply.add(ino, cookie, file_type(kind.unwrap_or(Kind::File)), name)
            }
            _ => self.add_entry(self.entries.len(), ino, cookie, kind, name),
        };
        self.count += usize::from(is_added);
        is_added
    }

    /// Adds an entry with its inode and attributes, if there is room for it. If there are none, the kernel
    /// looks the name up when a program asks for its attributes.
    pub fn add_with(
        &mut self,
        looked_up: Option<&(Ino, Attr)>,
        ttl: Duration,
        (ino, cookie, kind, name): (INodeNo, u64, Option<Kind>, &OsStr),
    ) -> bool {
        let is_added = match (&mut self.reply, self.device) {
            (Reply::Entries(reply), None) => {
                let attr = match looked_up {
                    Some((ino, attr)) => file_attr(*ino, attr),
                    None if name == "." || name == ".." => dots_attr(ino),
                    // fuser would make an inode of it.
                    None => return true,
                };
                !reply.add(ino, cookie, name, &ttl, &attr, Generation(0))
            }
            _ => {
                let before = self.entries.len();
                match looked_up {
                    Some((ino, attr)) => push_entry(&mut self.entries, *ino, attr, ttl),
                    None => self.entries.resize(before + ENTRY, 0),
                }
                self.add_entry(before, ino, cookie, kind, name)
            }
        };
        self.count += usize::from(is_added);
        is_added
    }

    /// Adds a struct fuse_dirent. If the reply is too long for the kernel with it, cuts the reply at
    /// `before`.
    fn add_entry(
        &mut self,
        before: usize,
        ino: INodeNo,
        cookie: u64,
        kind: Option<Kind>,
        name: &OsStr,
    ) -> bool {
        self.entries.extend(ino.0.to_ne_bytes());
        self.entries.extend(cookie.to_ne_bytes());
        self.entries.extend((name.len() as u32).to_ne_bytes());
        self.entries.extend(kind.map_or(0, dirent_type).to_ne_bytes());
        self.entries.extend(name.as_bytes());
        self.entries.resize(self.entries.len().next_multiple_of(8), 0);
        let fits = self.entries.len() <= self.room;
        if !fits {
            self.entries.truncate(before);
        }
        fits
    }

    /// Answers the request `unique`.
    pub fn send(self, unique: u64) {
        let Some(device) = self.device else { return self.reply.ok() };
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&((HEADER + self.entries.len()) as u32).to_ne_bytes());
        header[8..].copy_from_slice(&unique.to_ne_bytes());
        match rustix::io::writev(device, &[IoSlice::new(&header), IoSlice::new(&self.entries)]) {
            // Dropped, it would answer a second time. What it holds is a reference to a descriptor
            // that is open until the program ends.
            Ok(_) => mem::forget(self.reply),
            // The request was interrupted, or the mount is gone: then this fails, too.
            Err(error) => {
                log::debug!("a listing was not taken: {error}");
                self.reply.ok();
            }
        }
    }

    /// Says that there is none.
    pub fn fail(self, error: Errno) {
        match self.reply {
            Reply::Names(reply) => reply.error(error),
            Reply::Entries(reply) => reply.error(error),
        }
    }
}

/// Appends a struct fuse_entry_out.
fn push_entry(out: &mut Vec<u8>, ino: Ino, attr: &Attr, ttl: Duration) {
    let times = [attr.atime, attr.mtime, attr.ctime];
    // Number, generation, how long name and attributes may be kept: seconds, then the rest.
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

/// Bytes of entries that fit into a reply, as fuser 0.18 puts it for debugging.
fn room_in(reply: &str) -> Option<usize> {
    let (_, after) = reply.split_once("max_size: ")?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().filter(|room| *room >= LEAST_ROOM)
}

/// The type of a directory entry (dirent.h) is that of its mode, shifted.
fn dirent_type(kind: Kind) -> u32 {
    match kind {
        Kind::Fifo => 1,
        Kind::CharDevice => 2,
        Kind::Directory => 4,
        Kind::BlockDevice => 6,
        Kind::File => 8,
        Kind::Symlink => 10,
        Kind::Socket => 12,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_of_a_reply_is_found_or_taken_for_a_page() {
        let reply = "ReplyDirectory { reply: ReplyRaw { .. }, \
            data: DirEntList(EntListBuf { max_size: 32768, buf: [] }) }";
        assert_eq!(room_in(reply), Some(32768));
        for other in ["", "max_size: ", "max_size: none", "max_size: 4095", "room: 32768"] {
            assert_eq!(room_in(other), None, "{other}");
        }
    }
}
