//! The saved indexes of one open archive. An index is loaded when its member is opened, and saved
//! while the first pass goes on.
//!
//! All members of an archive share one index file. It is rewritten when the indexes in memory have
//! grown enough. If an index cannot be saved or loaded, the log gets a line, and no read fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
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

/// The smallest stream whose index is saved. Encoded bytes. A smaller stream is decoded again in 2
/// or 3 milliseconds, so an index would not save time.
pub(super) const LEAST_ENCODED: u64 = 1 << 20;

/// An index is saved after this many new decoded bytes, although its pass goes on. Decoding them
/// takes about a second, which is what a killed server loses.
const STEP: u64 = 1 << 30;

/// The file is rewritten after this many newly compared members, or after as many as the file has
/// entries if that is more. So an archive of thousands of members causes few writes.
const MEMBERS: usize = 256;

/// The source of an entry when an index file is written.
#[derive(Clone, Copy)]
enum EntrySource<'a> {
    /// An older index file, which has the entry.
    File(&'a Arc<IndexFile>, Trust),
    /// An open stream that has been decoded farther than any file says, or whose saved entry cannot
    /// be used.
    Stream(&'a Arc<Deflated>),
    /// The entry has no index. It only records that the member was compared with its CRC-32 and is
    /// right.
    Verified,
}

/// The source of each entry, with the frontier of that source in decoded bytes.
type EntrySources<'a> = BTreeMap<StreamKey, (u64, EntrySource<'a>)>;

type Identify = Box<dyn Fn() -> io::Result<Identity> + Send + Sync>;

/// The saved indexes of one open archive.
pub(super) struct ArchiveIndex {
    store: Arc<Indexes>,
    saver: Spawner,
    source: Arc<SourceFile>,
    identify: Identify,
    /// `None` if the archive could not be read when its identity was needed.
    identity: OnceLock<Option<Identity>>,
    file: Mutex<Option<Arc<IndexFile>>>,
    streams: Mutex<BTreeMap<StreamKey, Weak<Deflated>>>,
    /// Streams whose saved index was wrong. An entry leaves the set when a new index is saved.
    refuted: Mutex<BTreeSet<StreamKey>>,
    /// Members that were compared and are right, but are not in the file yet.
    verified: Mutex<BTreeSet<StreamKey>>,
    /// Locked while a thread saves, so that one thread saves at a time.
    saving: Mutex<()>,
    queued: AtomicBool,
    /// Sum of the frontiers of all entries in the file. Decoded bytes.
    saved: AtomicU64,
    /// Decoded bytes by which the first passes have gone beyond the file. Approximate.
    unsaved: AtomicU64,
}

impl ArchiveIndex {
    /// The indexes in `store` of the archive `source`. `identify` computes the identity of the
    /// archive, and `saver` runs the writes.
    pub(super) fn new(
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

    /// Gives the saved index, if there is one, to a stream that has just been opened.
    pub(super) fn adopt(&self, key: StreamKey, stream: &Deflated) {
        let is_wrong = || self.refuted.lock().contains(&key);
        if self.identity().is_none() || stream.has_refused() || is_wrong() {
            return;
        }
        let file = self.file.lock().clone();
        if let Some(file) = file {
            self.adopt_from(&file, key, stream);
        }
    }

    /// Whether this mount or an earlier one compared all bytes of a member with its CRC-32.
    pub(super) fn is_verified(&self, key: StreamKey) -> bool {
        if self.identity().is_none() {
            return false;
        }
        let trust = self.file.lock().as_ref().and_then(|file| file.trust(key));
        trust.is_some_and(|trust| trust.confirmed && self.holds(trust))
    }

    /// Notes that all bytes of a member were compared and are right. The next mounts can use this.
    pub(super) fn set_verified(self: &Arc<Self>, key: StreamKey) {
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

    /// Whether an entry of the index file with this trust may be used for this archive.
    fn holds(&self, trust: Trust) -> bool {
        let same_file = || self.source.same_file().ok();
        trust.holds_for(if trust.file.is_some() { same_file() } else { None })
    }

    /// The trust for a new entry made from this archive. The entry of a confirmed stream holds for
    /// every archive with this content and owner, if only the owner can write the archive: each
    /// span is checked whenever it is decoded. Any other entry holds for this file only.
    fn trust(&self, is_stream: bool, confirmed: bool) -> io::Result<Trust> {
        let of_content = is_stream && confirmed && self.source.is_its_owners()?;
        let file = if of_content { None } else { Some(self.source.same_file()?) };
        Ok(Trust { confirmed, file })
    }

    /// Adds a stream to those whose indexes are saved as they grow.
    pub(super) fn register(&self, key: StreamKey, stream: &Arc<Deflated>) {
        self.streams.lock().insert(key, Arc::downgrade(stream));
    }

    /// Removes the saved index of a stream: decoding showed that the index does not fit the stream.
    pub(super) fn refute(self: &Arc<Self>, key: StreamKey) {
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

    /// Rewrites the index file, because windows of a stream in it are damaged.
    pub(super) fn mend(self: &Arc<Self>) {
        let Some(identity) = self.identity() else { return };
        self.warn(&identity, &saved::Error::Unfit("windows in it are damaged"));
        let this = self.clone();
        self.saver.spawn(move || this.save());
    }

    /// Notes that a stream has been decoded `bytes` farther. `ended`: the stream is decoded whole.
    pub(super) fn progress(self: &Arc<Self>, bytes: u64, ended: bool) {
        let unsaved = self.unsaved.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let saved = self.saved.load(Ordering::Relaxed);
        // All writes together are a few times the size of the last file, since each file is larger
        // than the one before by at least a quarter.
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

    /// Saves the indexes that have grown, on another thread.
    pub(super) fn save_later(self: Arc<Self>) {
        let streams = self.unsaved();
        if !streams.is_empty() || !self.verified.lock().is_empty() {
            self.saver.clone().spawn(move || {
                self.save();
                drop(streams);
            });
        }
    }

    /// Saves the indexes that have grown.
    pub(super) fn save(&self) {
        self.queued.store(false, Ordering::Release);
        let _one_at_a_time = self.saving.lock();
        let (unsaved, verified) = (self.unsaved(), mem::take(&mut *self.verified.lock()));
        if unsaved.is_empty() && verified.is_empty() {
            return;
        }
        // Compute the identity only now, since that reads the archive. Of most archives that are
        // opened, no member is read.
        let Some(identity) = self.identity() else { return };
        self.unsaved.store(0, Ordering::Relaxed);
        match self.write(&identity, &unsaved, &verified) {
            Ok(None) => {}
            Ok(Some(file)) => {
                self.use_file(Some(Arc::new(file)));
                // Windows that are in the new file need not stay in memory. And the old file is
                // closed once no stream reads windows from it.
                for (key, stream) in self.live() {
                    self.adopt(key, &stream);
                }
            }
            Err(error @ saved::Error::TooLarge { .. }) => {
                // Mark the streams as saved: each later attempt would fail as well.
                unsaved.values().for_each(|stream| stream.set_saved(stream.frontier()));
                log::warn!("{}: no index saved: {error}", self.store.path().display());
            }
            // The archive was overwritten, so its index is useless.
            Err(saved::Error::Stream(error)) if Error::from(error.clone()).is_overwritten() => {}
            Err(saved::Error::Io(error)) if SourceFile::is_stale(&error) => {}
            Err(error) => log::warn!("{}: no index saved: {error}", self.store.path().display()),
        }
    }

    /// The open streams.
    fn live(&self) -> BTreeMap<StreamKey, Arc<Deflated>> {
        let mut streams = self.streams.lock();
        streams.retain(|_, stream| stream.strong_count() > 0);
        streams.iter().filter_map(|(key, stream)| Some((*key, stream.upgrade()?))).collect()
    }

    /// The open streams that have something to save ([`Deflated::has_unsaved`]).
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
        // Another server may have saved other streams, or more of the same streams, or removed the
        // file that this server still has open. If both save at the same time, the file that is
        // written last stays.
        let newest = self.store.load(identity).ok().flatten().map(Arc::new);
        let files = [self.file.lock().clone(), newest];
        let sources = self.entry_sources(&files, unsaved, verified);
        let entries = sources.iter().map(|(key, (_, source))| {
            let (key, source) = (*key, *source);
            let entry: (Trust, WriteIndex) = match source {
                EntrySource::Stream(stream) => {
                    let trust = self.trust(true, stream.stream_verdict().is_ended())?;
                    (trust, Box::new(move |out| stream.write_index(out)))
                }
                EntrySource::File(file, trust) => (trust, file.copy(key)),
                EntrySource::Verified => (self.trust(false, true)?, Box::new(|_| Ok(false))),
            };
            Ok((key, entry.0, entry.1))
        });
        let saved = self.store.save(identity, entries.collect::<io::Result<_>>()?)?;
        for (key, (frontier, source)) in &sources {
            if let EntrySource::Stream(stream) = source {
                stream.set_saved(*frontier);
                self.refuted.lock().remove(key);
            }
        }
        Ok(saved)
    }

    /// The entries to write. Each stream gets the source with the farthest frontier.
    fn entry_sources<'a>(
        &self,
        files: &'a [Option<Arc<IndexFile>>],
        unsaved: &'a BTreeMap<StreamKey, Arc<Deflated>>,
        verified: &BTreeSet<StreamKey>,
    ) -> EntrySources<'a> {
        let mut sources = EntrySources::new();
        for file in files.iter().flatten() {
            for (key, trust) in file.streams() {
                // An entry for another archive file is kept until there is a better entry, because
                // that file may still exist.
                let holds = self.holds(trust);
                let frontier = match file.index(key) {
                    Ok(Some(index)) if holds => index.frontier(),
                    Ok(_) => 0,
                    Err(_) => continue,
                };
                if sources.get(&key).is_none_or(|(other, _)| *other < frontier) {
                    sources.insert(key, (frontier, EntrySource::File(file, trust)));
                }
            }
        }
        for (key, stream) in unsaved {
            let frontier = stream.frontier();
            let is_farther = sources.get(key).is_none_or(|(other, _)| *other < frontier);
            if is_farther || stream.has_refused() {
                sources.insert(*key, (frontier, EntrySource::Stream(stream)));
            }
        }
        for key in verified {
            let is_confirmed = match sources.get(key) {
                Some((_, EntrySource::File(_, trust))) => trust.confirmed && self.holds(*trust),
                Some(_) => true,
                None => false,
            };
            if !is_confirmed {
                sources.insert(*key, (0, EntrySource::Verified));
            }
        }
        sources
    }

    /// The identity of the archive; `None` if it cannot be read. The first call also loads the
    /// index file.
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
        log::warn!("{path}/{identity}.index is rebuilt: {error}");
    }
}

#[cfg(test)]
mod tests;
