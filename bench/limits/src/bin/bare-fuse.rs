//! The least a FUSE server can do: one file, read with pread(2) by some threads.
//!
//!     bare-fuse FILE MOUNTPOINT THREADS
//!
//! Shows FILE in MOUNTPOINT under its own name until it is unmounted. What it delivers from the
//! page cache is what the transport allows; npzfs asks the kernel for the same settings.
#![forbid(unsafe_code)]

use std::{
    cell::RefCell,
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEntry, ReplyOpen, Request,
};

const FILE: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(3600);

/// As npzfs has it.
const MAX_BACKGROUND: u16 = 64;

struct OneFile {
    name: OsString,
    file: File,
    size: u64,
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl OneFile {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let (kind, perm, size) = match ino {
            FILE => (FileType::RegularFile, 0o444, self.size),
            _ => (FileType::Directory, 0o555, 0),
        };
        FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for OneFile {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // It refuses zero only.
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == self.name {
            reply.entry(&TTL, &self.attr(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = self.size.saturating_sub(offset).min(size.into()) as usize;
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < size {
                scratch.resize(size, 0);
            }
            match self.file.read_exact_at(&mut scratch[..size], offset) {
                Ok(()) => reply.data(&scratch[..size]),
                Err(error) => reply.error(error.into()),
            }
        });
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if offset == 0 {
            // One entry fits.
            let _ = reply.add(FILE, 1, FileType::RegularFile, &self.name);
        }
        reply.ok();
    }
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let [file, mountpoint, threads] = &arguments[..] else {
        eprintln!("usage: bare-fuse FILE MOUNTPOINT THREADS");
        return ExitCode::from(2);
    };
    match serve(Path::new(file), Path::new(mountpoint), threads) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare-fuse: {}: {error}", file.display());
            ExitCode::FAILURE
        }
    }
}

fn serve(path: &Path, mountpoint: &Path, threads: &OsStr) -> io::Result<()> {
    let wrong = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
    let threads = threads.to_str().and_then(|text| text.parse().ok());
    let name = path.file_name().ok_or_else(|| wrong("FILE has no name"))?;
    let file = File::open(path)?;
    let filesystem = OneFile { name: name.into(), size: file.metadata()?.len(), file };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::RO, MountOption::FSName("bare-fuse".into())];
    config.n_threads = Some(threads.ok_or_else(|| wrong("THREADS is no number"))?);
    fuser::mount(filesystem, mountpoint, &config)
}
