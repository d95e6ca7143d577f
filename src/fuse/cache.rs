//! Tells the kernel to change its caches: to drop listings, pages and names, and to add pages.

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

/// Most listings that wait to be dropped, 24 bytes each. If there are more, the oldest are dropped
/// early: otherwise their number would have no bound with a timeout of a year.
const MOST_LISTINGS: usize = 1 << 16;

/// The kernel's cache of one mount. A thread drops listings. It sleeps until the next listing is
/// old enough, or until one is added if there are none.
#[derive(Debug, Clone)]
pub(crate) struct KernelCache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Set once there is a session.
    notifier: OnceLock<Notifier>,
    /// The age at which a listing is dropped.
    after: Duration,
    listings: Mutex<Listings>,
    changed: Condvar,
    /// Whether a thread is dropping names.
    is_dropping: AtomicBool,
    /// How often a thread has begun to drop names.
    rounds: AtomicU64,
}

/// Clears `is_dropping` when the thread that drops names ends.
struct DroppingNames<'a>(&'a Shared);

impl Drop for DroppingNames<'_> {
    fn drop(&mut self) {
        self.0.is_dropping.store(false, Ordering::Release);
    }
}

/// The listings that the kernel may have cached and that are to be dropped.
#[derive(Debug, Default)]
struct Listings {
    /// Each listing with the time to drop it. The earliest time is first, because all have the same
    /// timeout.
    waiting: VecDeque<(Instant, INodeNo)>,
    is_over: bool,
}

impl KernelCache {
    /// Drops each listing at the age `after`, counted from its answer.
    pub(super) fn new(after: Duration) -> Self {
        Self(Arc::new(Shared {
            notifier: OnceLock::new(),
            after,
            listings: Mutex::default(),
            changed: Condvar::new(),
            is_dropping: AtomicBool::new(false),
            rounds: AtomicU64::new(0),
        }))
    }

    /// Starts the notifications, once there is a session.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(&self, notifier: Notifier) -> io::Result<()> {
        let shared = self.0.clone();
        let thread = notifier.clone();
        thread::Builder::new().name("listings".into()).spawn(move || shared.serve(&thread))?;
        let _ = self.0.notifier.set(notifier); // unset until now: there is one session
        Ok(())
    }

    /// Adds the whole content of a file to the kernel's page cache. The file must never have been
    /// opened before: the kernel keeps a page locked until we answer the read of that page, so
    /// adding pages of an open file could deadlock.
    pub(super) fn store(&self, ino: INodeNo, content: &[u8]) {
        if let Some(notifier) = self.0.notifier.get()
            && let Err(error) = notifier.store(ino, 0, content)
        {
            log::debug!("the kernel did not take the bytes of inode {ino}: {error}");
        }
    }

    /// Queues the listing of `ino`, which was just answered, to be dropped after the timeout.
    pub(super) fn drop_later(&self, ino: INodeNo) {
        let time = Instant::now() + self.0.after;
        let mut listings = self.0.listings.lock();
        listings.waiting.push_back((time, ino));
        if listings.waiting.len() == 1 || listings.waiting.len() > MOST_LISTINGS {
            self.0.changed.notify_one();
        }
    }

    /// Drops the pages of `ino`, including mapped ones. A new thread does this, because the kernel
    /// waits for reads of these pages that are under way.
    pub(super) fn drop_pages(&self, ino: INodeNo) {
        let Some(notifier) = self.0.notifier.get().cloned() else { return };
        // These reads may take long, and the threads that answer requests or drop listings must not
        // wait for them. Only damaged members need such a thread.
        let drop = move || {
            if let Err(error) = notifier.inval_inode(ino, 0, 0) {
                log::debug!("the pages of inode {ino} were not dropped: {error}");
            }
        };
        if let Err(error) = thread::Builder::new().name("pages".into()).spawn(drop) {
            log::warn!("pages of inode {ino} may stay cached, though they may be wrong: {error}");
        }
    }

    /// Drops names of `tree`, so that the kernel forgets inodes that take too much of our memory.
    /// One thread at a time does this.
    pub(super) fn drop_names(&self, tree: &Arc<Tree>) {
        let Some(notifier) = self.0.notifier.get().cloned() else { return };
        if self.0.is_dropping.swap(true, Ordering::Acquire) {
            return;
        }
        let (shared, tree) = (self.0.clone(), tree.clone());
        let drop_all = move || {
            let _dropping = DroppingNames(&shared);
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

    /// Ends the thread that drops listings: the mount is over.
    pub(super) fn end(&self) {
        self.0.listings.lock().is_over = true;
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn serve(&self, notifier: &Notifier) {
        while let Some(ino) = self.next() {
            // Not a thread that answers requests: the kernel may wait for such an answer before it
            // drops the listing.
            if let Err(error) = notifier.inval_inode(ino, 0, 0) {
                log::debug!("the listing of inode {ino} was not dropped: {error}");
            }
        }
    }

    /// Waits for the next listing to drop; `None` when the mount is over.
    fn next(&self) -> Option<INodeNo> {
        let mut listings = self.listings.lock();
        loop {
            if listings.is_over {
                return None;
            }
            match listings.waiting.front() {
                None => self.changed.wait(&mut listings),
                Some(&(time, ino)) => {
                    let left = time.saturating_duration_since(Instant::now());
                    // Dropping a listing a little early does no harm, and after a walk over
                    // thousands of directories the thread wakes only once.
                    if left <= self.after / 8 || listings.waiting.len() > MOST_LISTINGS {
                        listings.waiting.pop_front();
                        return Some(ino);
                    }
                    self.changed.wait_for(&mut listings, left);
                }
            }
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
        (0..MOST_LISTINGS as u64 + BEYOND).for_each(|ino| cache.drop_later(INodeNo(ino)));
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
        assert_eq!(cache.0.listings.lock().waiting.len(), MOST_LISTINGS);
    }
}
