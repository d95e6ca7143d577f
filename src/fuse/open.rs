//! Opens files, now or when their bytes have been compared with their CRC-32.

use std::sync::Arc;

use fuser::{Errno, FileHandle, FopenFlags, INodeNo, ReplyOpen};

use super::{KernelCache, fail, passthrough::Passthrough, requests::Ticket};
use crate::{
    serve::{self, Backing},
    tree::{FsError, Ino, Opened, Opening, Tree},
};

/// How often an open waits until a member has been compared. Once is enough, unless its index turns out
/// to be wrong meanwhile.
const MOST_TRIES: u32 = 3;

/// Opens files, and answers when they are open.
#[derive(Clone)]
pub(super) struct Opener {
    pub tree: Arc<Tree>,
    pub passthrough: Arc<Passthrough>,
    pub cache: KernelCache,
}

impl Opener {
    /// Opens `ino` for `user`; answers when its bytes have been compared, if they have to be.
    pub fn open(self, ino: INodeNo, user: u32, ticket: Ticket, reply: ReplyOpen) {
        self.try_open(ino, user, ticket, reply, MOST_TRIES);
    }

    fn try_open(self, ino: INodeNo, user: u32, ticket: Ticket, reply: ReplyOpen, tries: u32) {
        match self.tree.open(Ino(ino.0), user) {
            Ok(Opening::Done(opened)) => self.answer(ino, opened, ticket, reply),
            // It changes faster than it is compared: the kernel looks it up again.
            Ok(Opening::Verify(_)) if tries == 0 => reply.error(Errno::ESTALE),
            Ok(Opening::Verify(content)) => {
                let verified = content.clone();
                content.verify(Box::new(move |result| match result {
                    // What it is, it is known to be now.
                    Ok(_) | Err(serve::Error::Damaged(_) | serve::Error::Refuted) => {
                        self.try_open(ino, user, ticket, reply, tries - 1);
                    }
                    Err(serve::Error::Overwritten) => reply.error(Errno::ESTALE),
                    Err(error) => {
                        let error = FsError::Content(verified.failure("open", error));
                        reply.error(fail(&self.tree, "open", ino, &error));
                    }
                }));
            }
            Err(error) => reply.error(fail(&self.tree, "open", ino, &error)),
        }
    }

    fn answer(&self, ino: INodeNo, opened: Opened, ticket: Ticket, reply: ReplyOpen) {
        // The kernel will not hear of this handle, and so not release it.
        if !ticket.take() {
            return self.tree.release(opened.id);
        }
        let id = FileHandle(opened.id.0);
        // Right because a changed archive gets new inodes, and a plain file that changes in place
        // a new mtime (AUTO_INVAL_DATA). np.load opens a file three times to map it.
        // Closing has nothing to flush.
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        match opened.backing {
            Backing::Never => {
                // A READ that never comes: open, read and close of a member of 1 KiB took 49 and
                // 40 us, and takes 40 and 24.
                self.tree
                    .at_first_open(Ino(ino.0), opened.id, |bytes| self.cache.store(ino, bytes));
                reply.opened(id, flags);
            }
            Backing::NotYet => self.passthrough.open(ino, id, None, flags, reply),
            Backing::File(file) => self.passthrough.open(ino, id, Some(&file), flags, reply),
        }
    }
}
