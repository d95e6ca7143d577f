//! Lets the kernel read whole files itself (FUSE_PASSTHROUGH, Linux 6.9): files of the source, and
//! decoded copies of members.

use std::{
    collections::HashMap,
    fs::File,
    sync::atomic::{AtomicBool, Ordering},
};

use fuser::{BackingId, FileHandle, FopenFlags, INodeNo, ReplyOpen};

use crate::sync::Mutex;

/// Decides on passthrough for each inode, not for each open. The kernel refuses to mix cached and
/// passthrough opens of one inode (EIO). It also needs one backing file for all opens of the inode
/// while any of them is open or mapped. All of them have ended when the kernel sends the last
/// RELEASE (fuse_file_put, fs/fuse/file.c), so the first open after that RELEASE may decide again.
/// If a copy is finished while its member is open, passthrough starts after all handles have been
/// closed.
#[derive(Debug, Default)]
pub(super) struct Passthrough {
    offered: AtomicBool,
    inodes: Mutex<HashMap<INodeNo, Decision>>,
}

/// The decision for an open inode.
#[derive(Debug)]
struct Decision {
    handles: Vec<FileHandle>,
    /// The file that the kernel reads; `None` if it sends the reads to us.
    backing: Option<BackingId>,
}

impl Passthrough {
    /// Notes that the kernel supports passthrough. Only the first open shows whether we may use it
    /// (CAP_SYS_ADMIN).
    pub(super) fn offer(&self) {
        self.offered.store(true, Ordering::Relaxed);
    }

    /// Answers the open of `ino` as `fh`. If there is a `file`, the kernel may read it instead of
    /// asking us.
    pub(super) fn open(
        &self,
        ino: INodeNo,
        fh: FileHandle,
        file: Option<&File>,
        flags: FopenFlags,
        reply: ReplyOpen,
    ) {
        if !self.offered.load(Ordering::Relaxed) {
            return reply.opened(fh, flags);
        }
        let mut inodes = self.inodes.lock();
        let decision = inodes.entry(ino).or_insert_with(|| Decision {
            handles: Vec::new(),
            backing: file.and_then(|file| {
                let backing = reply.open_backing(file);
                backing
                    .inspect_err(|error| log::debug!("no passthrough of inode {ino}: {error}"))
                    .ok()
            }),
        });
        decision.handles.push(fh);
        match &decision.backing {
            // Without KEEP_CACHE, which the kernel refuses here (FOPEN_PASSTHROUGH_MASK,
            // fs/fuse/iomode.c): the open would fail with EIO. With NOFLUSH, close(2) does not wait
            // for us: open and close together take 48 us instead of 86.
            Some(backing) => reply.opened_passthrough(fh, FopenFlags::FOPEN_NOFLUSH, backing),
            None => reply.opened(fh, flags),
        }
    }

    /// Notes that a handle was released. With the last handle of an inode its decision ends.
    pub(super) fn release(&self, ino: INodeNo, fh: FileHandle) {
        let mut inodes = self.inodes.lock();
        if let Some(decision) = inodes.get_mut(&ino) {
            decision.handles.retain(|handle| *handle != fh);
            if decision.handles.is_empty() {
                inodes.remove(&ino);
            }
        }
    }
}
