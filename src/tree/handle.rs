//! Open files. Directories have no handles: a listing goes on by its cookie alone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicU64, atomic::Ordering},
};

use super::source::PlainFile;
use crate::serve::{Content, CopyHandle, OpenArchive, OpenNpyGz, Pattern};

/// The number of a handle, as the kernel carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandleId(pub u64);

/// An open file.
#[derive(Debug)]
pub enum Handle {
    /// A member.
    Member {
        /// Its bytes.
        content: Arc<Content>,
        /// What it lies in: kept open, and so its generation, as long as the handle.
        container: Held,
        /// Its decoded copy, if it is read from that.
        copy: CopyHandle,
        /// How it has been read so far.
        pattern: Mutex<Pattern>,
    },
    /// A file of the source that is no archive.
    Plain(PlainFile),
}

/// A container that a handle keeps open.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Held {
    Archive(Arc<OpenArchive>),
    NpyGz(Arc<OpenNpyGz>),
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
        if let Some(Handle::Member { content, .. }) = handle.as_deref() {
            content.closed();
        }
    }

    pub fn count(&self) -> usize {
        self.open.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}
