//! The filesystem as the threads see it that answer the kernel, with a count of what they are at.
//!
//! More threads than fuser starts by itself can answer one mount: each session beyond the first has a
//! [`Watched::joined`] of its own, and all lead to one [`Npzfs`].
#![forbid(unsafe_code)]

use std::{
    ffi::OsStr,
    io,
    sync::{Arc, OnceLock},
};

use fuser::{
    AccessFlags, FileHandle, Filesystem, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::{Npzfs, requests::Requests};

/// A filesystem that is answered by several sessions.
#[derive(Debug)]
pub struct Watched {
    /// Until the kernel has said what it can do.
    fresh: Option<Npzfs>,
    served: Arc<OnceLock<Npzfs>>,
    requests: Arc<Requests>,
}

impl Watched {
    /// Watches `filesystem`, for the first session.
    #[must_use]
    pub fn new(filesystem: Npzfs) -> Self {
        let requests = filesystem.requests();
        Self { fresh: Some(filesystem), served: Arc::default(), requests }
    }

    /// The same filesystem for a further session.
    #[must_use]
    pub fn joined(&self) -> Self {
        let (served, requests) = (self.served.clone(), self.requests.clone());
        Self { fresh: None, served, requests }
    }

    /// Saves what is to be saved: nobody reads any more.
    pub fn end(&self) {
        if let Some(served) = self.served.get() {
            served.end();
        }
    }

    /// Lets pools grow and memory go. To be called every so often while there are requests; `is_old`
    /// says whether one of them has been waiting.
    pub fn relieve(&self, is_old: bool) {
        let Some(Npzfs { tree, cache, .. }) = self.served.get() else { return };
        tree.relieve();
        // A request that waits for the source may hold its directory locked, and behind somebody who
        // wants to change the directory all others would wait as well.
        if !is_old && tree.is_crowded() {
            cache.drop_names(tree);
        }
    }

    /// Runs `work`, which answers by itself.
    fn at_work(&self, work: impl FnOnce(&Npzfs)) {
        // There is no request before INIT, and INIT sets it.
        let Some(served) = self.served.get() else { return };
        self.requests.at_work(|| work(served));
    }

    /// Runs `work`, which answers `request` before it returns.
    fn answer(&self, request: &Request, work: impl FnOnce(&Npzfs)) {
        let ticket = self.requests.ticket(request);
        self.at_work(work);
        drop(ticket);
    }
}

impl Filesystem for Watched {
    fn init(&mut self, req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        if let Some(mut fresh) = self.fresh.take() {
            fresh.init(req, config)?;
            let _ = self.served.set(fresh); // it is empty: only the first session has a fresh one
        }
        Ok(())
    }

    // Only the first session ends when the mount does, and not when a thread of it is missing.
    fn destroy(&mut self) {}

    fn forget(&self, req: &Request, ino: INodeNo, count: u64) {
        self.at_work(|npzfs| npzfs.forget(req, ino, count));
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.at_work(|npzfs| npzfs.lookup(req, parent, name, reply));
    }

    fn getattr(&self, req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.answer(req, |npzfs| npzfs.getattr(req, ino, fh, reply));
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.answer(req, |npzfs| npzfs.readlink(req, ino, reply));
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.at_work(|npzfs| npzfs.open(req, ino, flags, reply));
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.at_work(|npzfs| npzfs.read(req, ino, fh, offset, size, flags, lock_owner, reply));
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        flush: bool,
        reply: ReplyEmpty,
    ) {
        self.at_work(|npzfs| npzfs.release(req, ino, fh, flags, lock_owner, flush, reply));
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.answer(req, |npzfs| npzfs.access(req, ino, mask, reply));
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.answer(req, |npzfs| npzfs.readdir(req, ino, fh, offset, reply));
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.at_work(|npzfs| npzfs.readdirplus(req, ino, fh, offset, reply));
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.answer(req, |npzfs| npzfs.statfs(req, ino, reply));
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.at_work(|npzfs| npzfs.getxattr(req, ino, name, size, reply));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.answer(req, |npzfs| npzfs.listxattr(req, ino, size, reply));
    }

    // What follows asks nothing of the source.

    fn flush(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.at_work(|npzfs| npzfs.flush(req, ino, fh, lock_owner, reply));
    }

    fn fsync(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.at_work(|npzfs| npzfs.fsync(req, ino, fh, datasync, reply));
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        self.at_work(|npzfs| npzfs.ioctl(req, ino, fh, flags, cmd, in_data, out_size, reply));
    }

    fn lseek(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.at_work(|npzfs| npzfs.lseek(req, ino, fh, offset, whence, reply));
    }

    fn opendir(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.at_work(|npzfs| npzfs.opendir(req, ino, flags, reply));
    }
}
