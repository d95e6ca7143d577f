//! Answers the requests of the kernel.
//!
//! Each operation converts fuser's types, calls the tree and replies. `watched` has the only
//! implementation of `fuser::Filesystem`, which calls these operations. Every failure goes through
//! [`fail`], which logs the unusual failures, each in one line with operation, path and offset.
#![forbid(unsafe_code)]

mod attributes;
mod cache;
mod direct;
mod list;
mod open;
mod passthrough;
mod requests;
mod watched;

use std::{
    ffi::OsString,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    panic::{self, AssertUnwindSafe},
    sync::Arc,
    time::Duration,
};

use fuser::{
    AccessFlags, Errno, FileHandle, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr,
};

use self::{
    attributes::file_attr, list::Lister, open::Opener, passthrough::Passthrough, requests::Ticket,
};
pub(crate) use self::{
    cache::KernelCache,
    direct::is_late_reply,
    requests::{Relief, Requests},
    watched::Watched,
};
use crate::{
    serve,
    tree::{FsError, HandleId, Ino, Tree, Xattr},
};

/// Most read-ahead requests that the kernel may have under way. Its default of 12 makes several
/// concurrent sequential reads slow.
const MAX_BACKGROUND: u16 = 64;

/// Allows passthrough to files of filesystems that are not stacked. A depth of 2 would also allow a
/// source on overlayfs. But then this mount could not be a layer of an overlayfs, which containers
/// on top of data directories need: the kernel limits the depth of a stack.
const MAX_STACK_DEPTH: u32 = 1;

/// The answer to a request that was interrupted. Only fuser gets it: the kernel has got EINTR
/// already (`requests`). Without an answer, fuser would log a warning.
const INTERRUPTED: Errno = Errno::EINTR;

/// Answers the requests of one mount.
pub(crate) struct Npzfs {
    tree: Arc<Tree>,
    passthrough: Arc<Passthrough>,
    /// Whether the kernel caches listings. It does not with `--ttl 0`.
    cache_directories: bool,
    cache: KernelCache,
    /// The device that the requests come from.
    device: Arc<OwnedFd>,
    requests: Arc<Requests>,
}

impl Npzfs {
    /// Serves `tree` through `device`, a second descriptor of the device that the session reads.
    pub(crate) fn new(tree: Arc<Tree>, device: OwnedFd) -> Self {
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
        Self {
            tree,
            passthrough,
            cache_directories: false,
            cache,
            device: Arc::new(device),
            requests,
        }
    }

    /// The notifier of the kernel's cache. Start it once there is a session.
    pub(crate) fn cache(&self) -> KernelCache {
        self.cache.clone()
    }

    /// The requests that have not been answered yet.
    pub(crate) fn requests(&self) -> Arc<Requests> {
        self.requests.clone()
    }

    /// Ends the background work when the mount is gone, and saves the indexes.
    pub(crate) fn end(&self) {
        self.requests.end();
        self.cache.end();
        contain(|| self.tree.save_indexes());
    }

    fn ttl(&self) -> Duration {
        self.tree.settings().ttl
    }

    fn fail(&self, operation: &'static str, ino: INodeNo, error: &FsError) -> Errno {
        fail(&self.tree, operation, ino, None, error)
    }

    fn opener(&self) -> Opener {
        let (tree, passthrough) = (self.tree.clone(), self.passthrough.clone());
        Opener { tree, passthrough, cache: self.cache.clone() }
    }
}

/// Returns the errno for a request about `ino` that failed with `error`. Logs the failure if the
/// log does not have it yet, with the `offset` of a read. Every failed request must come here.
fn fail(
    tree: &Tree,
    operation: &'static str,
    ino: INodeNo,
    offset: Option<u64>,
    error: &FsError,
) -> Errno {
    if let Some(repeats) = tree.repeats(operation, error) {
        let at = offset.map_or_else(String::new, |offset| format!(" at {offset}"));
        let advice = match error {
            FsError::Content(failure) => advice_on(&failure.error),
            _ => "",
        };
        let what = tree.describe_cause(Ino(ino.0), error);
        log::warn!("{operation} {what}{at}: {error}{advice}{repeats}");
    }
    Errno::from_i32(error.errno())
}

/// Advice for a user about `error`. It goes after the text of the error.
fn advice_on(error: &serve::Error) -> &'static str {
    match error {
        serve::Error::Damaged(_) => {
            "; bytes read of it before may be wrong: restore the archive from a copy"
        }
        _ => "",
    }
}

/// The operations that [`Watched`] calls.
impl Npzfs {
    fn init(&mut self, config: &mut KernelConfig) {
        // An older kernel may lack any of these.
        for flag in [
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            // The target of a link never changes: a new link has a new inode.
            InitFlags::FUSE_CACHE_SYMLINKS,
        ] {
            let _ = config.add_capabilities(flag);
        }
        self.cache_directories = !self.ttl().is_zero()
            && config.add_capabilities(InitFlags::FUSE_NO_OPENDIR_SUPPORT).is_ok();
        // Only root may register backing files (CAP_SYS_ADMIN). The first open tries it.
        if config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(MAX_STACK_DEPTH).is_ok()
        {
            self.passthrough.offer();
        }
        // Cannot fail: only zero is refused.
        let _ = config.set_max_background(MAX_BACKGROUND);
    }

    fn lookup(&self, parent: INodeNo, name: OsString, ticket: Ticket, reply: ReplyEntry) {
        let look_up = move |tree: &Tree, waits| tree.look_up(Ino(parent.0), &name, waits);
        unless_heavy(&self.tree, look_up, move |tree, found| match found {
            // The request was interrupted: the kernel does not know this reference and will not
            // forget it.
            Ok((ino, _)) if !ticket.take() => {
                tree.forget(ino, 1);
                reply.error(INTERRUPTED);
            }
            // Live inodes have different numbers, so one generation number is enough for all.
            Ok((ino, attr)) => {
                reply.entry(&tree.settings().ttl, &file_attr(ino, &attr), Generation(0));
            }
            Err(error) => reply.error(fail(tree, "lookup in", parent, None, &error)),
        });
    }

    fn getattr(&self, ino: INodeNo, reply: ReplyAttr) {
        match self.tree.getattr(Ino(ino.0)) {
            Ok(attr) => reply.attr(&self.ttl(), &file_attr(Ino(ino.0), &attr)),
            Err(error) => reply.error(self.fail("getattr", ino, &error)),
        }
    }

    fn readlink(&self, ino: INodeNo, reply: ReplyData) {
        match self.tree.read_link(Ino(ino.0)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(self.fail("readlink", ino, &error)),
        }
    }

    fn read(
        &self,
        asker: serve::Asker,
        fh: FileHandle,
        (ino, offset): (INodeNo, u64),
        size: u32,
        ticket: Ticket,
        reply: ReplyData,
    ) {
        let tree = self.tree.clone();
        let handle = match tree.handle(HandleId(fh.0)) {
            Ok(handle) => handle,
            Err(error) => return reply.error(fail(&tree, "read", ino, Some(offset), &error)),
        };
        handle.read(asker, offset, size, move |result| {
            match result {
                Ok(bytes) => reply.data(bytes),
                Err(error) => reply.error(fail(&tree, "read", ino, Some(offset), &error)),
            }
            drop(ticket);
        });
    }

    fn release(&self, ino: INodeNo, fh: FileHandle, reply: ReplyEmpty) {
        self.passthrough.release(ino, fh);
        self.tree.release(HandleId(fh.0));
        reply.ok();
    }

    fn access(&self, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let [read, write, execute] = [AccessFlags::R_OK, AccessFlags::W_OK, AccessFlags::X_OK]
            .map(|flag| mask.contains(flag));
        match self.tree.access(Ino(ino.0), read, write, execute) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(self.fail("access", ino, &error)),
        }
    }

    fn opendir(&self, reply: ReplyOpen) {
        if self.cache_directories {
            // After this error the kernel sends no more OPENDIR or RELEASEDIR: it opens directories
            // by itself, and caches their listings (FOPEN_CACHE_DIR).
            reply.error(Errno::ENOSYS);
        } else {
            reply.opened(FileHandle(0), FopenFlags::empty());
        }
    }

    fn lister(&self) -> Lister {
        let (tree, cache, device) = (self.tree.clone(), self.cache.clone(), self.device.clone());
        Lister { tree, cache, device, cache_directories: self.cache_directories }
    }

    fn statfs(&self, ino: INodeNo, reply: ReplyStatfs) {
        match self.tree.stat_vfs() {
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
        }
    }

    fn getxattr(&self, ino: INodeNo, xattr: Xattr, size: u32, ticket: Ticket, reply: ReplyXattr) {
        let value = move |tree: &Tree, waits| tree.xattr(Ino(ino.0), xattr, waits);
        let answer = xattr_answer("getxattr", ino, size, ticket, reply);
        if xattr.needs_header() {
            let tree = self.tree.clone();
            return self.tree.spawn(move || answer(&tree, value(&tree, true)));
        }
        unless_heavy(&self.tree, value, answer);
    }

    fn listxattr(&self, ino: INodeNo, size: u32, ticket: Ticket, reply: ReplyXattr) {
        let answer = xattr_answer("listxattr", ino, size, ticket, reply);
        answer(&self.tree, self.tree.list_xattrs(Ino(ino.0)));
    }
}

/// Calls `answer` with the result of `work`, which gets whether it may wait until a large archive
/// is opened. If `work` must wait, it runs again on a thread of the pool for archives: opening an
/// archive of many members takes a millisecond to a second, and may wait for other archives.
fn unless_heavy<T>(
    tree: &Arc<Tree>,
    work: impl Fn(&Tree, bool) -> Result<T, FsError> + Send + 'static,
    answer: impl FnOnce(&Tree, Result<T, FsError>) + Send + 'static,
) {
    match work(tree, false) {
        Err(FsError::Heavy(weight)) => {
            let waiting = tree.clone();
            tree.spawn_heavy(weight, move || answer(&waiting, work(&waiting, true)));
        }
        result => answer(tree, result),
    }
}

/// Answers a request for an extended attribute, or for the list of their names.
fn xattr_answer(
    operation: &'static str,
    ino: INodeNo,
    size: u32,
    ticket: Ticket,
    reply: ReplyXattr,
) -> impl FnOnce(&Tree, Result<String, FsError>) + Send {
    move |tree, value| {
        match value {
            Ok(value) if size == 0 => reply.size(value.len() as u32),
            Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
            Ok(value) => reply.data(value.as_bytes()),
            Err(error) => reply.error(fail(tree, operation, ino, None, &error)),
        }
        drop(ticket);
    }
}

/// Runs the work of one request. If it panics, its reply is dropped, which answers EIO, and the
/// panic hook logs the panic. Without this function, a panic would end one of fuser's threads. Once
/// the last of them is gone, every program that uses the mount hangs.
fn contain(work: impl FnOnce()) {
    let _ = panic::catch_unwind(AssertUnwindSafe(work));
}
