//! Speculative decoding: several threads work for one first pass.
//!
//! A DEFLATE stream has no marks that show where a block begins. Helper threads search beyond the
//! frontier for bits that look like a block header (`find`) and decode from there, before the
//! window is known (`chunk`, `markers`). When the frontier comes to a block header at exactly such
//! a bit, it takes over the bytes that the helper has decoded (`settled`), and all chunks that
//! follow without a gap (`chain`). Then any thread fills in the bytes of the window and computes
//! the checksums, span by span (`jobs`).
//!
//! The frontier neither waits for a chunk nor trusts one: it never reaches a chunk that does not
//! begin at a block header, and the chunk is dropped. Only the frontier decodes the end of the
//! stream and malformed data, so errors are the same as without help.
//!
//! This module starts no thread: helpers are the callers of `help`. On two cores a first pass is
//! 1.34 (sensor data), 1.63 (noise) and 1.27 times (text) as fast as on one thread;
//! docs/engine-notes.md has the experiments.

mod buffers;
mod chain;
mod chunk;
mod find;
mod jobs;
mod markers;
mod settled;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    ops::{Range, RangeInclusive},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

pub(crate) use chain::Plan;
pub(crate) use jobs::SpeculatedSpan;
pub(crate) use settled::Settled;

use crate::{
    BitOffset, ByteOffset, Memory, ReadAt,
    inflate::{HISTORY, Place},
    sync::Mutex,
};
use buffers::Buffers;
use chain::Chain;
use chunk::{Piece, Speculator, Worked};
use jobs::Claimed;
use watch::Watch;

/// When to decode speculatively, and how far beyond the frontier.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    /// Decoded bytes that the frontier must have passed before help is wanted: after them the reads
    /// are known to be in sequence, and the rate without help is known.
    pub(crate) warm_up: u64,
    /// Expected decoded length, by the ratio so far, of the shortest stream that gets help.
    pub(crate) least: u64,
    /// Streams of this ratio or a higher one get no help: they decode at the speed of memory
    /// anyway.
    pub(crate) highest_ratio: u64,
    /// Decoded bytes from the start of one chunk to the start of the next, at most.
    pub(crate) chunk: u64,
    /// Whether help pauses when it makes the pass no faster.
    pub(crate) watched: bool,
}

impl Tuning {
    pub(crate) const DEFAULT: Self =
        Self { warm_up: 8 << 20, least: 64 << 20, highest_ratio: 6, chunk: 4 << 20, watched: true };
}

/// The speculative decoding for one stream.
pub(crate) struct Speculation {
    tuning: Tuning,
    encoded: Range<u64>,
    /// Threads within `help`.
    helpers: AtomicUsize,
    /// Threads within `help` that have found work.
    busy: AtomicUsize,
    /// Whether a helper has worked since the last call of `advanced`.
    worked: AtomicBool,
    buffers: Buffers,
    state: Mutex<State>,
}

struct State {
    /// The slots in the order of their places in the stream.
    slots: Vec<Slot>,
    next_id: u64,
    chain: Chain,
    frontier: Frontier,
    watch: Watch,
    /// Decoded bytes that the frontier has taken over.
    #[cfg(test)]
    taken: u64,
}

/// The position of the frontier.
#[derive(Debug, Clone, Copy, Default)]
struct Frontier {
    encoded: ByteOffset,
    /// Decoded bytes before the frontier.
    decoded: u64,
}

impl Frontier {
    /// Encoded bytes that decode to `decoded` bytes at the ratio so far. Rounded down.
    fn encoded_len(self, decoded: u64) -> u64 {
        let encoded = u128::from(decoded) * u128::from(self.encoded.0);
        (encoded / u128::from(self.decoded.max(1))) as u64
    }

    /// Decoded bytes for each encoded byte.
    fn ratio(self) -> u64 {
        self.decoded / self.encoded.0.max(1)
    }
}

/// A chunk that is not part of the chain yet.
struct Slot {
    id: u64,
    /// The encoded byte at which the search for the chunk began.
    from: ByteOffset,
    /// The encoded byte up to which the chunk is searched or decoded.
    position: ByteOffset,
    /// The bit offsets at which the block header of the chunk may begin.
    found: Option<RangeInclusive<BitOffset>>,
    pieces: Vec<Arc<Piece>>,
    /// `None` while a helper works on the chunk.
    speculator: Option<Box<Speculator>>,
    ended: bool,
}

/// Work for a helper.
enum Task {
    Job(Claimed),
    Chunk { id: u64, speculator: Box<Speculator>, halt: ByteOffset },
}

/// Decoded bytes of the shortest chunk. A shorter chunk is not worth the search for its first
/// block, and the slow decoding of its first 32 KiB in units of two bytes. If the budget has no
/// room for a chunk for each helper, some helpers find nothing to do.
const LEAST_CHUNK: u64 = 1 << 20;

/// Pieces that a helper decodes in one call of `help`.
const TURN: usize = 4;

impl Speculation {
    pub(crate) fn new(tuning: Tuning, encoded: Range<u64>, memory: Arc<Memory>) -> Self {
        Self {
            tuning,
            encoded,
            helpers: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            worked: AtomicBool::new(false),
            buffers: Buffers::new(memory),
            state: Mutex::new(State {
                slots: Vec::new(),
                next_id: 0,
                chain: Chain::default(),
                frontier: Frontier::default(),
                watch: Watch::default(),
                #[cfg(test)]
                taken: 0,
            }),
        }
    }

    /// See `DeflateReader::help`.
    pub(crate) fn help(&self, source: &dyn ReadAt) -> bool {
        let _helper = Counted::new(&self.helpers);
        let Some(task) = self.task() else { return false };
        let _busy = Counted::new(&self.busy);
        self.worked.store(true, Ordering::Relaxed);
        match task {
            Task::Job(job) => {
                self.run(job, source);
                true
            }
            Task::Chunk { id, speculator, halt } => self.work(source, id, speculator, halt),
        }
    }

    /// See `Work::wants_help`.
    pub(crate) fn wants_help(&self) -> bool {
        let state = self.state.lock();
        state.chain.has_waiting()
            || self.is_worth_it(&state)
                && self.buffers.have_room()
                && (state.slots.iter().any(|slot| slot.speculator.is_some())
                    || self.next_from(&state).is_some())
    }

    fn task(&self) -> Option<Task> {
        let mut state = self.state.lock();
        if let Some(job) = state.chain.claim(&self.buffers.memory) {
            return Some(Task::Job(job));
        }
        if !self.is_worth_it(&state) {
            return None;
        }
        let number = match state.slots.iter().position(|slot| slot.speculator.is_some()) {
            Some(number) => number,
            None => self.add_slot(&mut state)?,
        };
        let halt = state.slots.get(number + 1).map_or(ByteOffset::MAX, |next| next.from);
        let slot = &mut state.slots[number];
        let speculator = slot.speculator.take()?;
        Some(Task::Chunk { id: slot.id, speculator, halt })
    }

    fn is_worth_it(&self, state: &State) -> bool {
        let Frontier { encoded, decoded } = state.frontier;
        let len = self.encoded.end - self.encoded.start;
        let whole = u128::from(len) * u128::from(decoded) / u128::from(encoded.0.max(1));
        decoded >= self.tuning.warm_up
            && state.frontier.ratio() < self.tuning.highest_ratio
            && whole >= u128::from(self.tuning.least)
            && (!self.tuning.watched || state.watch.is_on())
            && self.buffers.are_kept()
    }

    /// The encoded byte at which the search for the next chunk would begin, if there is room for a
    /// chunk.
    fn next_from(&self, state: &State) -> Option<ByteOffset> {
        // Two chunks for each helper: one that the helper decodes, and one that waits to be settled
        // and for its spans to be made.
        let helpers = self.helpers.load(Ordering::Relaxed) as u64;
        let capacity = self.buffers.capacity();
        let chunk = (capacity / (2 * helpers.max(1))).max(LEAST_CHUNK).min(self.tuning.chunk);
        // A chunk without markers takes half as much memory, so up to twice as many may fit.
        if chunk > capacity || state.slots.len() as u64 * chunk >= 2 * capacity {
            return None;
        }
        let distance = state.frontier.encoded_len(chunk) + 1;
        // Settled chunks are decoded already.
        let settled = state.chain.end().map_or(ByteOffset(0), |end| end.encoded.byte());
        let after_last = state.slots.last().map_or(ByteOffset(0), |last| {
            last.from.after(distance).max(last.position.after(distance / 2))
        });
        let from = state.frontier.encoded.max(settled).after(distance).max(after_last);
        (from.after(distance / 2).0 <= self.encoded.end - self.encoded.start).then_some(from)
    }

    /// Adds a slot for a chunk after the existing ones, if there is room for a chunk. Returns its
    /// index.
    fn add_slot(&self, state: &mut State) -> Option<usize> {
        let from = self.next_from(state)?;
        state.next_id += 1;
        state.slots.push(Slot {
            id: state.next_id,
            from,
            position: from,
            found: None,
            pieces: Vec::new(),
            speculator: Some(Box::new(Speculator::new(self.encoded.clone(), from))),
            ended: false,
        });
        Some(state.slots.len() - 1)
    }

    /// Works on a chunk. Returns `false` if there is no memory for it.
    fn work(
        &self,
        source: &dyn ReadAt,
        id: u64,
        mut speculator: Box<Speculator>,
        halt: ByteOffset,
    ) -> bool {
        // A panic loses the speculator, so the chunk is marked as ended.
        let _guard = Unfinished { speculation: self, id };
        for _ in 0..TURN {
            let worked = speculator.work(source, halt, &self.buffers);
            let starved = matches!(worked, Worked::Starved);
            let mut state = self.state.lock();
            // The slot is gone if the frontier has taken the chunk over.
            let Some(slot) = state.slots.iter_mut().find(|slot| slot.id == id) else { return true };
            slot.position = speculator.position();
            match worked {
                Worked::Found(found) => slot.found = Some(found),
                Worked::Piece(piece) => slot.pieces.push(piece),
                Worked::Search => slot.found = None,
                Worked::Starved => {}
                Worked::Ended => {
                    slot.ended = true;
                    self.settle_complete(&mut state);
                    return true;
                }
            }
            if starved {
                slot.speculator = Some(speculator);
                return false;
            }
        }
        if let Some(slot) = self.state.lock().slots.iter_mut().find(|slot| slot.id == id) {
            slot.speculator = Some(speculator);
        }
        true
    }

    /// The first place where the frontier may reach a chunk.
    pub(crate) fn next_start(&self) -> BitOffset {
        let state = self.state.lock();
        let starts = state.slots.iter().filter_map(|slot| slot.found.as_ref());
        starts.map(|found| *found.start()).min().unwrap_or(BitOffset(u64::MAX))
    }

    /// Settles the chunk that begins at the frontier, which is at a block header with `window`
    /// before it.
    pub(crate) fn meet(&self, position: BitOffset, decoded: u64, window: &[u8], plan: Plan) {
        let mut state = self.state.lock();
        // The slot is removed even if its chunk is of no use (shortly after the start of a gzip
        // member the window is too short): otherwise the frontier would stop there again.
        let met = self.take_slot(&mut state, position);
        let is_of_use = |pieces: &Vec<_>| !pieces.is_empty() && window.len() == HISTORY;
        if let Some(pieces) = met.filter(is_of_use) {
            let chunk = state.settle(self, pieces, decoded, window);
            let before = state.chain.begin(chunk, plan);
            before.into_iter().for_each(|chunk| self.recycle(chunk));
            self.settle_complete(&mut state);
        }
    }

    /// Settles complete chunks that begin where the chain ends.
    fn settle_complete(&self, state: &mut State) {
        while let Some(end) = state.chain.end().filter(|end| end.place == Place::BlockHeader) {
            let is_complete = |slot: &Slot| slot.ended && !slot.pieces.is_empty();
            let mut slots = state.slots.iter();
            if !slots.any(|slot| slot.begins_at(end.encoded) && is_complete(slot)) {
                return;
            }
            let (Some(pieces), Some(window)) =
                (self.take_slot(state, end.encoded), state.chain.window())
            else {
                return;
            };
            let chunk = state.settle(self, pieces, end.decoded, &window);
            state.chain.push(chunk);
        }
    }

    /// Removes the slot that begins at `position` and returns its pieces. Drops the slots before
    /// it.
    fn take_slot(&self, state: &mut State, position: BitOffset) -> Option<Vec<Arc<Piece>>> {
        let mut taken = None;
        state.slots.retain_mut(|slot| {
            let pieces = std::mem::take(&mut slot.pieces);
            if slot.begins_at(position) {
                taken = Some(pieces);
            } else if slot.is_reached_by(position) {
                pieces.into_iter().for_each(|piece| self.buffers.recycle(piece));
            } else {
                slot.pieces = pieces;
                return true;
            }
            false
        });
        taken
    }

    /// The settled chunk that holds decoded byte `at`.
    pub(crate) fn settled_at(&self, at: u64) -> Option<Arc<Settled>> {
        self.state.lock().chain.at(at)
    }

    /// Span `number`, which ends at the first boundary at or after decoded offset `end`, if it was
    /// decoded speculatively.
    pub(crate) fn take(
        &self,
        source: &dyn ReadAt,
        number: usize,
        end: u64,
    ) -> Option<SpeculatedSpan> {
        let job = self.state.lock().chain.job(number, end)?;
        let run = |job| self.run(job, source);
        let other = || {
            let next = self.state.lock().chain.claim(&self.buffers.memory);
            next.map(run).is_some()
        };
        job.take(run, other)
    }

    fn run(&self, job: Claimed, source: &dyn ReadAt) {
        let done_with = job.run(&self.buffers.memory, source);
        done_with.into_iter().for_each(|chunk| self.recycle(chunk));
    }

    /// Records that the frontier is at decoded offset `decoded` and took `nanos` for the last
    /// `bytes`.
    pub(crate) fn advanced(&self, position: BitOffset, decoded: u64, bytes: u64, nanos: u64) {
        let worked = self.worked.swap(false, Ordering::Relaxed);
        let helped = worked || self.busy.load(Ordering::Relaxed) > 0;
        let mut state = self.state.lock();
        self.buffers.keep();
        state.frontier = Frontier { encoded: position.byte(), decoded };
        let passed = state.chain.pass(decoded);
        let was_on = state.watch.is_on();
        state.watch.advanced(decoded, bytes, nanos, helped, self.tuning.warm_up / 4);
        let given_up = self.tuning.watched && was_on && !state.watch.is_on();
        drop(state);
        passed.into_iter().for_each(|chunk| self.recycle(chunk));
        if given_up {
            self.clear();
        }
    }

    /// Drops everything that was decoded speculatively. Helpers get no buffers until the frontier
    /// advances: otherwise helpers that are at work would allocate the same memory again.
    pub(crate) fn clear(&self) {
        let mut state = self.state.lock();
        let dropped = (std::mem::take(&mut state.slots), std::mem::take(&mut state.chain));
        self.buffers.give_up();
        drop(state);
        drop(dropped);
    }

    /// Keeps the buffers of a chunk for later pieces, unless the chunk is still in use.
    fn recycle(&self, chunk: Arc<Settled>) {
        if let Some(chunk) = Arc::into_inner(chunk) {
            chunk.into_pieces().for_each(|piece| self.buffers.recycle(piece));
        }
    }
}

impl State {
    /// Settles a chunk of these pieces, which begin at decoded offset `start` after `window`.
    fn settle(
        &mut self,
        speculation: &Speculation,
        pieces: Vec<Arc<Piece>>,
        start: u64,
        window: &[u8],
    ) -> Arc<Settled> {
        let (encoded, memory) = (speculation.encoded.clone(), &speculation.buffers.memory);
        let chunk = Settled::new(encoded, pieces, start, window, memory);
        #[cfg(test)]
        {
            self.taken += chunk.range().end - chunk.range().start;
        }
        Arc::new(chunk)
    }
}

impl Slot {
    fn begins_at(&self, position: BitOffset) -> bool {
        self.found.as_ref().is_some_and(|found| found.contains(&position))
    }

    /// Whether a frontier at `position` has reached or passed the place where the chunk begins.
    fn is_reached_by(&self, position: BitOffset) -> bool {
        match &self.found {
            Some(found) => *found.start() <= position,
            None => self.position.bit() <= position,
        }
    }
}

/// Counts a thread until this value is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Marks a chunk as ended if its helper panics.
struct Unfinished<'a> {
    speculation: &'a Speculation,
    id: u64,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // Without a panic the slot has its speculator back, or another helper has taken it.
        if !thread::panicking() {
            return;
        }
        if let Some(slot) =
            self.speculation.state.lock().slots.iter_mut().find(|slot| slot.id == self.id)
        {
            slot.ended = true;
        }
    }
}
