//! The decoded copy of a member on disk (`--disk-cache`): made once the member is read a lot, and
//! read in its place from then on.
//!
//! A member is read a lot when more bytes have been asked of us than it has: a second pass, or rows
//! worth as much. What the kernel has in its cache it does not ask for, so a member that memory
//! holds anyway is not copied. Its first pass is not either: to write along with it would put on
//! the disk whatever is looked at once. A copy is made by a thread of its own, in order and checked
//! against the member's CRC-32; what a reader has just had decoded it takes from the cache.
//! Copying that fails costs a line in the log and no read.

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

use super::{Error, Repeats, Reports, deflated::Deflated, pool::Spawner};
use crate::{
    saved::{self, Copies, CopyKey, Draft},
    sync::Mutex,
};

/// Bytes that are written before the disk is waited for: so they do not pile up in memory, and the
/// end of the server waits for no more than these.
const SYNC_EVERY: u64 = 64 << 20;

/// Members of fewer decoded bytes are decoded in a few milliseconds, which is less than a file is
/// worth.
pub const LEAST_SIZE: u64 = 1 << 20;

/// The reasons of reports: the directory cannot be used, for any member; a copy in it cannot be.
const DIRECTORY: i64 = 1;
const COPY: i64 = 2;
const ALL_MEMBERS: u32 = u32::MAX;

/// What makes copies.
#[derive(Debug, Clone)]
pub struct Copier {
    pub store: Arc<Copies>,
    pub thread: Spawner,
    /// Set when the server ends: what is not finished by then is given up.
    pub ending: Arc<AtomicBool>,
    /// What the log has of copies: it is not to get a line for each member.
    pub reports: Arc<Reports>,
}

#[derive(Debug)]
enum State {
    /// There is none, and nobody makes one.
    Absent {
        /// Bytes that have been asked of us.
        asked: u64,
    },
    /// It is being made.
    Begun,
    /// There was one when we looked last.
    There,
    /// None can be had as long as the archive stays open: it is damaged, or could not be written.
    GivenUp,
}

impl State {
    /// It has to be read a lot before one is made.
    const ABSENT: Self = Self::Absent { asked: 0 };
}

type Identify = Box<dyn Fn() -> io::Result<CopyKey> + Send + Sync>;

/// The copy of one member.
pub struct MemberCopy {
    copier: Copier,
    identify: Identify,
    /// `None` if the archive could not be read.
    key: OnceLock<Option<CopyKey>>,
    size: u64,
    /// Of the whole member, where the archive's directory has it.
    crc32: Option<u32>,
    state: Mutex<State>,
}

impl fmt::Debug for MemberCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemberCopy").field("state", &self.state).finish_non_exhaustive()
    }
}

/// The copy that a handle reads, once there is one. It holds the file, and its space on the disk,
/// as long as the handle is open.
#[derive(Debug, Default)]
pub struct CopyHandle(OnceLock<Arc<File>>);

impl MemberCopy {
    pub fn new(copier: Copier, size: u64, crc32: Option<u32>, identify: Identify) -> Arc<Self> {
        Arc::new(Self {
            copier,
            identify,
            key: OnceLock::new(),
            size,
            crc32,
            state: Mutex::new(State::ABSENT),
        })
    }

    /// The copy, for a handle that is being opened.
    pub fn open(&self, handle: &CopyHandle) -> Option<Arc<File>> {
        let file = Arc::new(self.find()?);
        Some(handle.0.get_or_init(|| file).clone())
    }

    /// The copy, for a read of an open handle.
    pub fn of<'a>(&self, handle: &'a CopyHandle) -> Option<&'a File> {
        if handle.0.get().is_none() && matches!(*self.state.lock(), State::There) {
            self.open(handle)?;
        }
        handle.0.get().map(|file| &**file)
    }

    /// Takes note of a read of `bytes`; whether a copy is to be made now.
    pub fn asked(&self, bytes: u64) -> bool {
        let mut state = self.state.lock();
        let State::Absent { asked } = &mut *state else { return false };
        let is_read_a_lot = *asked >= self.size;
        *asked += bytes;
        if is_read_a_lot {
            *state = State::Begun;
        }
        is_read_a_lot
    }

    /// Makes a copy, on another thread.
    pub fn make(self: &Arc<Self>, member: &Arc<Deflated>) {
        let (this, member) = (self.clone(), member.clone());
        self.copier.thread.spawn(move || {
            let state = this.copy_spans(&member).unwrap_or_else(|error| {
                this.report(&error);
                State::GivenUp
            });
            *this.state.lock() = state;
        });
    }

    /// Lets `decode` write the whole member, which it checks itself, into a copy. `None` if there
    /// can be no copy; that the member cannot be decoded comes as `decode` says it.
    pub fn make_whole(
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
            // It may be the disk of the copies that is full, or the archive that cannot be read.
            Err(Error::Io(error)) => Err(io::Error::other(error).into()),
            Err(error) => Ok(Some(Err(error))),
        }
    }

    /// Makes a copy; the state that this comes to.
    fn copy_spans(&self, member: &Deflated) -> Result<State, saved::Error> {
        // It may have waited for the copies of others.
        if self.copier.ending.load(Ordering::Relaxed) {
            return Ok(State::ABSENT);
        }
        // Another server may have made it.
        if self.find().is_some() {
            return Ok(State::There);
        }
        let store = &self.copier.store;
        let Some(key) = self.key() else { return Ok(State::GivenUp) };
        // There may be room when as much has been read again; to ask for it writes nothing.
        let draft = store.begin(self.size).unwrap_or_else(|error| {
            self.report(&error.into());
            None
        });
        let Some(draft) = draft else {
            log::debug!("{}: no room for {} bytes", store.path().display(), self.size);
            return Ok(State::ABSENT);
        };
        if !self.write_spans(member, draft.file())? {
            return Ok(State::GivenUp);
        }
        self.finish(draft, key)?;
        Ok(match store.find(key)? {
            Some(_) => State::There,
            // Somebody has removed it already.
            None => State::ABSENT,
        })
    }

    fn finish(&self, draft: Draft, key: &CopyKey) -> Result<(), saved::Error> {
        self.copier.store.finish(draft, key)?;
        self.copier.reports.clear(ALL_MEMBERS, DIRECTORY);
        Ok(())
    }

    /// Whether all of it was written, and was right. Those who read the member log what is wrong
    /// with it.
    fn write_spans(&self, member: &Deflated, file: &File) -> io::Result<bool> {
        let reader = member.reader();
        let mut crc32 = crc32fast::Hasher::new();
        let (mut at, mut synced) = (0, 0);
        while at < self.size {
            if self.copier.ending.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let cached = reader.cached_span_at(at);
            let is_ours = cached.is_none();
            let Ok(span) = cached.map_or_else(|| member.span_at(at), Ok) else { return Ok(false) };
            let bytes = &span.bytes()[(at - span.start()) as usize..];
            file.write_all_at(bytes, at)?;
            crc32.update(bytes);
            at += bytes.len() as u64;
            if is_ours {
                reader.give_up(span.start()..at);
            }
            if at - synced >= SYNC_EVERY {
                file.sync_data()?;
                synced = at;
            }
        }
        // The verdict on the whole comes with the end of the stream.
        let ends = matches!(reader.span_at(at), Ok(None)) && at == self.size;
        Ok(ends && self.crc32.is_none_or(|wanted| wanted == crc32.finalize()))
    }

    fn find(&self) -> Option<File> {
        let found = self.copier.store.find(self.key()?).unwrap_or_else(|error| {
            self.report(&error);
            None
        });
        let mut state = self.state.lock();
        if found.is_some() {
            *state = State::There;
        } else if matches!(*state, State::There) {
            // It was evicted.
            *state = State::ABSENT;
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
        let reports = &self.copier.reports;
        let repeats = match error {
            saved::Error::Io(_) => {
                reports.is_first(ALL_MEMBERS, DIRECTORY).then_some(Repeats::NONE)
            }
            _ => reports.repeats("copy", COPY),
        };
        if let Some(repeats) = repeats {
            let path = self.copier.store.path().display();
            log::warn!("{path}: no decoded copy: {error}{repeats}");
        }
    }
}

#[cfg(test)]
mod tests;
