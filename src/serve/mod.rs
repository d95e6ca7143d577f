//! How the bytes of members get out fast.
//!
//! A [`Content`] is the decoded bytes of one member. A read whose bytes are at hand is answered on
//! the calling thread; one that needs decoding is parked, and a bounded pool decodes, a span a
//! task, so that a long first pass never holds up the reads of other members. Knows nothing of
//! names, inodes or FUSE.
#![forbid(unsafe_code)]

mod asker;
mod background;
mod container;
mod content;
mod copy;
mod deflated;
mod error;
mod idle;
mod index;
mod open_file;
mod pattern;
mod pool;
mod reports;
mod resting;
mod room;
mod scratch;
mod stored;
#[cfg(test)]
mod testing;
mod verify;
mod waiting;
mod whole;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub use asker::Asker;
pub use container::OpenContainer;
pub use content::Content;
#[cfg(test)]
use content::State;
pub(crate) use content::with_scratch;
pub use error::{Error, Failure};
pub use open_file::{Backing, OpenFile};
pub use reports::{Repeats, Reports};
pub use room::Reserved;
pub use scratch::is_out_of_descriptors;
pub use verify::Verify;

use background::Background;
use copy::{Copier, MemberCopy};
use idle::IdleCores;
use index::ArchiveIndex;
use pool::{Pool, Spawner};
use resting::Resting;
use room::Room;
use scratch::Scratch;
use seekable_deflate::Memory;
use verify::{Alarm, Confirmed, Subject, Verdict};
use whole::WholeQueue;

use crate::{
    archive::{Identity, SourceFile},
    saved::{Copies, CopyKey, Indexes, StreamKey},
};

/// Answers one read, now or later, on whatever thread has the bytes.
pub type Reply = Box<dyn FnOnce(Result<&[u8], Error>) + Send>;

/// What a user can set about serving.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes that the process may take.
    pub memory_limit: u64,
    /// Bytes of them for decoded spans and for the windows of indexes.
    pub cache_size: u64,
    /// Threads that decode spans.
    pub threads: usize,
    /// Whether those do all else, too: a process that may have few threads.
    pub few_threads: bool,
    /// Where members that cannot be read in part are decoded to, as unlinked files.
    pub temporary: PathBuf,
    /// Bytes that those may take; `None` for a tenth of what is free there.
    pub scratch_size: Option<u64>,
    /// Where indexes are saved, if anywhere.
    pub indexes: Option<Arc<Indexes>>,
    /// Where decoded copies of members are kept, if anywhere.
    pub copies: Option<Arc<Copies>>,
    /// When members are compared with their CRC-32.
    pub verify: Verify,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory_limit: 256 << 20,
            cache_size: 64 << 20,
            // Two at least: one may be at a long first pass while the other serves rows.
            threads: std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 16)),
            few_threads: false,
            temporary: std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from),
            scratch_size: None,
            indexes: None,
            copies: None,
            verify: Verify::default(),
        }
    }
}

/// The pools and the memory that all contents share.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    // Dropped first to last: each joins its threads.
    decoders: Pool,
    whole_decoders: Pool,
    _reply: Pool,
    _saver: Pool,
    _copier: Option<Pool>,
    heavy: Pool,
    _background: Pool,
}

/// What is being copied or compared in the background is given up: nobody is to wait for it.
impl Drop for Server {
    fn drop(&mut self) {
        self.shared.background.end();
        if let Some(copier) = &self.shared.copier {
            copier.ending.store(true, Ordering::Relaxed);
        }
    }
}

/// What a content needs of the server.
#[derive(Debug)]
struct Shared {
    memory: Arc<Memory>,
    /// Bytes that it may take while there is memory.
    cache_size: u64,
    room: Arc<Room>,
    /// Decodes spans: short tasks.
    decode: Spawner,
    idle: Arc<IdleCores>,
    /// Answers reads while `decode` goes on.
    reply: Spawner,
    /// Decodes whole members: long tasks, kept from the short ones.
    whole: Spawner,
    whole_queue: Arc<WholeQueue>,
    resting: Arc<Resting>,
    scratch: Arc<Scratch>,
    read_ahead: u64,
    indexes: Option<Arc<Indexes>>,
    /// Saves indexes.
    saver: Spawner,
    copier: Option<Copier>,
    verify: Verify,
    background: Arc<Background>,
    alarm: Arc<Alarm>,
}

impl Shared {
    /// The saved indexes of an archive, if any are saved.
    fn index(
        &self,
        source: Arc<SourceFile>,
        identify: impl Fn() -> io::Result<Identity> + Send + Sync + 'static,
    ) -> Option<Arc<ArchiveIndex>> {
        let store = self.indexes.clone()?;
        Some(ArchiveIndex::new(store, self.saver.clone(), source, Box::new(identify)))
    }

    /// What is known of a member, before anything of it is read.
    fn verdict(
        &self,
        subject: Subject,
        confirmed: Arc<Confirmed>,
        reports: Arc<Reports>,
        key: StreamKey,
        index: Option<&Arc<ArchiveIndex>>,
    ) -> Arc<Verdict> {
        let index = index.map(|index| (key, index.clone()));
        let alarm = self.alarm.clone();
        Verdict::new(subject, self.verify, self.cache_size, confirmed, reports, index, alarm)
    }

    /// The decoded copy of a member of `size` bytes, if it may have one.
    fn copy(
        &self,
        size: u64,
        crc32: Option<u32>,
        identify: impl Fn() -> io::Result<CopyKey> + Send + Sync + 'static,
    ) -> Option<Arc<MemberCopy>> {
        let copier = self.copier.clone().filter(|_| size >= copy::LEAST_SIZE)?;
        Some(MemberCopy::new(copier, size, crc32, Box::new(identify)))
    }
}

/// Threads that decode members whole. Two, so that one slow member does not hold up the next.
const WHOLE_THREADS: usize = 2;

/// Threads that open archives of many members. Two, so that those of some thousands do not wait for one
/// of a million; the largest go one at a time.
const HEAVY_THREADS: usize = 2;

/// How long the end waits for an index that is being written.
const SAVING: Duration = Duration::from_secs(60);

/// The cache keeps this fraction (one over it) of its size when memory is short.
const LEAST_CACHE: u64 = 8;

/// Farthest a sequential reader is read ahead of, in decoded bytes, whatever the memory.
const READ_AHEAD: u64 = 4 << 20;

impl Server {
    /// Starts the threads.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn new(settings: Settings) -> std::io::Result<Self> {
        let decode = Pool::new("decode", settings.threads.max(1))?;
        let other = |name: &str, threads| {
            if settings.few_threads { Ok(decode.alias()) } else { Pool::new(name, threads) }
        };
        let whole = other("whole", WHOLE_THREADS)?;
        // One moves 1.6 GB/s, more than a frontier yields; what is decoded already, the threads
        // that read the requests answer.
        let reply = other("reply", 1)?;
        let saver = other("save", 1)?.with_patience(SAVING);
        let copying = settings.copies.as_ref().map(|_| other("copy", 1)).transpose()?;
        let copier = settings.copies.zip(copying.as_ref()).map(|(store, pool)| Copier {
            store,
            thread: pool.spawner(),
            ending: Arc::default(),
            reports: Arc::default(),
        });
        let heavy = other("heavy", HEAVY_THREADS)?;
        let comparing = other("verify", 1)?;
        let background = Background::new(decode.spawner());
        let finisher = background.clone();
        // It runs until the end. Without a thread for it, passes that nobody continues stay as they are.
        if !settings.few_threads {
            comparing.spawner().spawn(move || finisher.run());
        }
        let shared = Arc::new(Shared {
            memory: Memory::new(settings.cache_size),
            cache_size: settings.cache_size,
            room: Room::new(settings.memory_limit),
            decode: decode.spawner(),
            idle: Arc::default(),
            whole: whole.spawner(),
            reply: reply.spawner(),
            whole_queue: Arc::default(),
            resting: Arc::default(),
            scratch: Scratch::new(settings.temporary, settings.scratch_size),
            // An eighth, so that several readers fit beside what is being read.
            read_ahead: READ_AHEAD.min(settings.cache_size / 8),
            indexes: settings.indexes,
            saver: saver.spawner(),
            copier,
            verify: settings.verify,
            background,
            alarm: Arc::default(),
        });
        Ok(Self {
            shared,
            decoders: decode,
            whole_decoders: whole,
            _reply: reply,
            _saver: saver,
            _copier: copying,
            heavy,
            _background: comparing,
        })
    }

    /// Calls `listener` with each inode whose pages in the kernel's cache may be wrong, and why, if
    /// the log is to be told. Before anything is served, and once.
    pub fn on_condemned(&self, listener: impl Fn(u64, Option<&Error>) + Send + Sync + 'static) {
        self.shared.alarm.listen(Box::new(listener));
    }

    /// Closes a file that a member was decoded to; `false` if there is none. For whoever lacks a
    /// descriptor.
    #[must_use]
    pub fn give_up_descriptor(&self) -> bool {
        self.shared.scratch.give_one_up()
    }

    /// Lets the pools grow whose threads are stuck in the source, and the cache take what memory there
    /// is.
    pub fn relieve(&self) {
        let Shared { memory, room, cache_size, .. } = &*self.shared;
        let cache = memory.used().saturating_add_signed(room.look());
        memory.set_limit(cache.clamp(cache_size / LEAST_CACHE, *cache_size));
        for pool in [&self.decoders, &self.whole_decoders, &self.heavy] {
            pool.relieve();
        }
    }

    /// Sets what gives memory up once the cache has given all that it is to give; it is told how many
    /// bytes are missing. Once, before anything is served.
    pub fn on_memory_shortage(&self, give_way: impl Fn(u64) + Send + Sync + 'static) {
        let memory = self.shared.memory.clone();
        let least = self.shared.cache_size / LEAST_CACHE;
        self.shared.room.on_shortage(move |bytes| {
            let used = memory.used();
            memory.set_limit(used.saturating_sub(bytes).max(least));
            let given = used.saturating_sub(memory.used());
            if given < bytes {
                give_way(bytes - given);
            }
            crate::malloc::give_back_rest();
        });
    }

    /// Whether there is memory for what somebody wants to hold.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn check_memory(&self) -> io::Result<()> {
        self.shared.room.check()
    }

    /// Reserves memory for what takes many MiB.
    ///
    /// # Errors
    /// `OutOfMemory`, at once or after two seconds.
    pub fn reserve_memory(&self, bytes: u64) -> io::Result<Reserved> {
        self.shared.room.reserve(bytes)
    }

    /// Runs `task`, which may wait for seconds, where nobody waits for anything else.
    pub fn spawn_heavy(&self, task: impl FnOnce() + Send + 'static) {
        self.heavy.spawner().spawn(task);
    }

    /// Runs `task` where short decoding happens: for questions that may need the start of a
    /// member.
    pub fn spawn(&self, task: impl FnOnce() + Send + 'static) {
        self.shared.decode.spawn(task);
    }
}

/// True the first time it is asked.
#[derive(Debug, Default)]
pub struct Once(AtomicBool);

impl Once {
    /// True the first time.
    pub fn first(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }

    /// Whether there was a first time.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
