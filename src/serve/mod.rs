//! Serves the decoded bytes of members.
//!
//! A [`Content`] is the decoded bytes of one member. A read of bytes that are available is answered
//! on the calling thread. A read that needs decoding is parked, and a bounded pool decodes one span
//! per task, so that a long first pass never delays the reads of other members for long. This layer
//! knows nothing of names or FUSE. It keeps inode numbers only to report which pages in the
//! kernel's cache may be wrong.
#![forbid(unsafe_code)]

mod archive_file;
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
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

pub(crate) use archive_file::ArchiveFile;
pub(crate) use asker::Asker;
pub(crate) use container::OpenContainer;
pub(crate) use content::{Content, Readiness, with_buffer};
pub(crate) use error::{Error, Failure};
pub(crate) use open_file::{Backing, MemberOpening, OpenFile};
pub(crate) use reports::{Repeats, Reports};
pub(crate) use room::Reserved;
pub(crate) use scratch::is_out_of_descriptors;
pub(crate) use verify::Verify;

use background::Background;
use copy::{Copier, MemberCopy};
use idle::IdleCores;
use pool::{Pool, Spawner};
use resting::Resting;
use room::Room;
use scratch::Scratch;
use seekable_deflate::Memory;
use verify::Alarm;
use whole::WholeQueue;

use crate::saved::{Copies, CopyKey, Indexes};

/// The function that answers one read. It may be called on any thread.
pub(crate) type Reply = Box<dyn FnOnce(Result<&[u8], Error>) + Send>;

/// Settings of a [`Server`].
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Memory that the process may use. Bytes.
    pub memory_limit: u64,
    /// The part of `memory_limit` for decoded spans and for the windows of indexes. Bytes.
    pub cache_size: u64,
    /// Threads that decode spans.
    pub threads: usize,
    /// Whether the threads that decode spans do all work of this layer, because the process may
    /// have few threads. Then members are not compared in the background.
    pub few_threads: bool,
    /// Directory of the unlinked files that hold decoded members of methods without seek points.
    pub temporary: PathBuf,
    /// Most bytes that the files in `temporary` may take. `None` means a tenth of the free space
    /// there.
    pub scratch_size: Option<u64>,
    /// The store of saved indexes; `None` if indexes are not saved.
    pub indexes: Option<Arc<Indexes>>,
    /// The store of decoded copies of members; `None` if copies are not made.
    pub copies: Option<Arc<Copies>>,
    /// When members are compared with their CRC-32.
    pub verify: Verify,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            memory_limit: 256 << 20,
            cache_size: 64 << 20,
            // At least two threads: one may run a long first pass while the other serves random
            // reads.
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

/// The thread pools and the memory that all contents share. Contents are opened by
/// [`OpenContainer`].
pub(crate) struct Server {
    shared: Arc<Shared>,
    // The fields are dropped in this order. Each pool waits for its threads when it is dropped.
    decoders: Pool,
    whole_decoders: Pool,
    _reply: Pool,
    _saver: Pool,
    _copier: Option<Pool>,
    large: Pool,
    huge: Pool,
    _background: Pool,
}

/// Cancels the copies and comparisons under way, so that an unmount does not wait for them.
impl Drop for Server {
    fn drop(&mut self) {
        self.shared.background.end();
        if let Some(copier) = &self.shared.copier {
            copier.ending.store(true, Ordering::Relaxed);
        }
    }
}

/// The parts of the server that contents use.
struct Shared {
    memory: Arc<Memory>,
    /// The limit of `memory` when the process is not short of memory. Bytes.
    cache_size: u64,
    room: Arc<Room>,
    /// Decodes spans: short tasks.
    decode: Spawner,
    idle: Arc<IdleCores>,
    /// Answers reads while the threads of `decode` decode the next spans.
    reply: Spawner,
    /// Decodes whole members: long tasks, which must not delay the short ones.
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
    /// The decoded copy of a member of `size` bytes; `None` if the member is too small or copies
    /// are off.
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

/// Threads that decode members whole. Two, so that one slow member does not delay the next.
const WHOLE_THREADS: usize = 2;

/// Threads that open archives of some thousands of members. Archives of still more members are
/// opened one at a time, by another thread, so that no other archive waits for them.
const LARGE_THREADS: usize = 2;

/// How long the server waits at its end until an index has been written.
const SAVING: Duration = Duration::from_secs(60);

/// The cache never shrinks below its full size divided by this, however short memory is.
const LEAST_CACHE: u64 = 8;

/// The largest distance of read-ahead, whatever the size of the cache. Decoded bytes.
const READ_AHEAD: u64 = 4 << 20;

impl Server {
    /// Starts the threads.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn new(settings: Settings) -> std::io::Result<Self> {
        let decode = Pool::new("decode", settings.threads.max(1))?;
        let other = |name: &str, threads| {
            if settings.few_threads { Ok(decode.alias()) } else { Pool::new(name, threads) }
        };
        let whole = other("whole", WHOLE_THREADS)?;
        // One thread is enough: it copies 1.6 GB/s to the kernel, more than one task at a frontier
        // decodes. Reads of cached spans are answered by the threads that receive the requests.
        let reply = other("reply", 1)?;
        let saver = other("save", 1)?.with_patience(SAVING);
        let copying = settings.copies.as_ref().map(|_| other("copy", 1)).transpose()?;
        let copier = settings.copies.zip(copying.as_ref()).map(|(store, pool)| Copier {
            store,
            thread: pool.spawner(),
            ending: Arc::default(),
            reports: Arc::default(),
        });
        let large = other("large", LARGE_THREADS)?;
        let huge = other("huge", 1)?;
        let comparing = other("verify", 1)?;
        let background = Background::new(decode.spawner());
        let finisher = background.clone();
        // `run` keeps its thread until the server ends. With few threads it is not started, and
        // then only reads finish a pass.
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
            // An eighth of the cache, so that the read-ahead of several readers fits.
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
            large,
            huge,
            _background: comparing,
        })
    }

    /// Sets the function that is called with each inode whose pages in the kernel's cache may be
    /// wrong, and with the error if the error is to be logged. Call this once, before serving.
    pub(crate) fn on_condemned(
        &self,
        listener: impl Fn(u64, Option<&Error>) + Send + Sync + 'static,
    ) {
        self.shared.alarm.listen(Box::new(listener));
    }

    /// Closes the file of a decoded member to free its descriptor; `false` if no such file is open.
    pub(crate) fn give_up_descriptor(&self) -> bool {
        self.shared.scratch.give_one_up()
    }

    /// Adds threads to pools whose threads are stuck in the source, and fits the cache to the free
    /// memory.
    pub(crate) fn relieve(&self) {
        let Shared { memory, room, cache_size, .. } = &*self.shared;
        let cache = memory.used().saturating_add_signed(room.look());
        memory.set_limit(cache.clamp(cache_size / LEAST_CACHE, *cache_size));
        for pool in [&self.decoders, &self.whole_decoders, &self.large, &self.huge] {
            pool.relieve();
        }
    }

    /// Sets the function that frees other memory when shrinking the cache to its smallest size does
    /// not free enough. Its argument is the number of bytes that are still missing. Call this once,
    /// before serving.
    pub(crate) fn on_memory_shortage(&self, give_way: impl Fn(u64) + Send + Sync + 'static) {
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

    /// Checks that there is memory for another file or inode.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub(crate) fn check_memory(&self) -> io::Result<()> {
        self.shared.room.check()
    }

    /// Reserves memory for work that takes many MiB.
    ///
    /// # Errors
    /// `OutOfMemory`, after two seconds at most.
    pub(crate) fn reserve_memory(&self, bytes: u64) -> io::Result<Reserved> {
        self.shared.room.reserve(bytes)
    }

    /// Runs `task`, which opens an archive of some thousands of members, in the pool for those.
    pub(crate) fn spawn_large(&self, task: impl FnOnce() + Send + 'static) {
        self.large.spawner().spawn(task);
    }

    /// Runs `task`, which opens an archive of still more members. Such tasks run one at a time.
    pub(crate) fn spawn_huge(&self, task: impl FnOnce() + Send + 'static) {
        self.huge.spawner().spawn(task);
    }

    /// Runs `task`, which may decode the start of a member, in the pool that decodes spans.
    pub(crate) fn spawn(&self, task: impl FnOnce() + Send + 'static) {
        self.shared.decode.spawn(task);
    }
}
