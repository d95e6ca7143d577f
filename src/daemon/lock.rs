//! Ends a server when no other process holds a lock on a file any more (`--while-locked`).
//!
//! Programs that share a mount lock the file with flock(2), shared. The kernel drops a lock when the
//! last process that has the locked descriptor ends, in whatever way, and a process that was forked
//! has the descriptor as well. The server waits for an exclusive lock and keeps it. So a program
//! that gets a shared lock knows that the server of a mount which it sees is not about to end.

use std::{
    fs::File,
    path::Path,
    sync::{Arc, mpsc::Sender},
    thread,
};

use rustix::{fs::FlockOperation, io::Errno};

use super::{Error, Event};

/// The file of `--while-locked`, or a directory. Once locked, it stays so until this is dropped.
#[derive(Debug)]
pub(super) struct LockFile(Arc<File>);

impl LockFile {
    /// Opens the file.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|cause| Error::LockFile(path.into(), cause))?;
        Ok(Self(Arc::new(file)))
    }

    /// Sends [`Event::Unlocked`] when no other process has a lock on the file.
    ///
    /// # Errors
    /// When the thread that waits cannot be started.
    pub(super) fn watch(&self, events: Sender<Event>) -> Result<(), Error> {
        let file = Arc::clone(&self.0);
        let wait = move || {
            // Without locks on its filesystem the server would never end, so it ends now.
            if let Err(cause) = lock(&file) {
                log::error!("cannot wait for a lock: {cause}");
            }
            // If the receiver is gone, the process is ending anyway.
            let _ = events.send(Event::Unlocked);
        };
        let spawned = thread::Builder::new().name("lock".into()).spawn(wait);
        spawned.map(drop).map_err(|cause| Error::Setup("the thread that waits for a lock", cause))
    }
}

fn lock(file: &File) -> rustix::io::Result<()> {
    loop {
        match rustix::fs::flock(file, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
