//! What we tell the kernel unasked about what it keeps: listings to drop, bytes to add.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use fuser::{INodeNo, Notifier};

use crate::{
    sync::{Condvar, Mutex},
    tree::Tree,
};

/// Listings that are remembered at most, 24 bytes each; the oldest beyond are dropped early. With a
/// timeout of a year there would be no end of them.
const MOST_KEPT: usize = 1 << 16;

/// The kernel's cache of one mount. Listings are dropped by a thread that sleeps until the next is
/// old enough, and for good while there are none.
#[derive(Debug, Clone)]
pub struct KernelCache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Set when there is a session.
    notifier: OnceLock<Notifier>,
    /// When a listing is old.
    after: Duration,
    kept: Mutex<Kept>,
    changed: Condvar,
    /// Whether names are being dropped.
    is_dropping: AtomicBool,
    /// How often names were dropped.
    rounds: AtomicU64,
}

/// Names are being dropped, until this is.
struct Dropping<'a>(&'a Shared);

impl Drop for Dropping<'_> {
    fn drop(&mut self) {
        self.0.is_dropping.store(false, Ordering::Release);
    }
}

#[derive(Debug, Default)]
struct Kept {
    /// By the time when they are old, the earliest first: that is the order in which they come.
    listings: VecDeque<(Instant, INodeNo)>,
    over: bool,
}

impl KernelCache {
    /// Listings are old `after` they were made.
    pub(super) fn new(after: Duration) -> Self {
        Self(Arc::new(Shared {
            notifier: OnceLock::new(),
            after,
            kept: Mutex::default(),
            changed: Condvar::new(),
            is_dropping: AtomicBool::new(false),
            rounds: AtomicU64::new(0),
        }))
    }

    /// Starts to tell the kernel, as soon as there is a session.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(&self, notifier: Notifier) -> io::Result<()> {
        let shared = self.0.clone();
        let thread = notifier.clone();
        thread::Builder::new().name("listings".into()).spawn(move || shared.serve(&thread))?;
        let _ = self.0.notifier.set(notifier); // it is empty: there is one session
        Ok(())
    }

    /// Adds the whole content of a file that nobody has opened yet. A page that the kernel is
    /// reading is locked, and adding it would wait for us to answer that read.
    pub(super) fn store(&self, ino: INodeNo, content: &[u8]) {
        if let Some(notifier) = self.0.notifier.get()
            && let Err(error) = notifier.store(ino, 0, content)
        {
            log::debug!("the kernel did not take the bytes of inode {ino}: {error}");
        }
    }

    /// The listing of `ino` that was just answered is to be dropped in time.
    pub(super) fn drop_later(&self, ino: INodeNo) {
        let time = Instant::now() + self.0.after;
        let mut kept = self.0.kept.lock();
        kept.listings.push_back((time, ino));
        if kept.listings.len() == 1 || kept.listings.len() > MOST_KEPT {
            self.0.changed.notify_one();
        }
    }

    /// The pages of `ino` are to be dropped, also those that are mapped, soon: the kernel waits for
    /// reads of them that are under way.
    pub(super) fn drop_pages(&self, ino: INodeNo) {
        let Some(notifier) = self.0.notifier.get().cloned() else { return };
        // Not from a thread that answers requests, nor from the one that drops listings: a read that
        // is waited for may take long. That happens to damaged members only.
        let drop = move || {
            if let Err(error) = notifier.inval_inode(ino, 0, 0) {
                log::debug!("the pages of inode {ino} were not dropped: {error}");
            }
        };
        if let Err(error) = thread::Builder::new().name("pages".into()).spawn(drop) {
            log::warn!("pages of inode {ino} may stay cached, though they may be wrong: {error}");
        }
    }

    /// Names of `tree` are to be dropped, for the kernel refers to so much that it takes too much of our
    /// memory. One thread at a time does it.
    pub(super) fn drop_names(&self, tree: &Arc<Tree>) {
        let Some(notifier) = self.0.notifier.get().cloned() else { return };
        if self.0.is_dropping.swap(true, Ordering::Acquire) {
            return;
        }
        let (shared, tree) = (self.0.clone(), tree.clone());
        let drop_all = move || {
            let _dropping = Dropping(&shared);
            let round = shared.rounds.fetch_add(1, Ordering::Relaxed);
            let names = tree.names_to_forget(round);
            log::debug!("the kernel is asked to forget {} names", names.len());
            for (directory, name) in names {
                if let Err(error) = notifier.inval_entry(INodeNo(directory.0), &name) {
                    log::debug!("the kernel did not forget a name: {error}");
                }
            }
        };
        let builder = thread::Builder::new().name("names".into());
        if let Err(error) = builder.spawn(drop_all) {
            self.0.is_dropping.store(false, Ordering::Release);
            log::debug!("no thread to drop names: {error}");
        }
    }

    /// The mount is over.
    pub(super) fn end(&self) {
        self.0.kept.lock().over = true;
        self.0.changed.notify_one();
    }
}

impl Shared {
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
        let mut kept = self.kept.lock();
        loop {
            if kept.over {
                return None;
            }
            kept = match kept.listings.front() {
                None => self.changed.wait(kept),
                Some(&(time, ino)) => {
                    let left = time.saturating_duration_since(Instant::now());
                    // Too early does no harm, and so a walk over thousands is one awakening.
                    if left <= self.after / 8 || kept.listings.len() > MOST_KEPT {
                        kept.listings.pop_front();
                        return Some(ino);
                    }
                    self.changed.wait_timeout(kept, left).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_oldest_listings_beyond_a_number_are_dropped_before_their_time() {
        const BEYOND: u64 = 3;
        let cache = KernelCache::new(Duration::from_secs(1 << 25));
        (0..MOST_KEPT as u64 + BEYOND).for_each(|ino| cache.drop_later(INodeNo(ino)));
        let (sender, dropped) = mpsc::channel();
        let shared = cache.0.clone();
        let thread = thread::spawn(move || {
            while let Some(ino) = shared.next() {
                sender.send(ino.0).unwrap();
            }
        });
        for ino in 0..BEYOND {
            assert_eq!(dropped.recv_timeout(Duration::from_secs(60)), Ok(ino));
        }
        cache.end();
        thread.join().unwrap();
        assert!(dropped.recv().is_err(), "the others have their time");
        assert_eq!(cache.0.kept.lock().listings.len(), MOST_KEPT);
    }
}
