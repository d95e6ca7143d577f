//! The archives that are open, under limits of number and memory.
//!
//! What a file turned out to be is remembered for its generation, so that a directory of archives
//! can be listed again without opening any, and one that is no archive is not tried each time.

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
    archive::{self, Archive, Generation, NpyGz, SourceFile},
    serve::{OpenArchive, OpenNpyGz, Server},
    sync::Mutex,
};

/// What an open `.npy.gz` takes, in bytes, if some of them have been read.
const NPY_GZ_MEMORY: u64 = 4 << 10;

/// A file that takes more memory, in bytes, is slow to open: an archive of some 3,000 members, or one that
/// asks for a quarter of a million directories in a MiB of names, which takes most of a second.
const SLOW: u64 = 256 << 10;

/// A file that takes more memory, in bytes, is heavy: an archive of some 50,000 members.
const HEAVY: u64 = 4 << 20;

/// How long a file is refused after there was no memory to open it.
const REFUSED: Duration = Duration::from_secs(5);

/// Most files that are refused at the same time.
const MOST_REFUSED: NonZeroUsize = NonZeroUsize::new(1 << 10).expect("not zero");

/// What a file can turn out to be.
pub(super) trait Container: Sized {
    /// Opens one; `tail` has been read with the source.
    fn open(
        source: Arc<SourceFile>,
        tail: Vec<u8>,
        server: &Server,
    ) -> Result<Self, archive::Error>;
    /// The file.
    fn source(&self) -> &SourceFile;
    /// About how many bytes of memory it takes, always the same; indexes are counted elsewhere.
    fn memory(&self) -> u64;
    /// About how many it will take, by the end of its file.
    fn memory_by(source: &SourceFile, tail: &[u8]) -> u64;
    /// What the user should know of it.
    fn warning(&self) -> Option<&str>;
}

impl Container for OpenArchive {
    fn open(
        source: Arc<SourceFile>,
        tail: Vec<u8>,
        server: &Server,
    ) -> Result<Self, archive::Error> {
        let mut reserved = Vec::new();
        let mut grow = |bytes| {
            reserved.push(server.reserve_memory(bytes)?);
            Ok(())
        };
        Ok(Self::new(Archive::parse(source, tail, &mut grow)?, server))
    }

    fn source(&self) -> &SourceFile {
        self.archive().source()
    }

    fn memory(&self) -> u64 {
        self.archive().memory()
    }

    fn memory_by(source: &SourceFile, tail: &[u8]) -> u64 {
        // A header has 46 bytes and a name; what is kept of it takes about as much and half.
        Archive::directory_len(source, tail).saturating_mul(3) / 2
    }

    fn warning(&self) -> Option<&str> {
        self.archive().warning()
    }
}

impl Container for OpenNpyGz {
    fn open(
        source: Arc<SourceFile>,
        _tail: Vec<u8>,
        server: &Server,
    ) -> Result<Self, archive::Error> {
        Ok(Self::new(NpyGz::open(source)?, server))
    }

    fn source(&self) -> &SourceFile {
        self.npy().source()
    }

    fn memory(&self) -> u64 {
        NPY_GZ_MEMORY
    }

    fn memory_by(_source: &SourceFile, _tail: &[u8]) -> u64 {
        NPY_GZ_MEMORY
    }

    fn warning(&self) -> Option<&str> {
        None
    }
}

/// A container, or why the file is not one.
pub(super) type Found<C> = Result<Arc<C>, Arc<archive::Error>>;

/// By device and inode number of the file.
type Remembered<T> = Mutex<LruCache<(u64, u64), Known<T>>>;

/// The containers of one kind that are open.
#[derive(Debug)]
pub(super) struct Containers<C> {
    /// Each holds a file descriptor.
    open: Remembered<Arc<C>>,
    /// Files that are none, and why.
    plain: Remembered<Arc<archive::Error>>,
    /// Files that there was no memory for: when, and the reason.
    refused: Remembered<(Instant, String)>,
    /// Bytes that the open ones may take together, and take.
    memory: u64,
    used: AtomicU64,
    /// One heavy file at a time is parsed: that takes a multiple of what stays.
    parsing: Mutex<()>,
}

#[derive(Debug, Clone)]
struct Known<T> {
    generation: Generation,
    what: T,
}

/// Files that are remembered as none: 150 bytes each, 350 at most.
const PLAIN: NonZeroUsize = NonZeroUsize::new(1 << 16).expect("not zero");

impl<C: Container> Containers<C> {
    /// At most `files` of them, and `memory` bytes.
    pub fn new(files: NonZeroUsize, memory: u64) -> Self {
        Self {
            open: Mutex::new(LruCache::new(files)),
            plain: Mutex::new(LruCache::new(PLAIN)),
            refused: Mutex::new(LruCache::new(MOST_REFUSED)),
            memory,
            used: AtomicU64::new(0),
            parsing: Mutex::default(),
        }
    }

    /// Closes those whose file has no name any more: nobody can find them, and as long as they are
    /// open its bytes stay on the disk. Who holds a handle keeps his.
    pub fn close_removed(&self) {
        let open: Vec<_> =
            self.open.lock().iter().map(|(key, known)| (*key, known.what.clone())).collect();
        for (key, container) in open {
            if !is_removed(container.source().file()) {
                continue;
            }
            let mut open = self.open.lock();
            let same = |known: &Known<Arc<C>>| Arc::ptr_eq(&known.what, &container);
            let closed = if open.peek(&key).is_some_and(same) { open.pop(&key) } else { None };
            drop(open);
            if let Some(known) = closed {
                self.used.fetch_sub(known.what.memory(), Ordering::Relaxed);
            }
        }
    }

    /// Closes those that were least recently used and nobody else holds, until they took `bytes`
    /// together; returns what they took.
    pub fn give_up(&self, bytes: u64) -> u64 {
        let mut given = 0;
        let mut closed = Vec::new();
        let mut open = self.open.lock();
        let idle = open.iter().rev().filter(|(_, known)| Arc::strong_count(&known.what) == 1);
        let keys =
            idle.map(|(key, known)| (*key, known.what.memory())).take_while(|(_, memory)| {
                let is_needed = given < bytes;
                given += if is_needed { *memory } else { 0 };
                is_needed
            });
        let keys: Vec<_> = keys.collect();
        for (key, memory) in keys {
            self.used.fetch_sub(memory, Ordering::Relaxed);
            closed.extend(open.pop(&key));
        }
        drop(open);
        given
    }

    /// Closes the least recently used; `false` if none is open. For whoever lacks a descriptor.
    pub fn close_oldest(&self) -> bool {
        let closed = self.open.lock().pop_lru();
        if let Some((_, known)) = &closed {
            self.used.fetch_sub(known.what.memory(), Ordering::Relaxed);
        }
        closed.is_some()
    }

    /// What the file that `stat` is of turned out to be, if that is known.
    pub fn known(&self, stat: &Stat) -> Option<Found<C>> {
        let generation = stat.generation();
        let key = (generation.dev, generation.ino);
        if let Some(known) = self.plain.lock().get(&key)
            && known.generation == generation
        {
            return Some(Err(known.what.clone()));
        }
        let known = self.open.lock().get(&key)?.clone();
        if known.generation == generation {
            return Some(Ok(known.what));
        }
        // A rename, a new link or chmod changes the ctime only; the file then says itself that
        // its bytes are the same.
        let renamed = Generation { ctime: known.generation.ctime, ..generation };
        if renamed != known.generation || known.what.source().check().is_err() {
            return None;
        }
        // Unless it was closed meanwhile.
        if let Some(entry) = self.open.lock().peek_mut(&key)
            && Arc::ptr_eq(&entry.what, &known.what)
        {
            entry.generation = generation;
        }
        Some(Ok(known.what))
    }

    /// Whether anything is known of the file with these numbers, in whatever generation.
    pub fn remembers(&self, dev: u64, ino: u64) -> bool {
        self.open.lock().contains(&(dev, ino)) || self.plain.lock().contains(&(dev, ino))
    }

    /// What the file turned out to be, opening it with `open` if that is not known, and stat of
    /// the file it is true of. `warn` gets what is worth a line in the log, once.
    pub fn find(
        &self,
        stat: Stat,
        server: &Server,
        waits: bool,
        open: impl FnOnce() -> io::Result<(File, Stat)>,
        warn: impl FnOnce(&str),
    ) -> io::Result<(Found<C>, Stat)> {
        if let Some(found) = self.known(&stat) {
            return Ok((found, stat));
        }
        self.check_refused(&stat)?;
        // `stat` was taken a moment ago; what counts is the file that is opened.
        let (file, stat) = open()?;
        Ok((self.examine(file, &stat, server, waits, warn)?, stat))
    }

    /// Fails if there was no memory to open the file a moment ago. Without this, listing a directory of
    /// such files would parse each of them in vain.
    fn check_refused(&self, stat: &Stat) -> io::Result<()> {
        let generation = stat.generation();
        let mut refused = self.refused.lock();
        match refused.get(&(generation.dev, generation.ino)) {
            Some(Known { generation: of, what: (when, why) })
                if *of == generation && when.elapsed() < REFUSED =>
            {
                Err(io::Error::new(io::ErrorKind::OutOfMemory, why.as_str()))
            }
            _ => Ok(()),
        }
    }

    /// What an open file turns out to be; `stat` has just been taken of it. If it is slow to open, who does
    /// not wait gets `WouldBlock`.
    pub fn examine(
        &self,
        file: File,
        stat: &Stat,
        server: &Server,
        waits: bool,
        warn: impl FnOnce(&str),
    ) -> io::Result<Found<C>> {
        if let Some(found) = self.known(stat) {
            return Ok(found);
        }
        let generation = stat.generation();
        let key = (generation.dev, generation.ino);
        let (source, tail) = SourceFile::with_tail(file, generation)?;
        let memory = C::memory_by(&source, &tail);
        if memory > SLOW && !waits {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let parsing = (memory > HEAVY).then(|| self.parsing.lock());
        if parsing.is_some() {
            // Who waited for another to parse it finds it now.
            if let Some(found) = self.known(stat) {
                return Ok(found);
            }
            self.check_refused(stat)?;
            self.shrink_to(self.memory.saturating_sub(memory));
        }
        match C::open(Arc::new(source), tail, server) {
            Ok(container) => {
                let container = Arc::new(container);
                // Another thread may have opened it meanwhile: then its indexes are the ones.
                if let Some(Ok(first)) = self.known(stat) {
                    return Ok(Ok(first));
                }
                container.warning().map(warn);
                let known = Known { generation, what: container.clone() };
                self.used.fetch_add(container.memory(), Ordering::Relaxed);
                let evicted = self.open.lock().push(key, known);
                if let Some((_, known)) = evicted {
                    self.used.fetch_sub(known.what.memory(), Ordering::Relaxed);
                }
                self.shrink();
                Ok(Ok(container))
            }
            Err(archive::Error::Io(error)) => {
                if error.kind() == io::ErrorKind::OutOfMemory {
                    let what = (Instant::now(), error.to_string());
                    self.refused.lock().put(key, Known { generation, what });
                }
                Err(error)
            }
            Err(error) => {
                let why = Arc::new(error.shortened());
                self.plain.lock().put(key, Known { generation, what: why.clone() });
                Ok(Err(why))
            }
        }
    }

    /// Whether the memory of those that are open is what is counted.
    #[cfg(test)]
    pub fn is_counted_right(&self) -> bool {
        let open = self.open.lock();
        let sum: u64 = open.iter().map(|(_, known)| known.what.memory()).sum();
        sum == self.used.load(Ordering::Relaxed)
    }

    /// Calls `work` with each that is open.
    pub fn for_each(&self, work: impl Fn(&C)) {
        let open: Vec<_> = self.open.lock().iter().map(|(_, known)| known.what.clone()).collect();
        open.iter().for_each(|container| work(container));
    }

    /// Closes the least recently used until the memory is kept to.
    fn shrink(&self) {
        self.shrink_to(self.memory);
    }

    fn shrink_to(&self, memory: u64) {
        let mut closed = Vec::new();
        let mut open = self.open.lock();
        // The newest stays, whatever it takes: somebody is about to use it.
        while self.used.load(Ordering::Relaxed) > memory && open.len() > 1 {
            let Some((_, known)) = open.pop_lru() else { break };
            self.used.fetch_sub(known.what.memory(), Ordering::Relaxed);
            closed.push(known);
        }
        drop(open);
    }
}

/// Whether a file has no name any more. What a network filesystem knows of it is enough: to ask its
/// server for thousands would take seconds. Some filesystems count no links; so the kernel, which
/// is slower to tell, has the last word.
fn is_removed(file: &File) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    // A file that cannot be asked is not known to be gone.
    rustix::fs::statx(file, c"", flags, StatxFlags::NLINK).is_ok_and(|stat| stat.stx_nlink == 0)
        && fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
            .is_ok_and(|path| path.as_os_str().as_bytes().ends_with(b" (deleted)"))
}
