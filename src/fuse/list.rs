//! Answers FUSE_READDIR and FUSE_READDIRPLUS: at once, or after large archives have been opened on
//! which the names in the directory depend.

use std::{os::fd::OwnedFd, sync::Arc};

use fuser::{INodeNo, RequestId};

use super::{
    INTERRUPTED, KernelCache,
    direct::{Listing, Reply},
    fail,
    requests::Ticket,
};
use crate::tree::{FsError, Ino, Listed, Tree};

/// The inode number of a listed name that was not looked up (libfuse's FUSE_UNKNOWN_INO).
const UNKNOWN_INO: INodeNo = INodeNo(0xffff_ffff);

/// The parts of the filesystem that a listing needs, on any thread.
pub(super) struct Lister {
    pub tree: Arc<Tree>,
    pub cache: KernelCache,
    /// The device that the requests come from.
    pub device: Arc<OwnedFd>,
    /// Whether the kernel caches listings.
    pub cache_directories: bool,
}

/// A request for the entries of a directory.
pub(super) struct ListRequest {
    pub directory: INodeNo,
    /// The entries after this position are requested.
    pub cookie: u64,
    pub unique: RequestId,
    pub ticket: Ticket,
}

impl Lister {
    /// Answers `request` with `reply`.
    pub(super) fn list(self, request: ListRequest, reply: Reply) {
        self.try_list(request, reply, false);
    }

    fn try_list(self, request: ListRequest, reply: Reply, waits: bool) {
        let ListRequest { directory, cookie, .. } = request;
        let look_up = matches!(reply, Reply::Entries(_));
        let mut listing = Listing::new(reply, &self.device, self.tree.settings().ttl);
        let mut references = Vec::new();
        let mut show = |entry: Listed<'_>| {
            let is_added = listing.add(number_in(directory, &entry), &entry);
            if let Some((found, _)) = entry.looked_up.filter(|_| is_added) {
                references.push(found);
            }
            is_added
        };
        let listed = self.tree.read_directory(Ino(directory.0), cookie, look_up, waits, &mut show);
        match listed {
            Ok(()) => {
                if !request.ticket.take() {
                    // The request was interrupted: the kernel does not know these references and
                    // will not forget them.
                    listing.fail(INTERRUPTED);
                    return references.into_iter().for_each(|found| self.tree.forget(found, 1));
                }
                let count = listing.count;
                listing.send(request.unique);
                self.sent(directory, cookie, count);
            }
            Err(FsError::Heavy(weight)) if !waits => {
                let reply = listing.into_reply();
                let tree = self.tree.clone();
                tree.spawn_heavy(weight, move || self.try_list(request, reply, true));
            }
            Err(error) => listing.fail(fail(&self.tree, "readdir", directory, None, &error)),
        }
    }

    /// Notes that a part of a listing was answered. The kernel keeps a listing while the mtime of
    /// its directory stays the same, and that does not change when an archive in the directory
    /// becomes valid. So the listing is dropped after the timeout. The timeout counts from the
    /// first part of the listing, and again from the last part, because only then does the kernel
    /// have all parts.
    fn sent(&self, directory: INodeNo, cookie: u64, entries: usize) {
        if self.cache_directories && (cookie == 0 || entries == 0) {
            self.cache.drop_later(directory);
        }
    }
}

/// The inode number of an entry in the listing of `directory`.
fn number_in(directory: INodeNo, entry: &Listed<'_>) -> INodeNo {
    match (&entry.looked_up, entry.number) {
        (Some((found, _)), _) => INodeNo(found.0),
        (None, Some(number)) => INodeNo(number.0),
        (None, None) if entry.name == "." => directory,
        (None, None) => UNKNOWN_INO,
    }
}
