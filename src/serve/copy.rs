//! The decoded copy of a member on disk (`--disk-cache`). It is made once the member is read often.
//! From then on, reads of the member read the copy.
//!
//! A member is read often when readers have requested more bytes than the member has, in a second
//! pass or in random reads. The kernel does not request pages that it has cached, so a member that
//! fits in memory gets no copy. A first pass alone makes no copy: otherwise every file that is read
//! once would be written to the disk. One thread makes all copies, each from start to end, and
//! checks each against the member's CRC-32. It takes spans from the cache if readers have just had
//! them decoded. If a copy fails, the log gets a line, and no read fails.

use std::{
    fmt,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Error, Reports, deflated::Deflated, pool::Spawner};
use crate::{
    saved::{self, Copies, CopyKey, Draft},
    sync::Mutex,
};

/// Bytes that are written between two syncs. This bounds the dirty pages in memory, and the time
/// that the end of the server waits for a copy.
const SYNC_EVERY: u64 = 64 << 20;

/// Bytes that are read at a time: the largest spacing of checkpoints.
const PART: u64 = 1 << 20;

/// The smallest member that gets a copy. Decoded bytes. A smaller member is decoded again in a few
/// milliseconds.
pub(super) const LEAST_SIZE: u64 = 1 << 20;

/// The numbers under which `reports` has an error of the directory, which concerns no single
/// member.
const DIRECTORY: i64 = 1;
const ALL_MEMBERS: u32 = u32::MAX;

/// What the copies of all members share.
#[derive(Clone)]
pub(super) struct Copier {
    pub store: Arc<Copies>,
    pub thread: Spawner,
    /// Set when the server ends. Then unfinished copies are given up.
    pub ending: Arc<AtomicBool>,
    /// Which failures the log has, so that it does not get a line for each member.
    pub reports: Arc<Reports>,
}

#[derive(Debug)]
enum CopyState {
    /// There is no copy, and none is being made.
    Absent {
        /// Bytes that readers have requested since the copy became absent.
        requested: u64,
    },
    /// The copy is being made.
    Unfinished,
    /// The copy existed when it was last looked for.
    Present,
    /// There will be no copy while the archive is open: the member is damaged, or the copy could
    /// not be written.
    GivenUp,
}

impl CopyState {
    const ABSENT: Self = Self::Absent { requested: 0 };
}

type Identify = Box<dyn Fn() -> io::Result<CopyKey> + Send + Sync>;

/// The decoded copy of one member, whether it exists or not.
pub(super) struct MemberCopy {
    copier: Copier,
    identify: Identify,
    /// The key of the copy in the store; `None` if the archive could not be read.
    key: OnceLock<Option<CopyKey>>,
    size: u64,
    /// CRC-32 of the whole member, if the archive's directory has it.
    crc32: Option<u32>,
    state: Mutex<CopyState>,
    /// Whether the log has a line for this copy.
    was_reported: AtomicBool,
}

impl fmt::Debug for MemberCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemberCopy").field("state", &self.state).finish_non_exhaustive()
    }
}

/// The copy that a handle reads, once the copy exists. Its file stays open, and takes space on the
/// disk, as long as the handle is open.
#[derive(Debug, Default)]
pub(super) struct CopyHandle(OnceLock<Arc<File>>);

impl MemberCopy {
    pub(super) fn new(
        copier: Copier,
        size: u64,
        crc32: Option<u32>,
        identify: Identify,
    ) -> Arc<Self> {
        Arc::new(Self {
            copier,
            identify,
            key: OnceLock::new(),
            size,
            crc32,
            state: Mutex::new(CopyState::ABSENT),
            was_reported: AtomicBool::new(false),
        })
    }

    /// The copy, for a handle that is being opened.
    pub(super) fn open(&self, handle: &CopyHandle) -> Option<Arc<File>> {
        let file = Arc::new(self.find()?);
        Some(handle.0.get_or_init(|| file).clone())
    }

    /// The copy, for a read of an open handle.
    pub(super) fn of<'a>(&self, handle: &'a CopyHandle) -> Option<&'a File> {
        if handle.0.get().is_none() && matches!(*self.state.lock(), CopyState::Present) {
            self.open(handle)?;
        }
        handle.0.get().map(|file| &**file)
    }

    /// Notes a read of `bytes` bytes. Returns whether the caller has to make a copy now.
    pub(super) fn note_read(&self, bytes: u64) -> bool {
        let mut state = self.state.lock();
        let CopyState::Absent { requested } = &mut *state else { return false };
        let is_read_often = *requested >= self.size;
        *requested += bytes;
        if is_read_often {
            *state = CopyState::Unfinished;
        }
        is_read_often
    }

    /// Makes the copy on another thread.
    pub(super) fn make(self: &Arc<Self>, member: &Arc<Deflated>) {
        let (this, member) = (self.clone(), member.clone());
        self.copier.thread.spawn(move || {
            let state = this.copy_spans(&member).unwrap_or_else(|error| {
                this.report(&error);
                CopyState::GivenUp
            });
            *this.state.lock() = state;
        });
    }

    /// Calls `decode` to write the whole member into a copy. `decode` checks the bytes. Returns
    /// `None` if there can be no copy.
    ///
    /// # Errors
    /// The error of `decode`.
    pub(super) fn make_whole(
        &self,
        decode: impl FnOnce(&File) -> Result<(), Error>,
    ) -> Option<Result<Arc<File>, Error>> {
        if let Some(file) = self.find() {
            return Some(Ok(Arc::new(file)));
        }
        let made = self.write_whole(decode).unwrap_or_else(|error| {
            self.report(&error);
            None
        });
        match made? {
            Ok(()) => Some(Ok(Arc::new(self.find()?))),
            Err(error) => Some(Err(error)),
        }
    }

    fn write_whole(
        &self,
        decode: impl FnOnce(&File) -> Result<(), Error>,
    ) -> Result<Option<Result<(), Error>>, saved::Error> {
        let store = &self.copier.store;
        let Some(key) = self.key() else { return Ok(None) };
        let Some(draft) = store.begin(self.size)? else { return Ok(None) };
        match decode(draft.file()) {
            Ok(()) => Ok(Some(Ok(self.finish(draft, key)?))),
            // Either the disk that holds the copies is full, or the archive cannot be read.
            Err(Error::Io(error)) => Err(io::Error::other(error).into()),
            Err(error) => Ok(Some(Err(error))),
        }
    }

    /// Copies the member span by span and returns the new state.
    fn copy_spans(&self, member: &Arc<Deflated>) -> Result<CopyState, saved::Error> {
        // The task may have waited long, until other copies were made.
        if self.copier.ending.load(Ordering::Relaxed) {
            return Ok(CopyState::ABSENT);
        }
        // Another server may have made the copy.
        if self.find().is_some() {
            return Ok(CopyState::Present);
        }
        let store = &self.copier.store;
        let Some(key) = self.key() else { return Ok(CopyState::GivenUp) };
        // Without room the state is `Absent` again: after as many more bytes are read, there may be
        // room. `begin` writes nothing if there is no room.
        let draft = store.begin(self.size).unwrap_or_else(|error| {
            self.report(&error.into());
            None
        });
        let Some(draft) = draft else {
            log::debug!("{}: no room for {} bytes", store.path().display(), self.size);
            return Ok(CopyState::ABSENT);
        };
        if !self.write_spans(member, draft.file())? {
            return Ok(CopyState::GivenUp);
        }
        self.finish(draft, key)?;
        Ok(match store.find(key)? {
            Some(_) => CopyState::Present,
            // Another process has removed the copy already.
            None => CopyState::ABSENT,
        })
    }

    fn finish(&self, draft: Draft, key: &CopyKey) -> Result<(), saved::Error> {
        self.copier.store.finish(draft, key)?;
        self.copier.reports.clear(ALL_MEMBERS, DIRECTORY);
        Ok(())
    }

    /// Writes all bytes. Returns whether all were written and match the CRC-32. Does not log
    /// damage: the reads of the member do.
    fn write_spans(&self, member: &Arc<Deflated>, file: &File) -> io::Result<bool> {
        let mut crc32 = crc32fast::Hasher::new();
        let (mut at, mut synced) = (0, 0);
        while at < self.size {
            if self.copier.ending.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let end = self.size.min(at + PART);
            let (bytes, was_cached) = member.read_here(at..end);
            let Ok(bytes) = bytes else { return Ok(false) };
            file.write_all_at(&bytes, at)?;
            crc32.update(&bytes);
            if !was_cached {
                // Drops the spans of this part, and those that began in the part before.
                member.give_up(at.saturating_sub(PART)..end);
            }
            at = end;
            if at - synced >= SYNC_EVERY {
                file.sync_data()?;
                synced = at;
            }
        }
        // The engine checks the member as a whole at the end of the stream.
        Ok(member.stream_verdict().is_ended()
            && self.crc32.is_none_or(|wanted| wanted == crc32.finalize()))
    }

    fn find(&self) -> Option<File> {
        let found = self.copier.store.find(self.key()?).unwrap_or_else(|error| {
            self.report(&error);
            None
        });
        let mut state = self.state.lock();
        if found.is_some() {
            *state = CopyState::Present;
        } else if matches!(*state, CopyState::Present) {
            // The copy was evicted.
            *state = CopyState::ABSENT;
        }
        drop(state);
        found
    }

    fn key(&self) -> Option<&CopyKey> {
        let key = self.key.get_or_init(|| {
            (self.identify)().inspect_err(|error| log::debug!("no decoded copy: {error}")).ok()
        });
        key.as_ref()
    }

    fn report(&self, error: &saved::Error) {
        if self.is_first(error) {
            log::warn!("{}: no decoded copy: {error}", self.copier.store.path().display());
        }
    }

    /// Whether `error` is to be logged: an error of the disk once for all copies, any other once
    /// for each.
    fn is_first(&self, error: &saved::Error) -> bool {
        match error {
            saved::Error::Io(_) => self.copier.reports.is_first(ALL_MEMBERS, DIRECTORY),
            _ => !self.was_reported.swap(true, Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests;
