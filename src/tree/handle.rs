//! Open files and directories.

use std::{
    collections::HashMap,
    ffi::OsString,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicU64, atomic::Ordering},
};

use super::{Ino, Kind, source::PlainFile};
use crate::serve::{Content, OpenArchive, OpenNpyGz, Pattern};

/// The number of a handle, as the kernel carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandleId(pub u64);

/// An open file or directory.
#[derive(Debug)]
pub enum Handle {
    /// A member.
    Member {
        /// Its bytes.
        content: Arc<Content>,
        /// What it lies in: kept open, and so its generation, as long as the handle.
        container: Held,
        /// How it has been read so far.
        pattern: Mutex<Pattern>,
    },
    /// A file of the source that is no archive.
    Plain(PlainFile),
    /// A directory.
    Directory(Directory),
}

/// A container that a handle keeps open.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Held {
    Archive(Arc<OpenArchive>),
    NpyGz(Arc<OpenNpyGz>),
}

/// An open directory: the names it had when reading began.
#[derive(Debug)]
pub struct Directory {
    pub(super) ino: Ino,
    entries: Mutex<Option<Arc<[DirEntry]>>>,
}

/// One name of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name.
    pub name: OsString,
    /// What it stands for.
    pub kind: Kind,
}

impl Directory {
    pub(super) fn new(ino: Ino) -> Self {
        Self { ino, entries: Mutex::default() }
    }

    /// The entries for a read from `cookie`: as they were, or taken anew at the start.
    pub(super) fn entries<E>(
        &self,
        cookie: u64,
        list: impl FnOnce() -> Result<Vec<DirEntry>, E>,
    ) -> Result<Arc<[DirEntry]>, E> {
        if cookie > 0
            && let Some(entries) = &*self.entries.lock().unwrap_or_else(PoisonError::into_inner)
        {
            return Ok(entries.clone());
        }
        let entries: Arc<[DirEntry]> = list()?.into();
        *self.entries.lock().unwrap_or_else(PoisonError::into_inner) = Some(entries.clone());
        Ok(entries)
    }
}

/// The handles that the kernel refers to.
#[derive(Debug, Default)]
pub(super) struct Handles {
    open: RwLock<HashMap<HandleId, Arc<Handle>>>,
    next: AtomicU64,
}

impl Handles {
    pub fn insert(&self, handle: Handle) -> HandleId {
        let id = HandleId(self.next.fetch_add(1, Ordering::Relaxed));
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::new(handle));
        id
    }

    pub fn get(&self, id: HandleId) -> Option<Arc<Handle>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub fn remove(&self, id: HandleId) {
        // Dropped outside the lock: it may close files.
        let handle = self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        drop(handle);
    }

    pub fn count(&self) -> usize {
        self.open.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}
