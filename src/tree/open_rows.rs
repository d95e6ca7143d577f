//! Opens the files of a listing on several threads at once, just before they are shown.
//!
//! Files of which something is known are not opened here. A file that cannot be opened is left out:
//! looking its name up tells why.

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
    containers::{Containers, Found},
    listing::Listing,
    source::{SourceDir, open_regular},
};
use crate::{
    archive::{Device, Format},
    serve::Server,
    sync::{Condvar, Mutex},
};

/// Archives for which another thread is woken: opening one takes about 10 us, waking a thread 5 to 30.
const WORTH_A_THREAD: usize = 16;

/// A larger file, in bytes, may have a directory of 100,000 members and more.
const LARGE: u64 = 8 << 20;

/// What the files of some rows of a listing turned out to be, in the order of the rows.
pub(super) type FoundRows = std::iter::Peekable<std::vec::IntoIter<FoundRow>>;

/// A row, and what its file turned out to be.
pub(super) type FoundRow = (usize, Found, Stat);

/// A row whose file is to be opened, with the name and the format of the file.
type Row = (usize, OsString, &'static Format);

/// The files to open, for all threads that open some of them.
struct RowsToOpen {
    containers: Arc<Containers>,
    server: Arc<Server>,
    directory: OwnedFd,
    path: Arc<Path>,
    rows: Vec<Row>,
    /// The first of `rows` that no thread has begun with.
    next: AtomicUsize,
    done: Mutex<OpenedRows>,
    changed: Condvar,
}

struct OpenedRows {
    found: Vec<FoundRow>,
    /// How many of `rows` have been opened or left out.
    over: usize,
}

impl Tree {
    /// Opens those of these rows that may be archives, and of whose files nothing is known.
    pub(super) fn open_unknown_rows(
        &self,
        at: &SourceDir<'_>,
        device: Device,
        listing: &Listing,
        rows: Range<usize>,
    ) -> FoundRows {
        let unknown = |row: usize| {
            let name = &listing.names[row];
            let format = name.archive?;
            let is_known = self.containers.remembers(device, name.ino, format);
            (!is_known).then(|| (row, name.name.clone(), format))
        };
        self.open_rows(at, rows.filter_map(unknown).collect())
    }

    /// Opens files in `at`.
    pub(super) fn open_rows(&self, at: &SourceDir<'_>, rows: Vec<Row>) -> FoundRows {
        let directory = if rows.is_empty() { None } else { at.try_clone() };
        let Some(directory) = directory else { return Vec::new().into_iter().peekable() };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let helpers = (rows.len() / WORTH_A_THREAD).min(cores - 1);
        let work = Arc::new(RowsToOpen {
            containers: self.containers.clone(),
            server: self.server.clone(),
            directory,
            path: at.path.into(),
            rows,
            next: AtomicUsize::new(0),
            done: Mutex::new(OpenedRows { found: Vec::new(), over: 0 }),
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

impl RowsToOpen {
    /// Opens one row after the other that no thread has begun with.
    fn help(&self) {
        while let Some((row, name, format)) =
            self.rows.get(self.next.fetch_add(1, Ordering::Relaxed))
        {
            let mut turn = RowTurn { work: self, found: None };
            turn.found = self.open(*row, name, format);
        }
    }

    fn open(&self, row: usize, name: &OsStr, format: &Format) -> Option<FoundRow> {
        let (file, stat) = open_regular(&self.directory, name).ok()?;
        // It may take much memory, and files that are opened together stay open until they are shown.
        if stat.generation().size > LARGE {
            return None;
        }
        let warn = |warning: &str| log::warn!("{}: {warning}", self.path.join(name).display());
        let found = self.containers.examine(file, &stat, format, &self.server, false, warn).ok()?;
        Some((row, found, stat))
    }

    /// Waits for the rows that other threads have begun with, not for threads that have not begun.
    fn wait(&self) -> FoundRows {
        let mut done = self.done.lock();
        while done.over < self.rows.len() {
            done = self.changed.wait(done);
        }
        let mut found = std::mem::take(&mut done.found);
        found.sort_unstable_by_key(|(row, ..)| *row);
        found.into_iter().peekable()
    }
}

/// A row that a thread opens. It counts as done even if that panics: `wait` would wait for ever.
struct RowTurn<'a> {
    work: &'a RowsToOpen,
    found: Option<FoundRow>,
}

impl Drop for RowTurn<'_> {
    fn drop(&mut self) {
        let mut done = self.work.done.lock();
        done.found.extend(self.found.take());
        done.over += 1;
        if done.over == self.work.rows.len() {
            self.work.changed.notify_all();
        }
    }
}
