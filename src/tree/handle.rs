//! Open files. Directories have no handles: a listing continues at the cookie that the kernel
//! sends.

use std::{
    collections::HashMap,
    fs::File,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
};

use super::FsError;
use crate::{
    archive,
    serve::{self, ArchiveFile, Asker, OpenFile},
    sync::{Mutex, RwLock},
};

/// The number that the kernel sends to identify a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct HandleId(pub u64);

/// An open file.
pub(crate) enum Handle {
    /// A member of a container.
    Member(OpenFile),
    /// The archive as a file, with its members decoded.
    DecodedArchive(Arc<ArchiveFile>),
    /// A file of the source that is not an archive. All handles of its inode share it.
    Plain(Arc<File>),
}

/// The handles that the kernel refers to.
pub(super) struct Handles {
    open: RwLock<HashMap<HandleId, Arc<Handle>>>,
    next: AtomicU64,
    holders: Mutex<Holders>,
}

/// Counts the descriptors of each user's open files, so that no user takes all descriptors.
#[derive(Debug)]
struct Holders {
    /// For each descriptor, by the address of its owner: the user who opened it first, and how many
    /// handles use it.
    by_file: HashMap<usize, (u32, usize)>,
    /// The number of descriptors of each user.
    by_user: HashMap<u32, usize>,
    /// The most descriptors that all users together may hold, and that one user may hold.
    most: usize,
    most_of_one_user: usize,
}

impl Handles {
    /// Handles may hold at most half of `descriptors`, and the handles of one user at most three
    /// eighths. All handles of one file, or of one container, share one descriptor.
    pub(super) fn new(descriptors: u64) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let holders = Holders {
            by_file: HashMap::new(),
            by_user: HashMap::new(),
            most: (descriptors / 2).max(1),
            most_of_one_user: (descriptors / 8).saturating_mul(3).max(1),
        };
        Self { open: RwLock::default(), next: AtomicU64::new(0), holders: Mutex::new(holders) }
    }

    /// Adds a handle that `user` opens.
    ///
    /// # Errors
    /// `TooManyOpen`.
    pub(super) fn insert(&self, handle: Handle, user: u32) -> Result<HandleId, FsError> {
        self.holders.lock().take(handle.file(), user)?;
        let id = HandleId(self.next.fetch_add(1, Ordering::Relaxed));
        self.open.write().insert(id, Arc::new(handle));
        Ok(id)
    }

    pub(super) fn get(&self, id: HandleId) -> Option<Arc<Handle>> {
        self.open.read().get(&id).cloned()
    }

    pub(super) fn remove(&self, id: HandleId) {
        // The handle is dropped after the lock is released, because that may close files.
        let handle = self.open.write().remove(&id);
        let Some(handle) = handle else { return };
        self.holders.lock().give_back(handle.file());
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.open.read().len()
    }
}

impl Holders {
    fn take(&mut self, file: usize, user: u32) -> Result<(), FsError> {
        if let Some((_, handles)) = self.by_file.get_mut(&file) {
            *handles += 1;
            return Ok(());
        }
        let of_user = self.by_user.get(&user).copied().unwrap_or(0);
        if of_user >= self.most_of_one_user || self.by_file.len() >= self.most {
            return Err(FsError::TooManyOpen);
        }
        self.by_user.insert(user, of_user + 1);
        self.by_file.insert(file, (user, 1));
        Ok(())
    }

    fn give_back(&mut self, file: usize) {
        let Some((user, handles)) = self.by_file.get_mut(&file) else { return };
        *handles -= 1;
        if *handles > 0 {
            return;
        }
        let user = *user;
        self.by_file.remove(&file);
        if let Some(of_user) = self.by_user.get_mut(&user) {
            *of_user -= 1;
            if *of_user == 0 {
                self.by_user.remove(&user);
            }
        }
    }
}

impl Handle {
    /// Reads at most `size` bytes from `offset` for `asker`, fewer only at the end of the file.
    /// `reply` is called before this returns if the bytes are available, else from another thread.
    pub(crate) fn read(
        &self,
        asker: Asker,
        offset: u64,
        size: u32,
        reply: impl FnOnce(Result<&[u8], FsError>) + Send + 'static,
    ) {
        match self {
            Self::Member(file) => file.read(asker, offset, size, move |result| {
                reply(result.map_err(FsError::Content));
            }),
            Self::DecodedArchive(file) => file.read(asker, offset, size, move |result| {
                reply(result.map_err(FsError::Content));
            }),
            Self::Plain(file) => serve::with_buffer(size as usize, |buffer| {
                let read = archive::read_up_to(file, buffer, offset);
                reply(read.map(|read| &buffer[..read]).map_err(FsError::from));
            }),
        }
    }

    /// The address of the open file or container that owns the descriptor of this handle.
    fn file(&self) -> usize {
        match self {
            Self::Plain(file) => Arc::as_ptr(file).addr(),
            Self::Member(file) => file.container_address(),
            Self::DecodedArchive(file) => file.container_address(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_and_not_all_together_hold_all_descriptors() {
        let handles = Handles::new(80);
        let mut holders = handles.holders.lock();
        let mut take = |files: std::ops::Range<usize>, user| {
            files.filter(|file| holders.take(*file, user).is_ok()).count()
        };
        assert_eq!(take(0..100, 7), 30);
        assert_eq!(take(0..30, 7), 30, "what is open can be opened again");
        assert_eq!(take(100..200, 8), 10);
        assert_eq!(take(0..30, 8), 30, "by others, too");
        assert_eq!(take(200..201, 9), 0);
        for file in 0..30 {
            (0..3).for_each(|_| holders.give_back(file));
        }
        holders.give_back(5000);
        assert_eq!((holders.by_file.len(), holders.by_user.len()), (10, 1));
        assert!(holders.take(0, 7).is_ok());
    }
}
