//! Answers FUSE_OPEN: at once, or after the member has been compared with its CRC-32.

use std::sync::Arc;

use fuser::{Errno, FileHandle, FopenFlags, INodeNo, ReplyOpen};

use super::{INTERRUPTED, KernelCache, fail, passthrough::Passthrough, requests::Ticket};
use crate::{
    serve::{self, Backing},
    tree::{FsError, Ino, Opened, Opening, Tree},
};

/// How often one open waits for a comparison. One comparison is enough, unless the index of the
/// member turns out to be wrong meanwhile.
const MOST_TRIES: u32 = 3;

/// The parts of the filesystem that an open needs, on any thread.
#[derive(Clone)]
pub(super) struct Opener {
    pub tree: Arc<Tree>,
    pub passthrough: Arc<Passthrough>,
    pub cache: KernelCache,
}

impl Opener {
    /// Opens `ino` for `user` and answers. If the member must be compared first, the answer comes
    /// later.
    pub(super) fn open(self, ino: INodeNo, user: u32, ticket: Ticket, reply: ReplyOpen) {
        self.try_open(ino, user, ticket, reply, MOST_TRIES);
    }

    fn try_open(self, ino: INodeNo, user: u32, ticket: Ticket, reply: ReplyOpen, tries: u32) {
        match self.tree.open(Ino(ino.0), user) {
            Ok(Opening::Done(opened)) => self.answer(ino, opened, ticket, reply),
            // The file changes faster than it is compared. After ESTALE the kernel looks the name
            // up again.
            Ok(Opening::Verify(_)) if tries == 0 => reply.error(Errno::ESTALE),
            Ok(Opening::Verify(content)) => {
                let verified = content.clone();
                content.verify(Box::new(move |result| match result {
                    // The member now has a verdict, and the next try uses it.
                    Ok(_) | Err(serve::Error::Damaged(_) | serve::Error::Refuted) => {
                        self.try_open(ino, user, ticket, reply, tries - 1);
                    }
                    Err(serve::Error::Overwritten) => reply.error(Errno::ESTALE),
                    Err(error) => {
                        let error = FsError::Content(verified.failure("open", error));
                        reply.error(fail(&self.tree, "open", ino, None, &error));
                    }
                }));
            }
            Err(error) => reply.error(fail(&self.tree, "open", ino, None, &error)),
        }
    }

    fn answer(&self, ino: INodeNo, opened: Opened, ticket: Ticket, reply: ReplyOpen) {
        // The source may hang. Until the ticket is taken, the request can be interrupted.
        let content = match opened.backing {
            Backing::Never => self.tree.first_content(Ino(ino.0), opened.id),
            Backing::NotYet | Backing::File(_) => None,
        };
        // The request was interrupted: the kernel does not know this handle and will not release
        // it.
        if !ticket.take() {
            self.tree.release(opened.id);
            return reply.error(INTERRUPTED);
        }
        let id = FileHandle(opened.id.0);
        // KEEP_CACHE is safe: a changed archive gets new inodes, and a plain file that changes in
        // place gets a new mtime (AUTO_INVAL_DATA). It saves time: np.load opens a file three times
        // to map it.
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        match opened.backing {
            Backing::Never => {
                // Spares the kernel a READ. Open, read and close of a member of 1 KiB take 40 us
                // the first time and 24 us later, instead of 49 and 40.
                self.tree.at_first_open(Ino(ino.0), || {
                    if let Some(bytes) = content.filter(|bytes| !bytes.is_empty()) {
                        self.cache.store(ino, &bytes);
                    }
                });
                reply.opened(id, flags);
            }
            Backing::NotYet => self.passthrough.open(ino, id, None, flags, reply),
            Backing::File(file) => self.passthrough.open(ino, id, Some(&file), flags, reply),
        }
    }
}
