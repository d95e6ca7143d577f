//! The filesystem that sessions of fuser call. It counts the threads that work on requests, and
//! passes each request on to [`Npzfs`].
//!
//! One mount can have several sessions, and so more threads than one session has. Each further
//! session gets a [`Watched::joined`], and all of them share one [`Npzfs`].
#![forbid(unsafe_code)]

use std::{
    ffi::OsStr,
    io,
    sync::{Arc, OnceLock},
};

use fuser::{
    AccessFlags, Errno, FileHandle, Filesystem, INodeNo, IoctlFlags, KernelConfig, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::{
    Npzfs,
    direct::Reply,
    list::ListRequest,
    requests::{Requests, Ticket},
};
use crate::{
    serve,
    tree::{FsError, Ino, Xattr},
};

/// A filesystem that several sessions serve.
pub(crate) struct Watched {
    /// The filesystem before INIT, the request in which the kernel reports what it supports.
    fresh: Option<Npzfs>,
    served: Arc<OnceLock<Npzfs>>,
    requests: Arc<Requests>,
}

impl Watched {
    /// Wraps `filesystem` for the first session.
    pub(crate) fn new(filesystem: Npzfs) -> Self {
        let requests = filesystem.requests();
        Self { fresh: Some(filesystem), served: Arc::default(), requests }
    }

    /// The same filesystem for a further session.
    pub(crate) fn joined(&self) -> Self {
        let (served, requests) = (self.served.clone(), self.requests.clone());
        Self { fresh: None, served, requests }
    }

    /// Ends the filesystem and saves the indexes. Call this when no session is left.
    pub(crate) fn end(&self) {
        if let Some(served) = self.served.get() {
            served.end();
        }
    }

    /// Adds threads to pools whose threads are stuck, and frees memory if too much is used. Call
    /// this every 50 ms while there are requests, and for a second after. `is_old`: a request has
    /// waited for long.
    pub(crate) fn relieve(&self, is_old: bool) {
        let Some(Npzfs { tree, cache, .. }) = self.served.get() else { return };
        tree.relieve();
        // A program whose request waits for the source may hold the kernel's lock on a directory.
        // Dropping a name in that directory would wait for the lock, and every later user of the
        // directory would wait too. So no names are dropped while a request has waited for long.
        if !is_old && tree.is_crowded() {
            cache.drop_names(tree);
        }
    }

    /// Runs `work`, which answers `request`: before it returns, or later from another thread that
    /// has the ticket.
    fn answer(&self, request: &Request, work: impl FnOnce(&Npzfs, Ticket)) {
        // The cell is set by INIT, the first request.
        let Some(served) = self.served.get() else { return };
        let ticket = self.requests.ticket(request);
        self.requests.at_work(|| work(served, ticket));
    }

    /// As [`answer`](Self::answer), for a request about `ino`. If a large archive must be opened
    /// first, a thread of the pool for archives answers instead of this one.
    fn answer_about(
        &self,
        request: &Request,
        ino: INodeNo,
        work: impl FnOnce(&Npzfs, Ticket) + Send + 'static,
    ) {
        self.answer(request, |npzfs, ticket| {
            let Some(weight) = npzfs.tree.weight_to_open(Ino(ino.0)) else {
                return work(npzfs, ticket);
            };
            let served = self.served.clone();
            npzfs.tree.spawn_heavy(weight, move || {
                if let Some(npzfs) = served.get() {
                    work(npzfs, ticket);
                }
            });
        });
    }
}

impl Filesystem for Watched {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        if let Some(mut fresh) = self.fresh.take() {
            fresh.init(config);
            let _ = self.served.set(fresh); // unset until now: only the first session has `fresh`
        }
        Ok(())
    }

    // Does nothing: sessions end at different times, and `end` is called after the last of them.
    fn destroy(&mut self) {}

    fn forget(&self, _req: &Request, ino: INodeNo, count: u64) {
        let Some(served) = self.served.get() else { return };
        self.requests.at_work(|| served.tree.forget(Ino(ino.0), count));
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.answer_about(req, parent, move |npzfs, ticket| {
            npzfs.lookup(parent, name, ticket, reply);
        });
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.answer_about(req, ino, move |npzfs, _ticket| npzfs.getattr(ino, reply));
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.answer(req, |npzfs, _ticket| npzfs.readlink(ino, reply));
    }

    fn open(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let user = req.uid();
        self.answer_about(req, ino, move |npzfs, ticket| {
            npzfs.opener().open(ino, user, ticket, reply);
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let asker = serve::Asker::thread(req.pid());
        self.answer(req, |npzfs, ticket| {
            npzfs.read(asker, fh, (ino, offset), size, ticket, reply);
        });
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.answer(req, |npzfs, _ticket| npzfs.release(ino, fh, reply));
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.answer_about(req, ino, move |npzfs, _ticket| npzfs.access(ino, mask, reply));
    }

    fn opendir(&self, req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.answer(req, |npzfs, _ticket| npzfs.opendir(reply));
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let unique = req.unique();
        self.answer_about(req, ino, move |npzfs, ticket| {
            let request = ListRequest { directory: ino, cookie: offset, unique, ticket };
            npzfs.lister().list(request, Reply::Names(reply));
        });
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let unique = req.unique();
        self.answer_about(req, ino, move |npzfs, ticket| {
            let request = ListRequest { directory: ino, cookie: offset, unique, ticket };
            npzfs.lister().list(request, Reply::Entries(reply));
        });
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.answer(req, |npzfs, _ticket| npzfs.statfs(ino, reply));
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        // Programs and the kernel also ask for attributes that npzfs does not offer, such as
        // security.capability. No archive needs to be opened to answer such a request.
        let Some(xattr) = Xattr::named(name) else {
            return self.answer(req, |npzfs, _ticket| {
                reply.error(npzfs.fail("getxattr", ino, &FsError::NoAttribute));
            });
        };
        self.answer_about(req, ino, move |npzfs, ticket| {
            npzfs.getxattr(ino, xattr, size, ticket, reply);
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.answer_about(req, ino, move |npzfs, ticket| {
            npzfs.listxattr(ino, size, ticket, reply);
        });
    }

    // The following requests come from the close(2) of old kernels, fsync(2), isatty(3) and
    // SEEK_HOLE. fuser would log each of them if it were not answered here.

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        // After this error the kernel treats every file as one without holes, and sends no more of
        // these requests.
        reply.error(Errno::ENOSYS);
    }
}
