//! Kernel passthrough of whole files (FUSE_PASSTHROUGH, Linux 6.9), where we may: files of the source,
//! and decoded copies of members.

use std::{
    collections::HashMap,
    fs::File,
    sync::atomic::{AtomicBool, Ordering},
};

use fuser::{BackingId, FileHandle, FopenFlags, INodeNo, ReplyOpen};

use crate::sync::Mutex;

/// Decides on passthrough for an inode and not for an open: the kernel refuses
/// to mix cached and passthrough opens of one inode (EIO), and wants one backing file for all.
/// Both only as long as one of them is open, or mapped, and that ends before it sends the RELEASE
/// (fuse_file_put, fs/fuse/file.c): the first open after the last was released decides anew. So a
/// member whose copy is finished while it is open is passed through once all have closed it.
#[derive(Debug, Default)]
pub(super) struct Passthrough {
    offered: AtomicBool,
    inodes: Mutex<HashMap<INodeNo, Decision>>,
}

/// What was decided while an inode is open.
#[derive(Debug)]
struct Decision {
    handles: Vec<FileHandle>,
    /// `None`: reads come to us.
    backing: Option<BackingId>,
}

impl Passthrough {
    /// The kernel can do it. Whether we may (CAP_SYS_ADMIN), the first open finds out.
    pub fn offer(&self) {
        self.offered.store(true, Ordering::Relaxed);
    }

    /// Answers the open of `ino` as `fh`, for which `file` may be read if it is there.
    pub fn open(
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
            // With KEEP_CACHE the kernel refuses (FOPEN_PASSTHROUGH_MASK, fs/fuse/iomode.c): open
            // then fails with EIO. There is no cache of ours to keep. With NOFLUSH, close(2) does not
            // wait for us: open and close took 86 us, and take 48.
            Some(backing) => reply.opened_passthrough(fh, FopenFlags::FOPEN_NOFLUSH, backing),
            None => reply.opened(fh, flags),
        }
    }

    /// A handle is gone.
    pub fn release(&self, ino: INodeNo, fh: FileHandle) {
        let mut inodes = self.inodes.lock();
        if let Some(decision) = inodes.get_mut(&ino) {
            decision.handles.retain(|handle| *handle != fh);
            if decision.handles.is_empty() {
                inodes.remove(&ino);
            }
        }
    }
}
