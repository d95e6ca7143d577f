//! Between fuser and the tree, nothing else: the one file with `fuser::Filesystem`.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, ReplyAttr,
    ReplyDirectory, ReplyEntry, Request,
};

use crate::tree::Tree;

/// The filesystem that the kernel talks to.
#[derive(Debug)]
pub struct Npzfs {
    _tree: Arc<Tree>,
}

impl Npzfs {
    /// Serves `tree`.
    #[must_use]
    pub fn new(tree: Arc<Tree>) -> Self {
        Self { _tree: tree }
    }
}

impl Filesystem for Npzfs {
    fn lookup(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &std::ffi::OsStr,
        reply: ReplyEntry,
    ) {
        let _ = Generation(0);
        reply.error(Errno::ENOENT);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let attr = FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::Directory,
            perm: 0o555,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&Duration::from_secs(1), &attr);
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        reply: ReplyDirectory,
    ) {
        reply.ok();
    }
}
