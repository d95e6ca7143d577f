//! Keeps containers open, within limits on their number and memory.
//!
//! Remembers whether a file is a container for as long as the file's generation stays the same. A
//! directory of archives can therefore be listed again without opening them, and a file that is not
//! an archive is not parsed each time.

use std::{
    fs::{self, File},
    io,
    num::NonZeroUsize,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lru::LruCache;
use rustix::fs::{AtFlags, StatxFlags};

use super::attr::Stat;
use crate::{
    archive::{self, Container, Device, Format, Generation, SourceFile},
    serve::{OpenContainer, Server},
    sync::Mutex,
};

/// A file that takes more bytes of memory to parse than this is large: an archive of some 3,000
/// members, or one whose names (1 MiB in all) make a quarter of a million directories, which takes
/// most of a second.
const LARGE: u64 = 256 << 10;

/// A file that takes more bytes of memory to parse than this is huge: an archive of some 50,000
/// members.
const HUGE: u64 = 4 << 20;

/// How long opening a file takes, if that is too long for a thread that receives requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// Milliseconds.
    Large,
    /// Seconds, after the huge files that came before have been parsed.
    Huge,
}

impl Weight {
    /// The weight of a file that takes `memory` bytes to parse. `None` if any thread may open it.
    pub(super) fn of(memory: u64) -> Option<Self> {
        if memory > HUGE {
            return Some(Self::Huge);
        }
        (memory > LARGE).then_some(Self::Large)
    }
}

/// Why a file was not opened.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// The caller does not wait for a file of this weight.
    Heavy(Weight),
    Io(io::Error),
}

impl From<io::Error> for NotOpened {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// How long opening a file is refused after there was not enough memory for it.
const REFUSED: Duration = Duration::from_secs(5);

/// How many refused files are remembered.
const MOST_REFUSED: NonZeroUsize = NonZeroUsize::new(1 << 10).expect("not zero");

/// A container, or why the file is not one.
pub(super) type Found = Result<Arc<OpenContainer>, Arc<archive::Error>>;

/// Device and inode number of a file, and the suffix of the format that its name suggests. The
/// suffix is part of the key because one file may have several names.
type FileKey = (Device, u64, &'static str);

/// Facts about files, by file; the least recently used are dropped.
type Remembered<T> = Mutex<LruCache<FileKey, Known<T>>>;

/// The containers that are open.
#[derive(Debug)]
pub(super) struct Containers {
    /// Open containers; each holds a file descriptor.
    open: Remembered<Arc<OpenContainer>>,
    /// Files that are not containers, and why.
    plain: Remembered<Arc<archive::Error>>,
    /// Files for which there was not enough memory: the time, and the reason.
    refused: Remembered<(Instant, String)>,
    /// Whether each archive gets a decoded archive (`--layout stored`).
    is_decoding: bool,
    /// Budget for all open containers, in bytes.
    memory: u64,
    /// How much of that budget is in use, in bytes.
    used: AtomicU64,
    /// Locked while a huge file is parsed. Parsing takes a multiple of the memory that is kept.
    parsing: Mutex<()>,
    /// How many files were parsed.
    #[cfg(test)]
    pub(super) parsed: AtomicU64,
}

#[derive(Debug, Clone)]
struct Known<T> {
    generation: Generation,
    what: T,
}

/// How many files that are not containers are remembered. Each takes some 150 bytes of memory, at
/// most 350.
const PLAIN: NonZeroUsize = NonZeroUsize::new(1 << 16).expect("not zero");

/// The key of the file with this generation.
fn key_of(generation: &Generation, format: &Format) -> FileKey {
    (generation.dev, generation.ino, format.suffix())
}

impl Containers {
    /// Keeps at most `files` containers open, with a budget of `memory` bytes. Lays out the decoded
    /// archives of all of them if `is_decoding`.
    pub(super) fn new(files: NonZeroUsize, memory: u64, is_decoding: bool) -> Self {
        Self {
            is_decoding,
            open: Mutex::new(LruCache::new(files)),
            plain: Mutex::new(LruCache::new(PLAIN)),
            refused: Mutex::new(LruCache::new(MOST_REFUSED)),
            memory,
            used: AtomicU64::new(0),
            parsing: Mutex::default(),
            #[cfg(test)]
            parsed: AtomicU64::new(0),
        }
    }

    /// Closes containers whose file was removed: they cannot be looked up, and while they are open
    /// their bytes stay on the disk. Open handles keep their containers open.
    pub(super) fn close_removed(&self) {
        let keys: Vec<_> = self.open.lock().iter().map(|(key, _)| *key).collect();
        for key in keys {
            // Only one container is held at a time: `give_up` closes none that somebody holds.
            let held = self.open.lock().peek(&key).map(|known| known.what.clone());
            let Some(container) = held else { continue };
            if !is_removed(container.container().source().file()) {
                continue;
            }
            let mut open = self.open.lock();
            let same = |known: &Known<Arc<OpenContainer>>| Arc::ptr_eq(&known.what, &container);
            let closed = if open.peek(&key).is_some_and(same) { open.pop(&key) } else { None };
            drop(open);
            if let Some(known) = closed {
                self.used.fetch_sub(known.what.container().memory(), Ordering::Relaxed);
            }
        }
    }

    /// Closes the least recently used containers that no handle holds, until `bytes` bytes of
    /// memory are freed. Returns how many were.
    pub(super) fn give_up(&self, bytes: u64) -> u64 {
        let mut given = 0;
        let mut closed = Vec::new();
        let mut open = self.open.lock();
        let idle = open.iter().rev().filter(|(_, known)| Arc::strong_count(&known.what) == 1);
        let keys = idle.map(|(key, known)| (*key, known.what.container().memory())).take_while(
            |(_, memory)| {
                let is_needed = given < bytes;
                given += if is_needed { *memory } else { 0 };
                is_needed
            },
        );
        let keys: Vec<_> = keys.collect();
        for (key, memory) in keys {
            self.used.fetch_sub(memory, Ordering::Relaxed);
            closed.extend(open.pop(&key));
        }
        drop(open);
        given
    }

    /// Closes the least recently used container, to free a descriptor. `false` if none is open.
    pub(super) fn close_oldest(&self) -> bool {
        let closed = self.open.lock().pop_lru();
        if let Some((_, known)) = &closed {
            self.used.fetch_sub(known.what.container().memory(), Ordering::Relaxed);
        }
        closed.is_some()
    }

    /// Whether the file of this `stat` is a container, if that is known.
    pub(super) fn known(&self, stat: &Stat, format: &Format) -> Option<Found> {
        let generation = stat.generation();
        let key = key_of(&generation, format);
        if let Some(known) = self.plain.lock().get(&key)
            && known.generation == generation
        {
            return Some(Err(known.what.clone()));
        }
        let known = self.open.lock().get(&key)?.clone();
        if known.generation == generation {
            return Some(Ok(known.what));
        }
        // A rename, a new link or chmod changes only the ctime. If only that differs, the
        // fingerprint of the file is compared.
        let renamed = Generation { ctime: known.generation.ctime, ..generation };
        if renamed != known.generation || known.what.container().source().check().is_err() {
            return None;
        }
        // Another thread may have closed or replaced the container meanwhile.
        if let Some(entry) = self.open.lock().peek_mut(&key)
            && Arc::ptr_eq(&entry.what, &known.what)
        {
            entry.generation = generation;
        }
        Some(Ok(known.what))
    }

    /// Whether the file is remembered, in any generation, as a container or as none.
    pub(super) fn remembers(&self, dev: Device, ino: u64, format: &Format) -> bool {
        let key = (dev, ino, format.suffix());
        self.open.lock().contains(&key) || self.plain.lock().contains(&key)
    }

    /// Whether a file is a container, and the stat of the examined file. If the answer is not
    /// known, opens the file with `open`. Calls `warn` at most once, with a warning for the log.
    pub(super) fn find(
        &self,
        stat: Stat,
        format: &Format,
        server: &Server,
        waits: bool,
        open: impl FnOnce() -> io::Result<(File, Stat)>,
        warn: impl FnOnce(&str),
    ) -> Result<(Found, Stat), NotOpened> {
        if let Some(found) = self.known(&stat, format) {
            return Ok((found, stat));
        }
        self.check_refused(&stat, format)?;
        // The file may have been replaced after `stat` was taken: use the stat of the opened file.
        let (file, stat) = open()?;
        Ok((self.examine(file, &stat, format, server, waits, warn)?, stat))
    }

    /// Fails if there was not enough memory for the file in the last 5 seconds (`REFUSED`). Without
    /// this, listing a directory of such files would parse each of them in vain.
    fn check_refused(&self, stat: &Stat, format: &Format) -> io::Result<()> {
        let generation = stat.generation();
        let mut refused = self.refused.lock();
        match refused.get(&key_of(&generation, format)) {
            Some(Known { generation: of, what: (when, why) })
                if *of == generation && when.elapsed() < REFUSED =>
            {
                Err(io::Error::new(io::ErrorKind::OutOfMemory, why.as_str()))
            }
            _ => Ok(()),
        }
    }

    /// Parses an open file unless the result is known. Returns the container, or why the file is
    /// not one. `stat` must be the stat of `file` itself, not of its path. If the file is large or
    /// huge ([`Weight`]) and `waits` is not set, returns `Heavy` instead of parsing it.
    pub(super) fn examine(
        &self,
        file: File,
        stat: &Stat,
        format: &Format,
        server: &Server,
        waits: bool,
        warn: impl FnOnce(&str),
    ) -> Result<Found, NotOpened> {
        if let Some(found) = self.known(stat, format) {
            return Ok(found);
        }
        let generation = stat.generation();
        let key = key_of(&generation, format);
        let (source, tail) = SourceFile::with_tail(file, generation)?;
        let memory = format.memory(&source, &tail);
        let weight = Weight::of(memory);
        if let Some(weight) = weight.filter(|_| !waits) {
            return Err(NotOpened::Heavy(weight));
        }
        let parsing = (weight == Some(Weight::Huge)).then(|| self.parsing.lock());
        if parsing.is_some() {
            // Another thread may have parsed the file meanwhile.
            if let Some(found) = self.known(stat, format) {
                return Ok(found);
            }
            self.check_refused(stat, format)?;
            self.shrink_to(self.memory.saturating_sub(memory));
        }
        match self.parse(format, source, tail, server) {
            Ok(container) => {
                let container = OpenContainer::new(container, server);
                // If another thread has opened the file meanwhile, use its container, which may
                // have indexes.
                if let Some(Ok(first)) = self.known(stat, format) {
                    return Ok(Ok(first));
                }
                container.container().warning().map(warn);
                let known = Known { generation, what: container.clone() };
                self.used.fetch_add(container.container().memory(), Ordering::Relaxed);
                let evicted = self.open.lock().push(key, known);
                if let Some((_, known)) = evicted {
                    self.used.fetch_sub(known.what.container().memory(), Ordering::Relaxed);
                }
                self.shrink_to(self.memory);
                Ok(Ok(container))
            }
            Err(archive::Error::Io(error)) => {
                if error.kind() == io::ErrorKind::OutOfMemory {
                    let what = (Instant::now(), error.to_string());
                    self.refused.lock().put(key, Known { generation, what });
                }
                Err(error.into())
            }
            Err(error) => {
                let why = Arc::new(error.shortened());
                self.plain.lock().put(key, Known { generation, what: why.clone() });
                Ok(Err(why))
            }
        }
    }

    /// Whether `used` equals the memory of the open containers.
    #[cfg(test)]
    pub(super) fn is_counted_right(&self) -> bool {
        let open = self.open.lock();
        let sum: u64 = open.iter().map(|(_, known)| known.what.container().memory()).sum();
        sum == self.used.load(Ordering::Relaxed)
    }

    /// Calls `work` with each open container.
    pub(super) fn for_each(&self, work: impl Fn(&OpenContainer)) {
        let open: Vec<_> = self.open.lock().iter().map(|(_, known)| known.what.clone()).collect();
        open.iter().for_each(|container| work(container));
    }

    /// Parses a file. The memory that parsing takes is reserved until this returns.
    fn parse(
        &self,
        format: &Format,
        source: SourceFile,
        tail: Vec<u8>,
        server: &Server,
    ) -> Result<Container, archive::Error> {
        #[cfg(test)]
        self.parsed.fetch_add(1, Ordering::Relaxed);
        let mut reserved = Vec::new();
        let mut grow = |bytes| {
            reserved.push(server.reserve_memory(bytes)?);
            Ok(())
        };
        let mut container = format.parse(Arc::new(source), tail, &mut grow)?;
        if self.is_decoding {
            container.lay_out_decoded(&mut grow)?;
        }
        Ok(container)
    }

    /// Closes the least recently used containers until the others take at most `memory` bytes.
    fn shrink_to(&self, memory: u64) {
        let mut closed = Vec::new();
        let mut open = self.open.lock();
        // The newest container stays open, whatever its size, because it is about to be used.
        while self.used.load(Ordering::Relaxed) > memory && open.len() > 1 {
            let Some((_, known)) = open.pop_lru() else { break };
            self.used.fetch_sub(known.what.container().memory(), Ordering::Relaxed);
            closed.push(known);
        }
        drop(open);
    }
}

/// Whether a file was removed. The cached attributes of a network filesystem are enough: asking its
/// server about thousands of files would take seconds. Some filesystems do not count links, so the
/// slower /proc is asked too.
fn is_removed(file: &File) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    // If statx(2) fails, the file counts as not removed.
    rustix::fs::statx(file, c"", flags, StatxFlags::NLINK).is_ok_and(|stat| stat.stx_nlink == 0)
        && fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .is_ok_and(|path| path.as_os_str().as_bytes().ends_with(b" (deleted)"))
}
