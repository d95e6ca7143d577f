//! Opens the archives of a listing on several threads at once, just before they are shown.
//!
//! What is known of a file already is not asked again here. A file that cannot be opened is left
//! out: whoever looks its name up says why.

use std::{
    ops::Range,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    Tree,
    attr::Stat,
    listing::Listing,
    opened::{Containers, Found},
    source::{At, open_regular},
};
use crate::serve::{OpenArchive, Server};

/// Archives that are worth another thread: each takes some 10 us, waking a thread 5 to 30.
const WORTH_A_THREAD: usize = 16;

/// What the files of some rows of a listing turned out to be, in the order of the rows.
pub(super) type FoundAhead = std::iter::Peekable<std::vec::IntoIter<FoundRow>>;

/// A row, and what its file turned out to be.
pub(super) type FoundRow = (usize, Found<OpenArchive>, Stat);

/// The archives that are to be opened, for all who help.
struct Work {
    archives: Arc<Containers<OpenArchive>>,
    server: Arc<Server>,
    directory: OwnedFd,
    path: Arc<Path>,
    listing: Arc<Listing>,
    /// The rows to open.
    rows: Vec<usize>,
    /// The first of `rows` that nobody has begun with.
    next: AtomicUsize,
    done: Mutex<Done>,
    changed: Condvar,
}

#[derive(Default)]
struct Done {
    found: Vec<FoundRow>,
    /// How many of `rows` are over, one way or the other.
    over: usize,
}

impl Tree {
    /// Opens those of these rows that may be archives, and of whose files nothing is known.
    pub(super) fn open_ahead(
        &self,
        at: &At<'_>,
        device: u64,
        listing: &Arc<Listing>,
        rows: Range<usize>,
    ) -> FoundAhead {
        let unknown = |row: &usize| {
            let name = &listing.names[*row];
            name.perhaps_archive && !self.archives.remembers(device, name.ino)
        };
        let rows: Vec<_> = rows.filter(unknown).collect();
        let directory = if rows.is_empty() { None } else { at.try_clone() };
        let Some(directory) = directory else { return Vec::new().into_iter().peekable() };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let helpers = (rows.len() / WORTH_A_THREAD).min(cores - 1);
        let work = Arc::new(Work {
            archives: self.archives.clone(),
            server: self.server.clone(),
            directory,
            path: at.path.into(),
            listing: listing.clone(),
            rows,
            next: AtomicUsize::new(0),
            done: Mutex::default(),
            changed: Condvar::new(),
        });
        for _ in 0..helpers {
            let work = work.clone();
            self.server.spawn(move || work.help());
        }
        work.help();
        work.wait()
    }
}

impl Work {
    /// Opens one after the other that nobody has begun with.
    fn help(&self) {
        while let Some(row) = self.rows.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let mut turn = Turn { work: self, found: None };
            turn.found = self.open(*row);
        }
    }

    fn open(&self, row: usize) -> Option<FoundRow> {
        let name = &self.listing.names[row].name;
        let (file, stat) = open_regular(&self.directory, name).ok()?;
        let warn = |warning: &str| log::warn!("{}: {warning}", self.path.join(name).display());
        let found = self.archives.examine(file, &stat, &self.server, warn).ok()?;
        Some((row, found, stat))
    }

    /// Waits for those that others have begun with: not for threads that have other work to do.
    fn wait(&self) -> FoundAhead {
        let mut done = self.done();
        while done.over < self.rows.len() {
            done = self.changed.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
        let mut found = std::mem::take(&mut done.found);
        found.sort_unstable_by_key(|(row, ..)| *row);
        found.into_iter().peekable()
    }

    // Nothing that can panic runs under this lock; a poisoned one is still whole.
    fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One row's turn; it ends even if opening the file panics, for somebody waits for it.
struct Turn<'a> {
    work: &'a Work,
    found: Option<FoundRow>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut done = self.work.done();
        done.found.extend(self.found.take());
        done.over += 1;
        if done.over == self.work.rows.len() {
            self.work.changed.notify_all();
        }
    }
}
