//! The first pass on several threads.
//!
//! A stream has no marks that say where a block begins. Helpers look for places in the middle of
//! it that look like one (`find`) and decode from there, though the window is not known
//! (`markers`, `chunk`). The frontier is never kept waiting for that and never trusts it: it
//! decodes as it always does, and only when it comes to a block at exactly the bit where a helper
//! began does it take over what that one has so far (`settled`), and the chunks that are known to
//! follow it (`chain`). What is left to do then, putting in the bytes of the window and the
//! checksums, is done span by span by whoever comes first (`jobs`). Ends of streams and whatever is
//! malformed are left to the frontier, so that the verdict is its own. A chunk that does not begin
//! where a block does is never met, and dropped.
//!
//! No thread is started here: helpers are the callers of `help`.
//!
//! On two cores (Zen 4, 64 MiB of budget, 128 MiB of data), times the rate of one thread: sensor
//! data 1.34, noise 1.63, text 1.27; labels 0.8, so that help is kept off at such a ratio. What was
//! tried on sensor data, whose unknown bytes never die out:
//!
//! - Decoding twice behind two windows that tell each position together: 0.99. Once, in units of
//!   two bytes: 1.08; that loop runs at 0.69 of the rate of the plain one.
//! - Looking up four units at a time, stopping where the fast loop does instead of at 32 KiB
//!   exactly, and doing another job instead of waiting for one: 1.2. Eight at a time, edges that
//!   neighbours share: 1.34.
//! - Looking for runs of markers before they are looked up: a third of the rate.
//! - Chunks of 1, 2, 4, 8 and 16 MiB: 1.13, 1.28, 1.43, 1.40, 1.43 on data like sensor data.
//!
//! What many cores have to divide among them: 16 threads on these two cores took 2.1 to 2.3 times
//! the processor time of one on sensor data, 1.45 to 2.0 times on noise, most of it for units of two
//! bytes.
//! What one thread has to do after the other is the last window of each chunk, and what is left of
//! a chunk that the frontier meets before it is complete.

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
pub(crate) use jobs::Made;
pub(crate) use settled::Settled;

use crate::{
    BitOffset, ByteOffset, Memory, ReadAt,
    inflate::{HISTORY, Place},
    sync::{Mutex, MutexGuard},
};
use buffers::Buffers;
use chain::Chain;
use chunk::{Piece, Speculator, Worked};
use jobs::Claimed;
use watch::Watch;

/// When and how far to decode ahead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    /// Decoded bytes that the frontier must have passed: so many are read in sequence, and the
    /// rate without help is known.
    pub(crate) warm_up: u64,
    /// Decoded bytes that the stream must come to, by its ratio so far: fewer are not worth it.
    pub(crate) least: u64,
    /// Streams that decode to as many times their size or more are decoded at the speed of memory.
    pub(crate) highest_ratio: u64,
    /// Decoded bytes from the start of one chunk to the next, at most.
    pub(crate) chunk: u64,
    /// Whether to give up when it does not pay.
    pub(crate) watched: bool,
}

impl Tuning {
    pub(crate) const DEFAULT: Self =
        Self { warm_up: 8 << 20, least: 64 << 20, highest_ratio: 6, chunk: 4 << 20, watched: true };
}

/// What is being decoded ahead of the frontier of a stream.
pub(crate) struct Ahead {
    tuning: Tuning,
    encoded: Range<u64>,
    /// Who helps, or looks whether there is something to do.
    helpers: AtomicUsize,
    /// Who does something.
    busy: AtomicUsize,
    /// Whether somebody has done something since the frontier was asked last.
    worked: AtomicBool,
    buffers: Buffers,
    state: Mutex<State>,
}

struct State {
    /// In the order in which they lie in the stream.
    slots: Vec<Slot>,
    next_id: u64,
    chain: Chain,
    frontier: Frontier,
    watch: Watch,
    /// Bytes that the frontier did not have to decode.
    #[cfg(test)]
    taken: u64,
}

/// Where the frontier is.
#[derive(Debug, Clone, Copy, Default)]
struct Frontier {
    encoded: ByteOffset,
    /// Bytes decoded up to there.
    decoded: u64,
}

impl Frontier {
    /// Encoded bytes that decode to `decoded` bytes, by the ratio so far. Rounded down.
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
    /// Where the search for it began.
    from: ByteOffset,
    /// How far it is.
    position: ByteOffset,
    /// Block headers that it may be met at.
    found: Option<RangeInclusive<BitOffset>>,
    pieces: Vec<Arc<Piece>>,
    /// `None` while a helper works on it.
    speculator: Option<Box<Speculator>>,
    ended: bool,
}

/// Work for a helper.
enum Task {
    Job(Claimed),
    Chunk { id: u64, speculator: Box<Speculator>, halt: ByteOffset },
}

/// Decoded bytes that a chunk must have at least to be worth the search for its first block, and
/// the window that is decoded twice as wide. Where there are too many helpers for the memory, some
/// have nothing to do.
const LEAST_CHUNK: u64 = 1 << 20;

/// Pieces that a helper decodes before it lets others have their turn.
const TURN: usize = 4;

impl Ahead {
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
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

    /// See `DeflateReader::wants_help`.
    pub(crate) fn wants_help(&self) -> bool {
        let state = self.lock();
        state.chain.has_waiting()
            || self.is_worth_it(&state)
                && self.buffers.have_room()
                && (state.slots.iter().any(|slot| slot.speculator.is_some())
                    || self.next_from(&state).is_some())
    }

    fn task(&self) -> Option<Task> {
        let mut state = self.lock();
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

    /// Where a chunk after the others would be looked for, if there is a place for it.
    fn next_from(&self, state: &State) -> Option<ByteOffset> {
        // One that is being decoded for each helper, and one that waits to be settled or for what
        // is made from it.
        let helpers = self.helpers.load(Ordering::Relaxed) as u64;
        let capacity = self.buffers.capacity();
        let chunk = (capacity / (2 * helpers.max(1))).max(LEAST_CHUNK).min(self.tuning.chunk);
        // Those whose bytes are known take half as much.
        if chunk > capacity || state.slots.len() as u64 * chunk >= 2 * capacity {
            return None;
        }
        let distance = state.frontier.encoded_len(chunk) + 1;
        // What is settled is as good as passed.
        let settled = state.chain.end().map_or(ByteOffset(0), |end| end.encoded.byte());
        let after_last = state.slots.last().map_or(ByteOffset(0), |last| {
            last.from.after(distance).max(last.position.after(distance / 2))
        });
        let from = state.frontier.encoded.max(settled).after(distance).max(after_last);
        (from.after(distance / 2).0 <= self.encoded.end - self.encoded.start).then_some(from)
    }

    /// Adds a chunk behind the others, if there is a place for it.
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

    /// Does some work on a chunk; `false` if there is no memory for it.
    fn work(
        &self,
        source: &dyn ReadAt,
        id: u64,
        mut speculator: Box<Speculator>,
        halt: ByteOffset,
    ) -> bool {
        // After a panic there is no speculator to give back, and the chunk goes no further.
        let _guard = Unfinished { ahead: self, id };
        for _ in 0..TURN {
            let worked = speculator.work(source, halt, &self.buffers);
            let starved = matches!(worked, Worked::Starved);
            let mut state = self.lock();
            // The frontier may have taken it.
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
        if let Some(slot) = self.lock().slots.iter_mut().find(|slot| slot.id == id) {
            slot.speculator = Some(speculator);
        }
        true
    }

    /// Where the frontier should stop next, to see whether it meets a chunk.
    pub(crate) fn next_start(&self) -> BitOffset {
        let state = self.lock();
        let starts = state.slots.iter().filter_map(|slot| slot.found.as_ref());
        starts.map(|found| *found.start()).min().unwrap_or(BitOffset(u64::MAX))
    }

    /// The frontier is at a block header, behind `window`: settles the chunk that begins there.
    pub(crate) fn meet(&self, position: BitOffset, decoded: u64, window: &[u8], plan: Plan) {
        let mut state = self.lock();
        // Even where it is of no use, as soon behind the start of a gzip member: else the frontier
        // would stop there again.
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

    /// Takes out the pieces of the slot that begins at `position`, and drops those before it.
    fn take_slot(&self, state: &mut State, position: BitOffset) -> Option<Vec<Arc<Piece>>> {
        let mut taken = None;
        state.slots.retain_mut(|slot| {
            let pieces = std::mem::take(&mut slot.pieces);
            if slot.begins_at(position) {
                taken = Some(pieces);
            } else if slot.is_behind(position) {
                pieces.into_iter().for_each(|piece| self.buffers.recycle(piece));
            } else {
                slot.pieces = pieces;
                return true;
            }
            false
        });
        taken
    }

    /// The settled chunk that has decoded byte `at`.
    pub(crate) fn settled_at(&self, at: u64) -> Option<Arc<Settled>> {
        self.lock().chain.at(at)
    }

    /// Span `number`, which ends at the first boundary from `end` on, if it was decoded ahead.
    pub(crate) fn take(&self, source: &dyn ReadAt, number: usize, end: u64) -> Option<Made> {
        let job = self.lock().chain.job(number, end)?;
        let run = |job| self.run(job, source);
        let other = || {
            let next = self.lock().chain.claim(&self.buffers.memory);
            next.map(run).is_some()
        };
        job.take(run, other)
    }

    fn run(&self, job: Claimed, source: &dyn ReadAt) {
        let done_with = job.run(&self.buffers.memory, source);
        done_with.into_iter().for_each(|chunk| self.recycle(chunk));
    }

    /// The frontier is at decoded byte `decoded`, and has been working for `nanos` on the
    /// `bytes` before.
    pub(crate) fn advanced(&self, position: BitOffset, decoded: u64, bytes: u64, nanos: u64) {
        let worked = self.worked.swap(false, Ordering::Relaxed);
        let helped = worked || self.busy.load(Ordering::Relaxed) > 0;
        let mut state = self.lock();
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

    /// Drops everything that was decoded ahead. Nothing more is until the frontier goes on: helpers
    /// that are at work would else take as much memory again, for nobody.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        let dropped = (std::mem::take(&mut state.slots), std::mem::take(&mut state.chain));
        self.buffers.give_up();
        drop(state);
        drop(dropped);
    }

    /// Takes back the buffers of a chunk that nobody else has.
    fn recycle(&self, chunk: Arc<Settled>) {
        if let Some(chunk) = Arc::into_inner(chunk) {
            chunk.into_pieces().for_each(|piece| self.buffers.recycle(piece));
        }
    }
}

impl State {
    /// The chunk of these pieces, which begin at decoded offset `start`, behind `window`.
    fn settle(
        &mut self,
        ahead: &Ahead,
        pieces: Vec<Arc<Piece>>,
        start: u64,
        window: &[u8],
    ) -> Arc<Settled> {
        let (encoded, memory) = (ahead.encoded.clone(), &ahead.buffers.memory);
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

    /// Whether nobody who is at `position` will come to where it begins.
    fn is_behind(&self, position: BitOffset) -> bool {
        match &self.found {
            Some(found) => *found.start() <= position,
            None => self.position.bit() <= position,
        }
    }
}

/// One more, as long as it is there.
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

/// Ends a chunk whose helper panics.
struct Unfinished<'a> {
    ahead: &'a Ahead,
    id: u64,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // Else it is as it should be, and somebody else may be at it by now.
        if !thread::panicking() {
            return;
        }
        if let Some(slot) = self.ahead.lock().slots.iter_mut().find(|slot| slot.id == self.id) {
            slot.ended = true;
        }
    }
}
