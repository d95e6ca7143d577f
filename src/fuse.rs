//! Between fuser and the tree, nothing else: the one file with `fuser::Filesystem`.
//!
//! Types in, a call of the tree, a reply; what fails for a reason worth knowing is logged here, in
//! one line with operation, path and offset.
#![forbid(unsafe_code)]

mod attributes;
mod cache;
mod direct;
mod lookup;
mod open;
mod passthrough;
mod requests;
mod watched;

use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    time::Duration,
};

use fuser::{
    AccessFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use self::{
    attributes::file_attr,
    direct::{Listing, Reply},
    open::Opener,
    passthrough::Passthrough,
};
pub use self::{
    cache::KernelCache,
    direct::is_late_reply,
    requests::{Relief, Requests},
    watched::Watched,
};
use crate::{
    serve,
    tree::{FsError, HandleId, Ino, Listed, Tree, Xattr},
};

/// Requests that the kernel may have under way for read-ahead. Its default of 12 throttles several
/// sequential readers.
const MAX_BACKGROUND: u16 = 64;

/// Passthrough to files of ordinary filesystems. With 2 a source on overlayfs could be passed
/// through as well, but then the mount itself could not lie below an overlayfs (the kernel stacks
/// no higher), as containers over data directories want it.
const MAX_STACK_DEPTH: u32 = 1;

/// The inode number of a listed name that nobody has looked up (libfuse's FUSE_UNKNOWN_INO).
const UNKNOWN_INO: INodeNo = INodeNo(0xffff_ffff);

/// The filesystem that the kernel talks to.
#[derive(Debug)]
pub struct Npzfs {
    tree: Arc<Tree>,
    passthrough: Arc<Passthrough>,
    /// Whether the kernel keeps what directories list. Not if nothing may be kept (`--ttl 0`).
    cache_directories: bool,
    cache: KernelCache,
    /// The device that the requests come from.
    device: OwnedFd,
    requests: Arc<Requests>,
}

impl Npzfs {
    /// Serves `tree` through `device`, which the session has another descriptor of.
    #[must_use]
    pub fn new(tree: Arc<Tree>, device: OwnedFd) -> Self {
        let cache = KernelCache::new(tree.settings().ttl);
        let passthrough = Arc::new(Passthrough::default());
        let (dropping, describing) = (cache.clone(), Arc::downgrade(&tree));
        tree.on_condemned(move |ino, error| {
            dropping.drop_pages(INodeNo(ino.0));
            if let (Some(error), Some(tree)) = (error, describing.upgrade()) {
                log::warn!("{}: {error}{}", tree.describe(ino), advice_on(error));
            }
        });
        let requests = Arc::default();
        Self { tree, passthrough, cache_directories: false, cache, device, requests }
    }

    /// The kernel's cache, to be started when there is a session.
    #[must_use]
    pub fn cache(&self) -> KernelCache {
        self.cache.clone()
    }

    /// The requests that are not answered yet.
    #[must_use]
    pub fn requests(&self) -> Arc<Requests> {
        self.requests.clone()
    }

    /// The kernel has let go: nobody reads any more.
    pub fn end(&self) {
        self.requests.end();
        self.cache.end();
        contain(|| self.tree.save_indexes());
    }

    fn ttl(&self) -> Duration {
        self.tree.settings().ttl
    }

    /// A part of a listing was answered. The kernel keeps it for as long as the directory's mtime is
    /// the same, which says nothing of archives in it that become valid. So it is dropped after the
    /// timeout, counted from its start, and from its end: by then the kernel has taken in all parts.
    fn listed(&self, ino: INodeNo, cookie: u64, entries: usize) {
        if self.cache_directories && (cookie == 0 || entries == 0) {
            self.cache.drop_later(ino);
        }
    }

    fn fail(&self, operation: &'static str, ino: INodeNo, error: &FsError) -> Errno {
        fail(&self.tree, operation, ino, error)
    }

    fn opener(&self) -> Opener {
        let (tree, passthrough) = (self.tree.clone(), self.passthrough.clone());
        Opener { tree, passthrough, cache: self.cache.clone() }
    }
}

/// The number that an entry of `directory` is listed with.
fn number_in(directory: INodeNo, entry: &Listed<'_>) -> INodeNo {
    match (&entry.looked_up, entry.number) {
        (Some((found, _)), _) => INodeNo(found.0),
        (None, Some(number)) => INodeNo(number.0),
        (None, None) if entry.name == "." => directory,
        (None, None) => UNKNOWN_INO,
    }
}

/// Where a request failed: an inode, and an offset in it if it was a read.
struct Place {
    ino: Ino,
    offset: Option<u64>,
}

impl From<INodeNo> for Place {
    fn from(ino: INodeNo) -> Self {
        Self { ino: Ino(ino.0), offset: None }
    }
}

impl From<(INodeNo, u64)> for Place {
    fn from((ino, offset): (INodeNo, u64)) -> Self {
        Self { ino: Ino(ino.0), offset: Some(offset) }
    }
}

/// The errno that answers a request which failed with `error`. Logs the failure if the log does not
/// have it yet. All requests that fail come here.
fn fail(tree: &Tree, operation: &'static str, place: impl Into<Place>, error: &FsError) -> Errno {
    if let Some(repeats) = tree.repeats(operation, error) {
        let Place { ino, offset } = place.into();
        let at = offset.map_or_else(String::new, |offset| format!(" at {offset}"));
        let advice = match error {
            FsError::Content(failure) => advice_on(&failure.error),
            _ => "",
        };
        log::warn!("{operation} {}{at}: {error}{advice}{repeats}", tree.describe(ino));
    }
    Errno::from_i32(error.errno())
}

/// What a user can do about `error`, to be put after its text.
fn advice_on(error: &serve::Error) -> &'static str {
    match error {
        serve::Error::Damaged(_) => {
            "; what was read of it before may be wrong: restore its archive from a copy"
        }
        _ => "",
    }
}

impl Filesystem for Npzfs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What an older kernel lacks, we do without.
        for flag in [
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            // The target of a link never changes: another one is another inode.
            InitFlags::FUSE_CACHE_SYMLINKS,
        ] {
            let _ = config.add_capabilities(flag);
        }
        self.cache_directories = !self.ttl().is_zero()
            && config.add_capabilities(InitFlags::FUSE_NO_OPENDIR_SUPPORT).is_ok();
        // Only root may name backing files (CAP_SYS_ADMIN); the first open finds out.
        if config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(MAX_STACK_DEPTH).is_ok()
        {
            self.passthrough.offer();
        }
        // It refuses zero only.
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn destroy(&mut self) {
        self.end();
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ticket = self.requests.ticket(req);
        contain(|| lookup::look_up(&self.tree, parent, name, ticket, reply));
    }

    fn forget(&self, _req: &Request, ino: INodeNo, count: u64) {
        contain(|| {
            self.tree.forget(Ino(ino.0), count);
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        contain(|| match self.tree.getattr(Ino(ino.0)) {
            Ok(attr) => reply.attr(&self.ttl(), &file_attr(Ino(ino.0), &attr)),
            Err(error) => reply.error(self.fail("getattr", ino, &error)),
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        contain(|| match self.tree.read_link(Ino(ino.0)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(self.fail("readlink", ino, &error)),
        });
    }

    fn open(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let ticket = self.requests.ticket(req);
        contain(|| self.opener().open(ino, req.uid(), ticket, reply));
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
        let ticket = self.requests.ticket(req);
        contain(|| {
            let handle = match self.tree.handle(HandleId(fh.0)) {
                Ok(handle) => handle,
                Err(error) => return reply.error(self.fail("read", ino, &error)),
            };
            let tree = self.tree.clone();
            handle.read(serve::Asker::thread(req.pid()), offset, size, move |result| {
                match result {
                    Ok(bytes) => reply.data(bytes),
                    Err(error) => reply.error(fail(&tree, "read", (ino, offset), &error)),
                }
                drop(ticket);
            });
        });
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        contain(|| {
            self.passthrough.release(ino, fh);
            self.tree.release(HandleId(fh.0));
            reply.ok();
        });
    }

    fn access(&self, _req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        contain(|| {
            let write = mask.contains(AccessFlags::W_OK);
            let execute = mask.contains(AccessFlags::X_OK);
            match self.tree.access(Ino(ino.0), mask.contains(AccessFlags::R_OK), write, execute) {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(self.fail("access", ino, &error)),
            }
        });
    }

    // What follows is asked for in passing, by isatty(3), fsync(2), SEEK_HOLE and old kernels' close;
    // without an answer of ours fuser would log each.

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
        // The kernel then takes the file for one without holes, and does not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.cache_directories {
            // Never asked again, nor for releasedir: the kernel opens directories itself, and keeps
            // their listings (FOPEN_CACHE_DIR).
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::empty());
        }
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        contain(|| {
            let mut listing = Listing::new(Reply::Names(reply), &self.device, self.ttl());
            let listed = self.tree.read_directory(Ino(ino.0), offset, false, &mut |entry| {
                listing.add(number_in(ino, &entry), &entry)
            });
            match listed {
                Ok(()) => {
                    let count = listing.count;
                    listing.send(req.unique());
                    self.listed(ino, offset, count);
                }
                Err(error) => listing.fail(self.fail("readdir", ino, &error)),
            }
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
        let ticket = self.requests.ticket(req);
        contain(|| {
            let mut references = Vec::new();
            let mut listing = Listing::new(Reply::Entries(reply), &self.device, self.ttl());
            let listed = self.tree.read_directory(Ino(ino.0), offset, true, &mut |entry| {
                let is_added = listing.add(number_in(ino, &entry), &entry);
                if let Some((found, _)) = entry.looked_up.filter(|_| is_added) {
                    references.push(found);
                }
                is_added
            });
            match listed {
                Ok(()) if !ticket.take() => {
                    listing.fail(Errno::EINTR); // for fuser: the kernel has it already
                    for found in references {
                        self.tree.forget(found, 1);
                    }
                }
                Ok(()) => {
                    let count = listing.count;
                    listing.send(req.unique());
                    self.listed(ino, offset, count);
                }
                Err(error) => listing.fail(self.fail("readdir", ino, &error)),
            }
        });
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        contain(|| match self.tree.stat_vfs() {
            Ok(vfs) => reply.statfs(
                vfs.f_blocks,
                vfs.f_bfree,
                vfs.f_bavail,
                vfs.f_files,
                vfs.f_ffree,
                vfs.f_bsize as u32,
                vfs.f_namemax as u32,
                vfs.f_frsize as u32,
            ),
            Err(error) => reply.error(self.fail("statfs", ino, &error)),
        });
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let ticket = self.requests.ticket(req);
        contain(|| {
            let Some(xattr) = Xattr::named(name) else {
                return reply.error(self.fail("getxattr", ino, &FsError::NoAttribute));
            };
            let tree = self.tree.clone();
            let answer = move || {
                match tree.xattr(Ino(ino.0), xattr) {
                    Ok(value) => reply_xattr(value.as_bytes(), size, reply),
                    Err(error) => reply.error(fail(&tree, "getxattr", ino, &error)),
                }
                drop(ticket);
            };
            if xattr.needs_header() { self.tree.spawn(answer) } else { answer() }
        });
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        contain(|| match self.tree.list_xattrs(Ino(ino.0)) {
            Ok(list) => {
                let names: String = list.iter().flat_map(|xattr| [xattr.name(), "\0"]).collect();
                reply_xattr(names.as_bytes(), size, reply);
            }
            Err(error) => reply.error(self.fail("listxattr", ino, &error)),
        });
    }
}

/// Runs the work of one request. Should it panic, the reply it holds is dropped, and so answers
/// EIO; a panic that went on would end fuser's event loop thread for good, and with the last of
/// them all who use the mount would hang. The hook has logged it.
fn contain(work: impl FnOnce()) {
    let _ = panic::catch_unwind(AssertUnwindSafe(work));
}

fn reply_xattr(value: &[u8], size: u32, reply: ReplyXattr) {
    match size as usize {
        0 => reply.size(value.len() as u32),
        room if room < value.len() => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}
