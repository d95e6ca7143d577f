//! Decodes members and compares them with their CRC-32.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use super::{Archives, Found, Missing, parallel};
use crate::{
    archive::{self, MAX_DICTIONARY, MemberId},
    sync::Mutex,
};

/// Something that is not right, or cannot be checked.
#[derive(Debug)]
pub(crate) enum Damage {
    /// There is no archive that can be read.
    Archive(Missing),
    /// A member of an archive. Encrypted members, and those of a method without a decoder, are
    /// among these.
    Member(Arc<Found>, MemberId, archive::Error),
}

/// What has been checked.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Totals {
    pub archives: u64,
    pub members: u64,
    /// Decoded.
    pub bytes: u64,
}

/// What has been checked so far, for any thread to read.
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
}

/// Counts bytes and drops them.
struct Counter<'a>(&'a AtomicU64);

impl Write for Counter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Archives, and the members of the last one that no thread has taken yet.
struct Queue {
    archives: Archives,
    members: Option<(Arc<Found>, std::ops::Range<u32>)>,
}

impl Queue {
    fn next(&mut self, progress: &Progress) -> Option<Result<(Arc<Found>, MemberId), Missing>> {
        loop {
            if let Some((found, members)) = &mut self.members
                && let Some(number) = members.next()
            {
                return Some(Ok((Arc::clone(found), MemberId(number))));
            }
            let found = match self.archives.next()? {
                Ok(found) => found,
                Err(missing) => return Some(Err(missing)),
            };
            progress.archives.fetch_add(1, Ordering::Relaxed);
            let (_, members) = found.archive.counts();
            self.members = Some((Arc::new(found), 0..members));
        }
    }
}

/// Checks all members of `archives`, on all cores. The decoders are not those of a mount: DEFLATE
/// is decoded by zlib-rs. Calls `tell` for each damage, in this thread.
///
/// Members are checked that a mount does not show, too, such as those whose name another member
/// has.
pub(crate) fn verify(archives: Archives, progress: &Progress, mut tell: impl FnMut(Damage)) {
    let queue = Mutex::new(Queue { archives, members: None });
    let (sender, damages) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..parallel::cores() {
            let (queue, sender) = (&queue, sender.clone());
            scope.spawn(move || {
                loop {
                    // The lock is released before anything is decoded.
                    let next = queue.lock().next(progress);
                    let damage = match next {
                        None => return,
                        Some(Err(missing)) => Some(Damage::Archive(missing)),
                        Some(Ok((found, id))) => {
                            let counter = &mut Counter(&progress.bytes);
                            let result = found.archive.decode(id, MAX_DICTIONARY, counter);
                            progress.members.fetch_add(1, Ordering::Relaxed);
                            result.err().map(|error| Damage::Member(found, id, error))
                        }
                    };
                    // The receiver lives until all threads have ended.
                    damage.into_iter().for_each(|damage| _ = sender.send(damage));
                }
            });
        }
        drop(sender);
        damages.into_iter().for_each(&mut tell);
    });
}
