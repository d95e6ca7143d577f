//! The byte budget that several readers share.
//!
//! `Memory` counts the bytes and decides which spans and windows are dropped. `cache` holds the
//! decoded spans, `pool` the buffers that are used again.

mod cache;
mod pool;

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use cache::Cache;
pub(crate) use pool::Lent;
use pool::{PAGE, Pool, serves};

use crate::{
    Format, Span,
    sync::{Mutex, MutexGuard},
    windows::Packer,
};

/// A budget in bytes for the decoded spans and the indexes of all its readers.
///
/// Decoded spans are dropped to keep the budget: the least recently used span, or another of the
/// oldest spans if its buffer has the size that the next span needs. Indexes (checkpoints, windows,
/// paused decoders) may take half of the budget. When they take more than a quarter, readers pack
/// their windows as they advance. When they take more than half, the reader with the largest index
/// gives up every other window: its reads get slower, not wrong. Windows of a saved index take no
/// memory. A span that was dropped does not count, even while a caller still holds it.
pub struct Memory {
    limit: AtomicU64,
    state: Mutex<State>,
}

/// Identifies a reader among the readers of one `Memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ReaderId(u64);

struct State {
    next_reader: u64,
    cache: Cache,
    pool: Pool,
    indexes: HashMap<ReaderId, IndexUse>,
    index_bytes: u64,
    /// Bytes that are set aside for speculation.
    reserved_bytes: u64,
}

/// Bytes of the budget that are set aside until this value is dropped.
pub(crate) struct Reserved {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.memory.lock().reserved_bytes -= self.bytes;
    }
}

/// An index that can give up memory.
pub(crate) trait Thin: Send + Sync + 'static {
    /// Gives up some memory if it can. Returns the bytes that it still holds.
    fn thin(&self) -> u64;
}

struct IndexUse {
    bytes: u64,
    /// Whether the index had nothing to give up when it was last asked.
    least: bool,
    index: Weak<dyn Thin>,
}

/// The part of the budget that kept buffers of replies may take: a sixteenth.
const REPLIES: u64 = 16;

impl Memory {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.into(),
            state: Mutex::new(State {
                next_reader: 0,
                cache: Cache::default(),
                pool: Pool::default(),
                indexes: HashMap::new(),
                index_bytes: 0,
                reserved_bytes: 0,
            }),
        })
    }

    /// Bytes in use now: cached spans, indexes, spare buffers, and bytes reserved for speculation.
    #[must_use]
    pub fn used(&self) -> u64 {
        let state = self.lock();
        state.taken()
    }

    /// Drops all cached spans, and the idle buffers of spans.
    pub fn clear(&self) {
        let mut state = self.lock();
        let buffers = (state.pool.take_spares(), state.pool.trim_replies(0));
        let dropped = (std::mem::take(&mut state.cache), buffers);
        drop(state);
        drop(dropped);
    }

    /// The budget in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes the budget to `limit` bytes and drops spans that no longer fit. Windows that no
    /// longer fit are given up when a reader advances.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        let mut state = self.lock();
        let dropped = (state.pool.trim_replies(limit / REPLIES), state.fit(limit));
        drop(state);
        drop(dropped);
    }

    /// Whether indexes take more than a quarter of the budget, so that readers should pack windows.
    pub(crate) fn is_tight(&self) -> bool {
        self.lock().index_bytes > self.limit() / 4
    }

    /// An identity for a new reader.
    pub(crate) fn add_reader(&self) -> ReaderId {
        let mut state = self.lock();
        state.next_reader += 1;
        ReaderId(state.next_reader)
    }

    /// Drops the spans of a reader and stops counting its index.
    pub(crate) fn remove_reader(&self, reader: ReaderId) {
        let mut state = self.lock();
        if let Some(index) = state.indexes.remove(&reader) {
            state.index_bytes -= index.bytes;
        }
        let dropped = state.cache.remove_reader(reader);
        drop(state);
        drop(dropped);
    }

    pub(crate) fn remove_spans(&self, reader: ReaderId) {
        // The lock is released before the spans are freed.
        let dropped = self.lock().cache.remove_reader(reader);
        drop(dropped);
    }

    /// Drops a reader's spans with these numbers. A few of their buffers are kept for the next
    /// spans.
    pub(crate) fn give_up(&self, reader: ReaderId, numbers: Range<usize>) {
        let mut state = self.lock();
        let mut dropped = Vec::new();
        for number in numbers {
            let Some(span) = state.cache.remove(reader, number) else { continue };
            if let Some(buffer) = span.into_buffer() {
                dropped.extend(state.pool.keep(buffer));
            }
        }
        drop(state);
        drop(dropped);
    }

    /// A cached span, which becomes the most recently used.
    pub(crate) fn span(&self, reader: ReaderId, number: usize) -> Option<Span> {
        self.lock().cache.get(reader, number)
    }

    /// A cached span. Its place in the order of use stays the same.
    pub(crate) fn peek(&self, reader: ReaderId, number: usize) -> Option<Span> {
        self.lock().cache.peek(reader, number)
    }

    /// Caches a span, unless indexes and speculation leave no room for it.
    pub(crate) fn insert(&self, reader: ReaderId, number: usize, span: &Span) {
        let bytes = span.memory();
        let mut state = self.lock();
        if state.index_bytes + state.reserved_bytes + bytes > self.limit() {
            return;
        }
        // A part of the span, whose rest has been decoded into another buffer.
        let replaced = state.cache.insert(reader, number, span.clone());
        let left = replaced.and_then(Span::into_buffer).and_then(|buffer| state.pool.keep(buffer));
        let dropped = state.fit(self.limit());
        drop(state);
        drop((left, dropped));
    }

    /// A buffer of at least `len` initialised bytes: a spare one, or the buffer of a span that has
    /// to be dropped, or else a fresh one. The page faults of a fresh buffer cost several times the
    /// fastest decode.
    pub(crate) fn buffer(&self, len: usize) -> (Vec<u8>, Lent<'_>) {
        // Lengths of spans differ by up to the length of a match, so a buffer of the exact length
        // would seldom fit the next span.
        let len = len.next_multiple_of(PAGE);
        let mut state = self.lock();
        let used = state.used_buffer(len, self.limit());
        let bytes = used.as_ref().map_or(len, Vec::capacity) as u64;
        state.pool.lent_bytes += bytes;
        drop(state);
        (used.unwrap_or_else(|| vec![0; len]), Lent { memory: self, bytes })
    }

    /// An empty buffer with room for a reply of `len` bytes that is collected from parts: a kept
    /// buffer if there is one, since fresh buffers cost page faults. Give it to
    /// [`keep_reply_buffer`](Self::keep_reply_buffer) once the reply is sent.
    #[must_use]
    pub fn reply_buffer(&self, len: usize) -> Vec<u8> {
        let kept = self.lock().pool.take_reply();
        let mut buffer = kept.unwrap_or_default();
        buffer.clear();
        buffer.reserve_exact(len);
        buffer
    }

    /// Keeps the buffer of a reply for later replies. Kept buffers take a sixteenth of the budget
    /// at most: in 64 MiB, four of the kernel's longest reads. They are kept even while spans are
    /// dropped: a server that has run for a while is always at its budget.
    pub fn keep_reply_buffer(&self, buffer: Vec<u8>) {
        let mut state = self.lock();
        let left = state.pool.keep_reply(buffer, self.limit() / REPLIES);
        let dropped = state.fit(self.limit());
        drop(state);
        drop((left, dropped));
    }

    /// Bytes of the budget that are set aside for speculation.
    pub(crate) fn reserved(&self) -> u64 {
        self.lock().reserved_bytes
    }

    /// Sets bytes aside, unless all bytes set aside would then exceed `most`.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64, most: u64) -> Option<Reserved> {
        let state = self.lock();
        let fits = state.reserved_bytes + bytes <= most;
        fits.then(|| self.set_aside(state, bytes))
    }

    /// Sets bytes aside, even above the budget: for memory that is allocated in any case.
    pub(crate) fn reserve_anyway(self: &Arc<Self>, bytes: u64) -> Reserved {
        self.set_aside(self.lock(), bytes)
    }

    fn set_aside(self: &Arc<Self>, mut state: MutexGuard<'_, State>, bytes: u64) -> Reserved {
        state.reserved_bytes += bytes;
        let dropped = state.fit(self.limit());
        drop(state);
        drop(dropped);
        Reserved { memory: Arc::clone(self), bytes }
    }

    /// Sets the bytes that the index of a reader takes, and makes room for them.
    pub(crate) fn set_index(&self, reader: ReaderId, index: &Arc<impl Thin>, bytes: u64) {
        let mut state = self.lock();
        let index = state.indexes.entry(reader).or_insert_with(|| {
            let index = Arc::downgrade(index) as Weak<dyn Thin>;
            IndexUse { bytes: 0, least: false, index }
        });
        let grown = bytes > index.bytes;
        index.least &= !grown;
        let before = std::mem::replace(&mut index.bytes, bytes);
        state.index_bytes = state.index_bytes - before + bytes;

        // `thin` takes the lock of the index, and the thread that holds that lock may wait for this
        // one: so this lock is released first.
        while grown && state.index_bytes > self.limit() / 2 {
            let largest = state.indexes.iter().filter(|(_, index)| !index.least);
            let largest = largest.max_by_key(|(_, index)| index.bytes);
            let Some((&reader, index)) = largest else { break };
            let index = index.index.clone();
            drop(state);
            let bytes = index.upgrade().map(|index| index.thin());
            state = self.lock();
            // The reader may have been removed meanwhile.
            if let Some(index) = state.indexes.get_mut(&reader) {
                let bytes = bytes.unwrap_or(index.bytes);
                index.least = bytes >= index.bytes;
                let before = std::mem::replace(&mut index.bytes, bytes);
                state.index_bytes = state.index_bytes - before + bytes;
            }
        }
        let dropped = state.fit(self.limit());
        drop(state);
        drop(dropped);
    }

    /// A packer for windows of a stream.
    pub(crate) fn packer(&self, format: Format, encoded: Range<u64>) -> Box<Packer> {
        // The lock is released before anything is allocated.
        let kept = self.lock().pool.packer.take();
        match kept {
            Some(mut packer) => {
                packer.turn_to(format, encoded);
                packer
            }
            None => Box::new(Packer::new(format, encoded)),
        }
    }

    /// Keeps a packer, so that the next stream can use it.
    pub(crate) fn keep_packer(&self, packer: Box<Packer>) {
        let before = self.lock().pool.packer.replace(packer);
        drop(before);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn taken(&self) -> u64 {
        self.cache.bytes() + self.index_bytes + self.reserved_bytes + self.pool.spare_bytes()
    }

    /// An existing buffer for `len` bytes: a spare one, or that of a span that has to be dropped.
    /// Lent buffers count as if they were cached spans already: otherwise two threads that
    /// alternate would find room for a fresh buffer each time.
    fn used_buffer(&mut self, len: usize, limit: u64) -> Option<Vec<u8>> {
        if let Some(buffer) = self.pool.take(len) {
            return Some(buffer);
        }
        let is_full = |state: &Self| state.taken() + state.pool.lent_bytes + len as u64 > limit;
        if is_full(self) {
            // No spare buffer has a fitting size, so the spare ones are freed before spans are
            // dropped.
            drop(self.pool.take_spares());
        }
        while is_full(self) {
            let span = self.cache.pop_like(|held| serves(held, len))?;
            let buffer = span.into_buffer().filter(|buffer| serves(buffer.len(), len));
            if buffer.is_some() {
                return buffer;
            }
        }
        None
    }

    /// Removes spans until everything fits into `limit`. The caller frees them after it has
    /// released the lock.
    fn fit(&mut self, limit: u64) -> Vec<Span> {
        let mut dropped = Vec::new();
        if self.taken() > limit {
            drop(self.pool.take_spares());
        }
        while self.taken() > limit {
            let Some(span) = self.cache.pop_oldest() else { break };
            dropped.push(span);
        }
        dropped
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("limit", &self.limit())
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
