//! The byte budget that readers share.
//!
//! `Memory` counts what everything takes and decides what has to go. `cache` has the decoded spans,
//! `pool` what is used again instead of allocated.

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

/// Bytes that the decoded spans and the windows of all its readers may take together.
///
/// Decoded spans are dropped least recently used first, or one of the oldest whose buffer the next
/// can be decoded into; windows are counted first. When windows, checkpoints and paused decoders
/// take more than a quarter, readers that advance pack theirs; when more than half, the reader that
/// has most of them gives up every other window, which makes its reads slower, not wrong. Windows
/// of a saved index are not counted. A span that somebody still holds is no longer counted once it
/// is dropped from here.
pub struct Memory {
    limit: AtomicU64,
    state: Mutex<State>,
}

/// Names a reader among those of one `Memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ReaderId(u64);

struct State {
    next_reader: u64,
    cache: Cache,
    pool: Pool,
    indexes: HashMap<ReaderId, IndexUse>,
    index_bytes: u64,
    /// Set aside for decoding ahead.
    reserved_bytes: u64,
}

/// Bytes of the budget that are set aside, until this is dropped.
pub(crate) struct Reserved {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.memory.lock().reserved_bytes -= self.bytes;
    }
}

/// What takes memory that the budget can ask back: the index of a reader.
pub(crate) trait Thin: Send + Sync + 'static {
    /// Gives up memory, if there is any to give up. Returns the bytes that are still held.
    fn thin(&self) -> u64;
}

struct IndexUse {
    bytes: u64,
    /// Asked to take less, and could not.
    least: bool,
    index: Weak<dyn Thin>,
}

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

    /// Bytes in use now: cached spans, windows, checkpoints, paused decoders, and what was decoded
    /// ahead of the frontier.
    #[must_use]
    pub fn used(&self) -> u64 {
        let state = self.lock();
        state.taken()
    }

    /// Drops all cached spans.
    pub fn clear(&self) {
        let mut state = self.lock();
        let dropped = (std::mem::take(&mut state.cache), state.pool.take_spares());
        drop(state);
        drop(dropped);
    }

    /// The budget in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes the budget to `limit` bytes, and drops the spans that are too many by it. Windows
    /// that are too many are given up when one of their readers advances.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        let mut state = self.lock();
        let dropped = state.fit(limit);
        drop(state);
        drop(dropped);
    }

    /// Whether indexes take so much that they had better be packed: a half of what they may.
    pub(crate) fn is_tight(&self) -> bool {
        self.lock().index_bytes > self.limit() / 4
    }

    /// A name for one more reader.
    pub(crate) fn add_reader(&self) -> ReaderId {
        let mut state = self.lock();
        state.next_reader += 1;
        ReaderId(state.next_reader)
    }

    /// Forgets a reader with all its spans.
    pub(crate) fn remove_reader(&self, reader: ReaderId) {
        let mut state = self.lock();
        if let Some(index) = state.indexes.remove(&reader) {
            state.index_bytes -= index.bytes;
        }
        let dropped = state.cache.remove_reader(reader);
        drop(state);
        drop(dropped);
    }

    /// Drops a reader's spans.
    pub(crate) fn remove_spans(&self, reader: ReaderId) {
        // The lock is gone before the spans are freed.
        let dropped = self.lock().cache.remove_reader(reader);
        drop(dropped);
    }

    /// Drops a reader's spans with these numbers; a few of their buffers wait for the next span.
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

    /// A cached span, left where it is in the order of use.
    pub(crate) fn peek(&self, reader: ReaderId, number: usize) -> Option<Span> {
        self.lock().cache.peek(reader, number)
    }

    /// Caches a span, unless it is larger than all that is left.
    pub(crate) fn insert(&self, reader: ReaderId, number: usize, span: &Span) {
        let bytes = span.memory();
        let mut state = self.lock();
        if state.index_bytes + state.reserved_bytes + bytes > self.limit() {
            return;
        }
        let replaced = state.cache.insert(reader, number, span.clone());
        let dropped = state.fit(self.limit());
        drop(state);
        drop((replaced, dropped));
    }

    /// A buffer of at least `len` initialised bytes, by preference that of a span which has to
    /// go anyway: fresh pages cost several times the fastest decode.
    pub(crate) fn buffer(&self, len: usize) -> (Vec<u8>, Lent<'_>) {
        // Spans end up to a match too far: then a buffer would be too short for the next.
        let len = len.next_multiple_of(PAGE);
        let mut state = self.lock();
        let used = state.used_buffer(len, self.limit());
        let bytes = used.as_ref().map_or(len, Vec::capacity) as u64;
        state.pool.lent_bytes += bytes;
        drop(state);
        (used.unwrap_or_else(|| vec![0; len]), Lent { memory: self, bytes })
    }

    /// Bytes that are set aside.
    pub(crate) fn reserved(&self) -> u64 {
        self.lock().reserved_bytes
    }

    /// Sets bytes aside, unless more than `most` would be.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64, most: u64) -> Option<Reserved> {
        let state = self.lock();
        let fits = state.reserved_bytes + bytes <= most;
        fits.then(|| self.set_aside(state, bytes))
    }

    /// Sets bytes aside that are taken in any case.
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

    /// Counts what the index of a reader takes now, and makes room for it.
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

        // Indexes are thinned without this lock: theirs may be held by somebody who wants it.
        while grown && state.index_bytes > self.limit() / 2 {
            let largest = state.indexes.iter().filter(|(_, index)| !index.least);
            let largest = largest.max_by_key(|(_, index)| index.bytes);
            let Some((&reader, index)) = largest else { break };
            let index = index.index.clone();
            drop(state);
            let bytes = index.upgrade().map(|index| index.thin());
            state = self.lock();
            // It may have been dropped in the meantime.
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

    /// What packs windows of a stream.
    pub(crate) fn packer(&self, format: Format, encoded: Range<u64>) -> Box<Packer> {
        // The lock is gone before anything is allocated.
        let kept = self.lock().pool.packer.take();
        match kept {
            Some(mut packer) => {
                packer.turn_to(format, encoded);
                packer
            }
            None => Box::new(Packer::new(format, encoded)),
        }
    }

    /// Keeps what packs windows for the next stream.
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

    /// A buffer of `len` bytes or a little more that was used before: a spare one, or that of a
    /// span that has to go. Buffers that others decode into count as spans, which they will be:
    /// else one of two threads would find room for a fresh one each time.
    fn used_buffer(&mut self, len: usize, limit: u64) -> Option<Vec<u8>> {
        if let Some(buffer) = self.pool.take(len) {
            return Some(buffer);
        }
        let is_full = |state: &Self| state.taken() + state.pool.lent_bytes + len as u64 > limit;
        if is_full(self) {
            // Rather than spans: none of them fits.
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

    /// Takes out spans until all fits into `limit`; they are freed when the lock is gone.
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
