//! Ends a server when no other process holds a lock on a file any more (`--while-locked`).
//!
//! Programs that share a mount lock the file with flock(2), shared. The kernel drops a lock when
//! the last process that has the locked descriptor ends, in whatever way, and a process that was
//! forked has the descriptor as well. The server waits for an exclusive lock and keeps it until the
//! mount is gone. So the mount does not end for want of a lock while a program has a shared lock.
//! SIGTERM and umount(8) end it all the same.

use std::{
    fs::{self, File},
    io,
    os::{fd::RawFd, unix::fs::MetadataExt},
    path::Path,
    sync::{Arc, mpsc::Sender},
    thread,
};

use rustix::{fs::FlockOperation, io::Errno};

use super::{Error, Event, Options, ServerKind, raw};

/// Closes the descriptors that this process was started with and that would keep a lock: those of
/// the file of `--while-locked`, and in the background all that are locked. flock(1) starts its
/// command with the locked descriptor, and every server that the command starts gets it, too. To be
/// called before anything else in the process opens a descriptor.
///
/// A server in the foreground keeps other locks: its starter may want them to last as long as the
/// server.
pub(crate) fn close_inherited_locks(options: &Options, kind: ServerKind) {
    let id_of = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    // If the path cannot be examined, `LockFile::open` reports the reason.
    let lock_file = options.while_locked.as_deref().and_then(id_of);
    raw::close_inherited(|number| {
        let is_lock_file = lock_file.is_some()
            && id_of(Path::new(&format!("/proc/self/fd/{number}"))) == lock_file;
        is_lock_file || (kind == ServerKind::Background && is_locked(number))
    });
}

/// Whether a descriptor of this process has a lock (proc_pid_fdinfo(5)).
fn is_locked(number: RawFd) -> bool {
    fs::read_to_string(format!("/proc/self/fdinfo/{number}"))
        .is_ok_and(|info| info.lines().any(|line| line.starts_with("lock:")))
}

/// The file of `--while-locked`, or a directory. Once locked, it stays so until this is dropped.
#[derive(Debug)]
pub(super) struct LockFile(Arc<File>);

impl LockFile {
    /// Opens the file, and tries to lock it. If no process has a lock, the file is locked from here
    /// on, and [`watch`](Self::watch) ends the server at once.
    ///
    /// # Errors
    /// When the file cannot be opened, or its filesystem has no locks.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failure = |cause| Error::LockFile(path.into(), cause);
        // For an exclusive lock, NFS wants the file open for writing (flock(2)). A directory, or
        // the file of another user, cannot be opened so.
        let file = File::options().read(true).write(true).open(path);
        let file = file.or_else(|_| File::open(path)).map_err(failure)?;
        match lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) | Err(Errno::WOULDBLOCK) => Ok(Self(Arc::new(file))),
            Err(errno) => Err(failure(io::Error::from(errno))),
        }
    }

    /// Sends [`Event::Unlocked`] when no other process has a lock on the file.
    ///
    /// # Errors
    /// When the thread that waits cannot be started.
    pub(super) fn watch(&self, events: Sender<Event>) -> Result<(), Error> {
        let file = Arc::clone(&self.0);
        let wait = move || {
            // The server would never end without the lock, so it ends now.
            if let Err(cause) = lock(&file, FlockOperation::LockExclusive) {
                log::error!("cannot wait for a lock: {cause}");
            }
            // If the receiver is gone, the process is ending anyway.
            let _ = events.send(Event::Unlocked);
        };
        let spawned = thread::Builder::new().name("lock".into()).spawn(wait);
        spawned.map(drop).map_err(|cause| Error::Setup("the thread that waits for a lock", cause))
    }
}

fn lock(file: &File, operation: FlockOperation) -> rustix::io::Result<()> {
    loop {
        match rustix::fs::flock(file, operation) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
