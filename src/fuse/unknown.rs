//! Listings with entries whose type is not known (DT_UNKNOWN), which fuser has no word for.
//!
//! Such a listing is written to the kernel here, past fuser. It keeps to the room that fuser's own
//! reply has, which is filled with the same names meanwhile: what fits there fits here.

use std::{ffi::OsStr, io::IoSlice, mem, os::fd::OwnedFd, os::unix::ffi::OsStrExt};

use fuser::{INodeNo, ReplyDirectory};

use super::file_type;
use crate::tree::Kind;

/// A listing that is being made.
#[derive(Debug)]
pub(super) struct Listing {
    reply: ReplyDirectory,
    /// Entries as the kernel reads them (struct fuse_dirent).
    entries: Vec<u8>,
    has_unknown: bool,
    pub count: usize,
}

/// Bytes of struct fuse_out_header.
const HEADER: usize = 16;

impl Listing {
    pub fn new(reply: ReplyDirectory) -> Self {
        Self { reply, entries: Vec::new(), has_unknown: false, count: 0 }
    }

    /// Adds an entry, if there is room for it.
    pub fn add(&mut self, ino: INodeNo, cookie: u64, kind: Option<Kind>, name: &OsStr) -> bool {
        // Any type takes the same room.
        if self.reply.add(ino, cookie, file_type(kind.unwrap_or(Kind::File)), name) {
            return false;
        }
        self.entries.extend(ino.0.to_ne_bytes());
        self.entries.extend(cookie.to_ne_bytes());
        self.entries.extend((name.len() as u32).to_ne_bytes());
        self.entries.extend(kind.map_or(0, dirent_type).to_ne_bytes());
        self.entries.extend(name.as_bytes());
        self.entries.resize(self.entries.len().next_multiple_of(8), 0);
        self.has_unknown |= kind.is_none();
        self.count += 1;
        true
    }

    /// Answers the request `unique` of `device`.
    pub fn send(self, device: Option<&OwnedFd>, unique: u64) {
        let (true, Some(device)) = (self.has_unknown, device) else {
            return self.reply.ok();
        };
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
