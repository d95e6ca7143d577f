//! Drops listings from the kernel's cache when they have grown old.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use fuser::{INodeNo, Notifier};

/// The listings that the kernel keeps, by the time when it must drop them. A thread of its own sleeps
/// until then, and for good while there are none. Ends when it is the last one that knows of them.
#[derive(Debug, Clone)]
pub struct Expiry(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    after: Duration,
    /// Those with the earliest time first, as they come.
    kept: Mutex<Kept>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Kept {
    listings: VecDeque<(Instant, INodeNo)>,
    over: bool,
}

impl Expiry {
    /// Listings are dropped `after` they were made, once there is a notifier.
    pub(super) fn new(after: Duration) -> Self {
        Self(Arc::new(Queue { after, kept: Mutex::default(), changed: Condvar::new() }))
    }

    /// Starts to drop listings.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(&self, notifier: Notifier) -> io::Result<()> {
        let queue = self.0.clone();
        thread::Builder::new().name("expiry".into()).spawn(move || queue.serve(&notifier))?;
        Ok(())
    }

    /// The listing of `ino` that was just answered is to be dropped in time.
    pub(super) fn drop_later(&self, ino: INodeNo) {
        let time = Instant::now() + self.0.after;
        let mut kept = self.0.lock();
        kept.listings.push_back((time, ino));
        if kept.listings.len() == 1 {
            self.0.changed.notify_one();
        }
    }

    /// The mount is over.
    pub(super) fn end(&self) {
        self.0.lock().over = true;
        self.0.changed.notify_one();
    }
}

impl Queue {
    fn serve(&self, notifier: &Notifier) {
        while let Some(ino) = self.next() {
            // Not from a thread that answers requests: the kernel may wait for one of them meanwhile.
            if let Err(error) = notifier.inval_inode(ino, 0, 0) {
                log::debug!("the listing of inode {ino} was not dropped: {error}");
            }
        }
    }

    /// Waits for the next listing whose time has come; `None` when the mount is over.
    fn next(&self) -> Option<INodeNo> {
        let mut kept = self.lock();
        loop {
            if kept.over {
                return None;
            }
            kept = match kept.listings.front() {
                None => self.changed.wait(kept).unwrap_or_else(PoisonError::into_inner),
                Some(&(time, ino)) => {
                    let left = time.saturating_duration_since(Instant::now());
                    // Too early does no harm, and so a walk over thousands is one awakening.
                    if left <= self.after / 8 {
                        kept.listings.pop_front();
                        return Some(ino);
                    }
                    let waited = self.changed.wait_timeout(kept, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    // Nothing that can panic runs under this lock; a poisoned one is still whole.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
