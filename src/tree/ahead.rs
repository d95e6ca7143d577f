//! Opens the files of a listing on several threads at once, just before they are shown.
//!
//! What is known of a file already is not asked again here. A file that cannot be opened is left
//! out: whoever looks its name up says why.

use std::{
    ffi::{OsStr, OsString},
    ops::Range,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    Tree,
    attr::Stat,
    listing::Listing,
    opened::{Container, Containers, Found},
    source::{At, open_regular},
};
use crate::{
    serve::{OpenArchive, Server},
    sync::{Condvar, Mutex},
};

/// Archives that are worth another thread: each takes some 10 us, waking a thread 5 to 30.
const WORTH_A_THREAD: usize = 16;

/// A larger file, in bytes, may have a directory of 100,000 members and more.
const LARGE: u64 = 8 << 20;

/// What the files of some rows of a listing turned out to be, in the order of the rows.
pub(super) type FoundAhead<C> = std::iter::Peekable<std::vec::IntoIter<FoundRow<C>>>;

/// A row, and what its file turned out to be.
pub(super) type FoundRow<C> = (usize, Found<C>, Stat);

/// The files that are to be opened, for all who help.
struct Work<C> {
    containers: Arc<Containers<C>>,
    server: Arc<Server>,
    directory: OwnedFd,
    path: Arc<Path>,
    /// The rows to open, and their names.
    rows: Vec<(usize, OsString)>,
    /// The first of `rows` that nobody has begun with.
    next: AtomicUsize,
    done: Mutex<Done<C>>,
    changed: Condvar,
}

struct Done<C> {
    found: Vec<FoundRow<C>>,
    /// How many of `rows` are over, one way or the other.
    over: usize,
}

impl Tree {
    /// Opens those of these rows that may be archives, and of whose files nothing is known.
    pub(super) fn open_ahead(
        &self,
        at: &At<'_>,
        device: u64,
        listing: &Listing,
        rows: Range<usize>,
    ) -> FoundAhead<OpenArchive> {
        let unknown = |row: &usize| {
            let name = &listing.names[*row];
            name.perhaps_archive && !self.archives.remembers(device, name.ino)
        };
        let rows = rows.filter(unknown).map(|row| (row, listing.names[row].name.clone()));
        self.open_rows(&self.archives, at, rows.collect())
    }

    /// Opens files in `at`, each with a number.
    pub(super) fn open_rows<C: Container + Send + Sync + 'static>(
        &self,
        containers: &Arc<Containers<C>>,
        at: &At<'_>,
        rows: Vec<(usize, OsString)>,
    ) -> FoundAhead<C> {
        let directory = if rows.is_empty() { None } else { at.try_clone() };
        let Some(directory) = directory else { return Vec::new().into_iter().peekable() };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let helpers = (rows.len() / WORTH_A_THREAD).min(cores - 1);
        let work = Arc::new(Work {
            containers: containers.clone(),
            server: self.server.clone(),
            directory,
            path: at.path.into(),
            rows,
            next: AtomicUsize::new(0),
            done: Mutex::new(Done { found: Vec::new(), over: 0 }),
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

impl<C: Container> Work<C> {
    /// Opens one after the other that nobody has begun with.
    fn help(&self) {
        while let Some((row, name)) = self.rows.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let mut turn = Turn { work: self, found: None };
            turn.found = self.open(*row, name);
        }
    }

    fn open(&self, row: usize, name: &OsStr) -> Option<FoundRow<C>> {
        let (file, stat) = open_regular(&self.directory, name).ok()?;
        // It may take much memory, and all that are opened together stay until they are shown.
        if stat.generation().size > LARGE {
            return None;
        }
        let warn = |warning: &str| log::warn!("{}: {warning}", self.path.join(name).display());
        let found = self.containers.examine(file, &stat, &self.server, false, warn).ok()?;
        Some((row, found, stat))
    }

    /// Waits for those that others have begun with: not for threads that have other work to do.
    fn wait(&self) -> FoundAhead<C> {
        let mut done = self.done.lock();
        while done.over < self.rows.len() {
            done = self.changed.wait(done);
        }
        let mut found = std::mem::take(&mut done.found);
        found.sort_unstable_by_key(|(row, ..)| *row);
        found.into_iter().peekable()
    }
}

/// One row's turn; it ends even if opening the file panics, for somebody waits for it.
struct Turn<'a, C> {
    work: &'a Work<C>,
    found: Option<FoundRow<C>>,
}

impl<C> Drop for Turn<'_, C> {
    fn drop(&mut self) {
        let mut done = self.work.done.lock();
        done.found.extend(self.found.take());
        done.over += 1;
        if done.over == self.work.rows.len() {
            self.work.changed.notify_all();
        }
    }
}
