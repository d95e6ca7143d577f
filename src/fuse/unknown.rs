//! Listings with entries whose type is not known (DT_UNKNOWN), which fuser has no word for.
//!
//! They are written to the kernel here, past fuser.

use std::{ffi::OsStr, io::IoSlice, mem, os::fd::OwnedFd, os::unix::ffi::OsStrExt};

use fuser::{INodeNo, ReplyDirectory};

use super::file_type;
use crate::tree::Kind;

/// A listing that is being made.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    reply: ReplyDirectory,
    /// The device that the request came from; without it, fuser answers.
    device: Option<&'a OwnedFd>,
    /// Bytes of entries that the kernel takes.
    room: usize,
    /// Entries as the kernel reads them (struct fuse_dirent).
    entries: Vec<u8>,
    pub count: usize,
}

/// Bytes of struct fuse_out_header.
const HEADER: usize = 16;

/// Bytes of entries that the kernel takes at least: a page.
const LEAST_ROOM: usize = 4096;

impl<'a> Listing<'a> {
    pub fn new(reply: ReplyDirectory, device: Option<&'a OwnedFd>) -> Self {
        // fuser keeps it to itself otherwise. Filling its reply as well would tell, but that is
        // forgotten below, with all that it holds.
        let room = room_in(&format!("{reply:?}")).unwrap_or(LEAST_ROOM);
        Self { reply, device, room, entries: Vec::new(), count: 0 }
    }

    /// Adds an entry, if there is room for it.
    pub fn add(&mut self, ino: INodeNo, cookie: u64, kind: Option<Kind>, name: &OsStr) -> bool {
        let is_added = match self.device {
            Some(_) => self.add_entry(ino, cookie, kind, name),
            None => !self.reply.add(ino, cookie, file_type(kind.unwrap_or(Kind::File)), name),
        };
        self.count += usize::from(is_added);
        is_added
    }

    fn add_entry(&mut self, ino: INodeNo, cookie: u64, kind: Option<Kind>, name: &OsStr) -> bool {
        let before = self.entries.len();
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
    pub fn fail(self, error: fuser::Errno) {
        self.reply.error(error);
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
