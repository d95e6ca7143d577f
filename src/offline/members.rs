//! Goes through the members of archives on all cores.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use super::{Archives, Found, Missing, parallel};
use crate::{archive::MemberId, sync::Mutex};

/// What has been done.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Totals {
    pub archives: u64,
    pub members: u64,
    /// Decoded.
    pub bytes: u64,
}

/// What has been done so far, for any thread to read.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    archives: AtomicU64,
    members: AtomicU64,
    bytes: AtomicU64,
}

impl Progress {
    /// The totals so far.
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            archives: self.archives.load(Ordering::Relaxed),
            members: self.members.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// Adds decoded bytes to those that are done.
    pub(super) fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Archives, and the members of the last one that no thread has taken yet.
struct Queue<A> {
    archives: Archives,
    members: Option<(Arc<A>, Range<u32>)>,
}

impl<A> Queue<A> {
    fn next(
        &mut self,
        progress: &Progress,
        open: &impl Fn(Found) -> A,
    ) -> Option<Result<(Arc<A>, MemberId), Missing>> {
        loop {
            if let Some((archive, members)) = &mut self.members
                && let Some(number) = members.next()
            {
                return Some(Ok((Arc::clone(archive), MemberId(number))));
            }
            self.members = None;
            let found = match self.archives.next()? {
                Ok(found) => found,
                Err(missing) => return Some(Err(missing)),
            };
            progress.archives.fetch_add(1, Ordering::Relaxed);
            let (_, members) = found.archive.counts();
            self.members = Some((Arc::new(open(found)), 0..members));
        }
    }
}

/// Calls `work` for each member of `archives`, also for those that a mount does not show, from a
/// thread on each core. Calls `tell`, in this thread, with what `work` returns, and with what
/// `missing` makes of each path without an archive. `open` is called for each archive before its
/// members; its result is dropped after all of them.
pub(super) fn for_each<A: Send + Sync, T: Send>(
    archives: Archives,
    progress: &Progress,
    open: impl Fn(Found) -> A + Sync,
    work: impl Fn(&Arc<A>, MemberId) -> Option<T> + Sync,
    missing: impl Fn(Missing) -> T + Sync,
    tell: impl FnMut(T),
) {
    let queue = Mutex::new(Queue { archives, members: None });
    let (sender, told) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..parallel::cores() {
            let (queue, open, work, missing) = (&queue, &open, &work, &missing);
            let sender = sender.clone();
            scope.spawn(move || {
                loop {
                    // The lock is released before anything is decoded.
                    let next = queue.lock().next(progress, open);
                    let result = match next {
                        None => return,
                        Some(Err(path)) => Some(missing(path)),
                        Some(Ok((archive, id))) => {
                            let result = work(&archive, id);
                            progress.members.fetch_add(1, Ordering::Relaxed);
                            result
                        }
                    };
                    // The receiver lives until all threads have ended.
                    result.into_iter().for_each(|result| _ = sender.send(result));
                }
            });
        }
        drop(sender);
        told.into_iter().for_each(tell);
    });
}
