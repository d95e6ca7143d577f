//! The saved indexes of one open archive: used when a member is opened, saved as passes go on.
//!
//! All members of an archive share a file, which is written anew whenever enough has come to it.
//! What cannot be saved or used costs a line in the log and nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io, mem,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use seekable_deflate::Error::StaleIndex;

use super::{Error, deflated::Deflated, pool::Spawner};
use crate::{
    archive::{Identity, SourceFile},
    saved::{self, IndexFile, Indexes, StreamKey, Trust, WriteIndex},
    sync::Mutex,
};

/// Streams of fewer encoded bytes are decoded again in 2 or 3 milliseconds, which is less than
/// what their index is worth.
pub const LEAST_ENCODED: u64 = 1 << 20;

/// Decoded bytes after which an index is saved though its pass goes on: a second or so of
/// decoding, which is what a server that is killed loses.
const STEP: u64 = 1 << 30;

/// Members that are compared before a file is written for them, unless as many are in it: so an
/// archive of thousands costs a few files.
const MEMBERS: usize = 256;

/// Where the entry of a stream comes from when a file is written.
#[derive(Clone, Copy)]
enum From<'a> {
    File(&'a Arc<IndexFile>, Trust),
    Stream(&'a Arc<Deflated>),
    /// There is nothing to say but that it was right.
    Verified,
}

type Identify = Box<dyn Fn() -> io::Result<Identity> + Send + Sync>;

/// The saved indexes of one open archive.
pub struct ArchiveIndex {
    store: Arc<Indexes>,
    saver: Spawner,
    source: Arc<SourceFile>,
    identify: Identify,
    /// `None` if the archive could not be read.
    identity: OnceLock<Option<Identity>>,
    file: Mutex<Option<Arc<IndexFile>>>,
    streams: Mutex<BTreeMap<StreamKey, Weak<Deflated>>>,
    /// Streams whose saved index was wrong, until another is saved.
    refuted: Mutex<BTreeSet<StreamKey>>,
    /// Members that were compared and are right, and are not in the file yet.
    verified: Mutex<BTreeSet<StreamKey>>,
    /// One at a time saves.
    saving: Mutex<()>,
    queued: AtomicBool,
    /// Decoded bytes whose checkpoints are in the file, and those that are not, about.
    saved: AtomicU64,
    unsaved: AtomicU64,
}

impl fmt::Debug for ArchiveIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiveIndex").field("saved", &self.saved).finish_non_exhaustive()
    }
}

impl ArchiveIndex {
    /// Those of the archive in `source` that `identify` tells, in `store`. `saver` runs what takes
    /// time.
    pub fn new(
        store: Arc<Indexes>,
        saver: Spawner,
        source: Arc<SourceFile>,
        identify: Identify,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            saver,
            source,
            identify,
            verified: Mutex::default(),
            identity: OnceLock::new(),
            file: Mutex::default(),
            streams: Mutex::default(),
            refuted: Mutex::default(),
            saving: Mutex::default(),
            queued: AtomicBool::new(false),
            saved: AtomicU64::new(0),
            unsaved: AtomicU64::new(0),
        })
    }

    /// Lets a stream that has just been opened go on from its saved index, if it has one.
    pub fn adopt(&self, key: StreamKey, stream: &Deflated) {
        let is_wrong = || self.refuted.lock().contains(&key);
        if self.identity().is_none() || stream.has_refused() || is_wrong() {
            return;
        }
        let file = self.file.lock().clone();
        if let Some(file) = file {
            self.adopt_from(&file, key, stream);
        }
    }

    /// Whether all bytes of a member were compared with its CRC-32 before, by this or another mount.
    pub fn is_verified(&self, key: StreamKey) -> bool {
        if self.identity().is_none() {
            return false;
        }
        let trust = self.file.lock().as_ref().and_then(|file| file.trust(key));
        trust.is_some_and(|trust| trust.confirmed && self.holds(trust))
    }

    /// Remembers that all bytes of a member were compared and are right.
    pub fn set_verified(self: &Arc<Self>, key: StreamKey) {
        if self.is_verified(key) {
            return;
        }
        let unsaved = {
            let mut verified = self.verified.lock();
            verified.insert(key);
            verified.len()
        };
        let saved = self.file.lock().as_ref().map_or(0, |file| file.streams().count());
        if unsaved >= saved.max(MEMBERS) {
            self.save_soon();
        }
    }

    /// Whether an entry may be believed of this archive.
    fn holds(&self, trust: Trust) -> bool {
        let same_file = || self.source.same_file().ok();
        trust.holds_for(if trust.file.is_some() { same_file() } else { None })
    }

    /// What may be believed of an entry that is made of this archive now. Of a stream that has been
    /// confirmed each span is checked whenever it is decoded, so it is true of each archive of this
    /// content and owner; all else of this file alone.
    fn trust(&self, is_stream: bool, confirmed: bool) -> io::Result<Trust> {
        let of_content = is_stream && confirmed && self.source.is_its_owners()?;
        let file = if of_content { None } else { Some(self.source.same_file()?) };
        Ok(Trust { confirmed, file })
    }

    /// Saves the index of a stream from now on.
    pub fn register(&self, key: StreamKey, stream: &Arc<Deflated>) {
        self.streams.lock().insert(key, Arc::downgrade(stream));
    }

    /// Drops what is saved of a stream, which does not decode as it says.
    pub fn refute(self: &Arc<Self>, key: StreamKey) {
        let Some(identity) = self.identity() else { return };
        self.refuted.lock().insert(key);
        self.warn(&identity, &saved::Error::Stream(StaleIndex));
        let this = self.clone();
        self.saver.spawn(move || {
            let _one_at_a_time = this.saving.lock();
            let left = this.store.forget(&identity, key).unwrap_or_else(|error| {
                log::debug!("{}: {error}", this.store.path().display());
                None
            });
            this.use_file(left.map(Arc::new));
        });
    }

    /// Saves anew a file in which windows of a stream are damaged.
    pub fn mend(self: &Arc<Self>) {
        let Some(identity) = self.identity() else { return };
        self.warn(&identity, &saved::Error::Unfit("windows in it are damaged"));
        let this = self.clone();
        self.saver.spawn(move || this.save());
    }

    /// Takes note that a stream has been decoded `bytes` farther, perhaps to its end.
    pub fn progress(self: &Arc<Self>, bytes: u64, ended: bool) {
        let unsaved = self.unsaved.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let saved = self.saved.load(Ordering::Relaxed);
        // Each time at least a quarter of what is there, so that all the writing together is a
        // few times the last file.
        let enough = if saved < STEP { 0 } else { saved / 4 };
        if unsaved >= enough && (ended || unsaved >= STEP) {
            self.save_soon();
        }
    }

    fn save_soon(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            let this = self.clone();
            self.saver.spawn(move || this.save());
        }
    }

    /// Saves what there is to save, on another thread.
    pub fn save_later(self: Arc<Self>) {
        let streams = self.unsaved();
        if !streams.is_empty() || !self.verified.lock().is_empty() {
            self.saver.clone().spawn(move || {
                self.save();
                drop(streams);
            });
        }
    }

    /// Saves what there is to save.
    pub fn save(&self) {
        self.queued.store(false, Ordering::Release);
        let _one_at_a_time = self.saving.lock();
        let (unsaved, verified) = (self.unsaved(), mem::take(&mut *self.verified.lock()));
        if unsaved.is_empty() && verified.is_empty() {
            return;
        }
        // Not before: of most archives that were looked at, nothing was read.
        let Some(identity) = self.identity() else { return };
        self.unsaved.store(0, Ordering::Relaxed);
        match self.write(&identity, &unsaved, &verified) {
            Ok(None) => {}
            Ok(Some(file)) => {
                self.use_file(Some(Arc::new(file)));
                // Windows that are in the file need not be in memory, and no file that is
                // replaced stays mapped.
                for (key, stream) in self.live() {
                    self.adopt(key, &stream);
                }
            }
            Err(error @ saved::Error::TooLarge { .. }) => {
                // It would be so again each time.
                unsaved.values().for_each(|stream| stream.set_saved(stream.reader().frontier()));
                log::warn!("{}: no index saved: {error}", self.store.path().display());
            }
            // There is nothing to save of an archive that is gone.
            Err(saved::Error::Stream(error)) if Error::from(error.clone()).is_overwritten() => {}
            Err(saved::Error::Io(error)) if SourceFile::is_stale(&error) => {}
            Err(error) => log::warn!("{}: no index saved: {error}", self.store.path().display()),
        }
    }

    /// The streams that are open.
    fn live(&self) -> BTreeMap<StreamKey, Arc<Deflated>> {
        let mut streams = self.streams.lock();
        streams.retain(|_, stream| stream.strong_count() > 0);
        streams.iter().filter_map(|(key, stream)| Some((*key, stream.upgrade()?))).collect()
    }

    /// Those that have been decoded farther than the file says.
    fn unsaved(&self) -> BTreeMap<StreamKey, Arc<Deflated>> {
        let mut streams = self.live();
        streams.retain(|_, stream| stream.has_unsaved());
        streams
    }

    fn write(
        &self,
        identity: &Identity,
        unsaved: &BTreeMap<StreamKey, Arc<Deflated>>,
        verified: &BTreeSet<StreamKey>,
    ) -> Result<Option<IndexFile>, saved::Error> {
        // Another server may have saved other streams, or more of these, or removed the file that
        // this one still has. Should it do so while this goes on, the file that comes last stays.
        let there = self.store.load(identity).ok().flatten().map(Arc::new);
        let files = [self.file.lock().clone(), there];
        let mut sources: BTreeMap<StreamKey, (u64, From)> = BTreeMap::new();
        for file in files.iter().flatten() {
            for (key, trust) in file.streams() {
                // What is not of this file is of use to the file that it is of, if that is still
                // there, and goes when there is something better.
                let holds = self.holds(trust);
                let frontier = match file.index(key) {
                    Ok(Some(index)) if holds => index.frontier(),
                    Ok(_) => 0,
                    Err(_) => continue,
                };
                let is_better = |(other, _): &(u64, From)| *other < frontier;
                if sources.get(&key).is_none_or(is_better) {
                    sources.insert(key, (frontier, From::File(file, trust)));
                }
            }
        }
        for (key, stream) in unsaved {
            let frontier = stream.reader().frontier();
            let is_farther = sources.get(key).is_none_or(|(other, _)| *other < frontier);
            if is_farther || stream.has_refused() {
                sources.insert(*key, (frontier, From::Stream(stream)));
            }
        }
        for key in verified {
            let is_known = |from: &From| match from {
                From::File(_, trust) => trust.confirmed && self.holds(*trust),
                From::Stream(_) | From::Verified => true,
            };
            if !sources.get(key).is_some_and(|(_, from)| is_known(from)) {
                sources.insert(*key, (0, From::Verified));
            }
        }
        let streams = sources.iter().map(|(key, (_, from))| {
            let (key, from) = (*key, *from);
            let entry: (Trust, WriteIndex) = match from {
                From::Stream(stream) => {
                    let trust = self.trust(true, stream.reader().is_complete())?;
                    (trust, Box::new(move |out| stream.write_index(out)))
                }
                From::File(file, trust) => (trust, file.copy(key)),
                From::Verified => (self.trust(false, true)?, Box::new(|_| Ok(false))),
            };
            Ok((key, entry.0, entry.1))
        });
        let saved = self.store.save(identity, streams.collect::<io::Result<_>>()?)?;
        for (key, (frontier, from)) in &sources {
            if let From::Stream(stream) = from {
                stream.set_saved(*frontier);
                self.refuted.lock().remove(key);
            }
        }
        Ok(saved)
    }

    /// What the archive is; the first time, its file is loaded as well.
    fn identity(&self) -> Option<Identity> {
        *self.identity.get_or_init(|| match (self.identify)() {
            Ok(identity) => {
                match self.store.load(&identity) {
                    Ok(None) => {}
                    Ok(Some(file)) => self.use_file(Some(Arc::new(file))),
                    Err(error) => self.warn(&identity, &error),
                }
                Some(identity)
            }
            Err(error) => {
                log::debug!("no index: {error}");
                None
            }
        })
    }

    fn use_file(&self, file: Option<Arc<IndexFile>>) {
        let saved = file.as_ref().map_or(0, |file| file.frontiers());
        self.saved.store(saved, Ordering::Relaxed);
        *self.file.lock() = file;
    }

    fn adopt_from(&self, file: &IndexFile, key: StreamKey, stream: &Deflated) {
        if !file.trust(key).is_some_and(|trust| self.holds(trust)) {
            return;
        }
        let adopted = match file.index(key) {
            Ok(None) => return,
            Ok(Some(index)) => stream.adopt_index(index).map_err(Into::into),
            Err(error) => Err(error),
        };
        if let (Err(error), Some(identity)) = (adopted, self.identity()) {
            stream.refuse_saved();
            self.warn(&identity, &error);
        }
    }

    fn warn(&self, identity: &Identity, error: &saved::Error) {
        let path = self.store.path().display();
        log::warn!("{path}/{identity}.index is made anew: {error}");
    }
}

#[cfg(test)]
mod tests;
