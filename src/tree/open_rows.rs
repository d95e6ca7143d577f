//! Opens the files of a listing on several threads at once, just before they are shown.
//!
//! A file is not opened if it is known whether it is a container. A file that cannot be opened is
//! left out: a lookup of its name reports the reason.

use std::{
    ffi::{OsStr, OsString},
    ops::Range,
    os::fd::OwnedFd,
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Sender},
    },
    thread,
};

use super::{
    Tree,
    attr::Stat,
    containers::{Containers, Found, NotOpened, Weight},
    listing::Listing,
    source::{SourceDir, open_regular},
};
use crate::{
    archive::{Device, Format},
    serve::Server,
};

/// One more thread is woken for every 16 files: opening an archive takes about 10 us, waking a
/// thread 5 to 30 us.
const WORTH_A_THREAD: usize = 16;

/// The opened files of some rows of a listing, in the order of the rows.
pub(super) type FoundRows = std::iter::Peekable<std::vec::IntoIter<FoundRow>>;

/// A row, whether its file is a container, and the file's stat. A file with a weight was not
/// parsed.
pub(super) type FoundRow = (usize, Result<Found, Weight>, Stat);

/// A row whose file is to be opened, and the name and the format of the file.
type Row = (usize, OsString, &'static Format);

/// The files to open. Shared by the threads that open them.
struct RowsToOpen {
    containers: Arc<Containers>,
    server: Arc<Server>,
    directory: OwnedFd,
    path: Arc<Path>,
    rows: Vec<Row>,
    /// Index of the first of `rows` that no thread has taken yet.
    next: AtomicUsize,
}

impl Tree {
    /// Opens the files of those of `rows` that may be archives, unless it is known whether they
    /// are.
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

    /// Opens the files `rows` of the directory `at`, on several threads.
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
        });
        let (sender, done) = mpsc::channel();
        for _ in 0..helpers {
            let (work, sender) = (work.clone(), sender.clone());
            self.server.spawn(move || work.help(&sender));
        }
        work.help(&sender);
        // Waits for all rows, but not for threads that have not taken any.
        let mut found: Vec<FoundRow> = done.iter().take(work.rows.len()).flatten().collect();
        found.sort_unstable_by_key(|(row, ..)| *row);
        found.into_iter().peekable()
    }
}

impl RowsToOpen {
    /// Takes one row after the other and opens its file, until no row is left. Sends `None` for a
    /// row that is left out.
    fn help(&self, done: &Sender<Option<FoundRow>>) {
        while let Some((row, name, format)) =
            self.rows.get(self.next.fetch_add(1, Ordering::Relaxed))
        {
            let open = AssertUnwindSafe(|| self.open(*row, name, format));
            // After a panic the row is left out: without an answer the listing would wait forever.
            let found = panic::catch_unwind(open).unwrap_or(None);
            let _ = done.send(found); // fails only after the last row
        }
    }

    fn open(&self, row: usize, name: &OsStr, format: &Format) -> Option<FoundRow> {
        let (file, stat) = open_regular(&self.directory, name).ok()?;
        let warn = |warning: &str| log::warn!("{}: {warning}", self.path.join(name).display());
        // Parsing a large file may take much memory, and files that are opened together stay open
        // until they are shown.
        match self.containers.examine(file, &stat, format, &self.server, false, warn) {
            Ok(found) => Some((row, Ok(found), stat)),
            Err(NotOpened::Heavy(weight)) => Some((row, Err(weight), stat)),
            Err(NotOpened::Io(_)) => None,
        }
    }
}
