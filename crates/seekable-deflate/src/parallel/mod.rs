//! The first pass on several threads.
//!
//! A stream has no marks that say where a block begins. Helpers look for places in the middle of
//! it that look like one (`find`) and decode from there, though the window is not known
//! (`markers`, `chunk`). The frontier is never kept waiting for that and never trusts it: it
//! decodes as it always does, and only when it comes to a block at exactly the bit where a helper
//! began does it take over what that one has so far (`settled`). What is left to do then, putting
//! in the bytes of the window and the checksums, is done span by span by whoever comes first
//! (`jobs`). Ends of streams and whatever is malformed are left to the frontier, so that the
//! verdict is its own. A chunk that does not begin where a block does is never met, and dropped.
//!
//! No thread is started here: helpers are the callers of `help`.
//!
//! On two cores (Zen 4, 64 MiB of budget), times the rate of one thread: sensor data 1.2, noise 1.7,
//! labels 0.8, so that help is kept off at such a ratio. What was tried on sensor data, whose unknown
//! bytes never die out:
//!
//! - Decoding twice behind two windows that tell each position together: 0.99. Once, in units of
//!   two bytes: 1.08; that loop runs at 0.69 of the rate of the plain one.
//! - Looking up four units at a time, stopping where the fast loop does instead of at 32 KiB
//!   exactly, and doing another job instead of waiting for one: 1.2.
//! - Looking for runs of markers before they are looked up: a third of the rate.
//!
//! What is left to try: settling a chunk as soon as the one before it is complete, instead of when
//! the frontier gets there. On many cores what is looked up then no longer waits for the frontier.

mod buffers;
mod chunk;
mod find;
mod jobs;
mod markers;
mod settled;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    collections::VecDeque,
    ops::{Range, RangeInclusive},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use jobs::Job;
pub(crate) use jobs::{Made, Plan};
pub(crate) use settled::Settled;

use crate::{BitOffset, Memory, ReadAt, core::Core};
use buffers::{Buffers, PIECE};
use chunk::{Piece, Speculator, Worked};
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
    pub(crate) const DEFAULT: Self = Self {
        warm_up: 8 << 20,
        least: 64 << 20,
        highest_ratio: 6,
        chunk: 16 << 20,
        watched: true,
    };
}

/// What is being decoded ahead of the frontier of a stream.
pub(crate) struct Ahead {
    tuning: Tuning,
    encoded: Range<u64>,
    helpers: AtomicUsize,
    buffers: Buffers,
    state: Mutex<State>,
}

struct State {
    /// In the order in which they lie in the stream.
    slots: Vec<Slot>,
    next_id: u64,
    /// Chunks that the frontier has met and not passed, in order.
    settled: VecDeque<Arc<Settled>>,
    jobs: VecDeque<Arc<Job>>,
    /// Where the frontier is, in encoded and in decoded bytes.
    frontier: (u64, u64),
    watch: Watch,
    /// Bytes that the frontier did not have to decode.
    #[cfg(test)]
    taken: u64,
}

/// A chunk that the frontier has not met yet.
struct Slot {
    id: u64,
    /// Where the search for it began, in encoded bytes.
    from: u64,
    /// How far it is, in encoded bytes.
    position: u64,
    /// Block headers that it may be met at, in bits.
    found: Option<RangeInclusive<u64>>,
    pieces: Vec<Arc<Piece>>,
    /// `None` while a helper works on it.
    speculator: Option<Box<Speculator>>,
    ended: bool,
}

/// Work for a helper.
enum Task {
    Job(Arc<Job>),
    Chunk { id: u64, speculator: Box<Speculator>, halt: u64 },
}

/// Pieces that a helper decodes before it lets others have their turn.
const TURN: usize = 4;

impl Ahead {
    pub(crate) fn new(tuning: Tuning, encoded: Range<u64>, memory: Arc<Memory>) -> Self {
        Self {
            tuning,
            encoded,
            helpers: AtomicUsize::new(0),
            buffers: Buffers::new(memory),
            state: Mutex::new(State {
                slots: Vec::new(),
                next_id: 0,
                settled: VecDeque::new(),
                jobs: VecDeque::new(),
                frontier: (0, 0),
                watch: Watch::default(),
                #[cfg(test)]
                taken: 0,
            }),
        }
    }

    /// Nothing panics between two changes of the state that belong together.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See `DeflateReader::help`.
    pub(crate) fn help(&self, core: &Core, source: &dyn ReadAt) -> bool {
        let _helper = Helper::new(&self.helpers);
        match self.task() {
            None => false,
            Some(Task::Job(job)) => {
                job.run(core, source);
                true
            }
            Some(Task::Chunk { id, speculator, halt }) => self.work(source, id, speculator, halt),
        }
    }

    fn task(&self) -> Option<Task> {
        let mut state = self.lock();
        if let Some(job) = self.next_job(&state) {
            return Some(Task::Job(job));
        }
        if !self.is_worth_it(&state) {
            return None;
        }
        let number = match state.slots.iter().position(|slot| slot.speculator.is_some()) {
            Some(number) => number,
            None => self.add_slot(&mut state)?,
        };
        let halt = state.slots.get(number + 1).map_or(u64::MAX, |next| next.from);
        let slot = &mut state.slots[number];
        let speculator = slot.speculator.take()?;
        Some(Task::Chunk { id: slot.id, speculator, halt })
    }

    fn is_worth_it(&self, state: &State) -> bool {
        let (encoded, decoded) = state.frontier;
        let len = self.encoded.end - self.encoded.start;
        let whole = u128::from(len) * u128::from(decoded) / u128::from(encoded.max(1));
        decoded >= self.tuning.warm_up
            && decoded / encoded.max(1) < self.tuning.highest_ratio
            && whole >= u128::from(self.tuning.least)
            && (!self.tuning.watched || state.watch.is_on())
    }

    /// Adds a chunk behind the others, if there is a place for it.
    fn add_slot(&self, state: &mut State) -> Option<usize> {
        let (encoded, decoded) = state.frontier;
        // Each helper decodes one while the frontier gets there, which takes it somewhat less;
        // the chunks before are still being resolved.
        let helpers = self.helpers.load(Ordering::Relaxed) as u64;
        let chunk = (self.buffers.capacity() * 4 / (4 * helpers + 1)).min(self.tuning.chunk);
        if chunk < PIECE as u64 {
            return None;
        }
        let distance = (chunk as u128 * encoded as u128 / decoded.max(1) as u128) as u64 + 1;
        // What is settled is as good as passed.
        let settled = state.settled.back().map_or(0, |settled| settled.end().encoded.0 / 8);
        let behind_last = state
            .slots
            .last()
            .map_or(0, |last| (last.from + distance).max(last.position + distance / 2));
        let from = (encoded.max(settled) + distance).max(behind_last);
        if from + distance / 2 > self.encoded.end - self.encoded.start {
            return None;
        }
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
        halt: u64,
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
        BitOffset(starts.map(|found| *found.start()).min().unwrap_or(u64::MAX))
    }

    /// The frontier is at a block header, behind `window`: settles the chunk that begins there.
    pub(crate) fn meet(&self, position: BitOffset, decoded: u64, window: &[u8], plan: Plan) {
        let mut state = self.lock();
        let mut passed = Vec::new();
        let mut met = None;
        state.slots.retain_mut(|slot| {
            let Some(found) = slot.found.clone() else { return slot.position * 8 > position.0 };
            if found.contains(&position.0) {
                met = Some(std::mem::take(&mut slot.pieces));
                return false;
            }
            if *found.start() <= position.0 {
                passed.append(&mut slot.pieces);
                return false;
            }
            true
        });
        drop(state);
        passed.into_iter().for_each(|piece| self.buffers.recycle(piece));
        let Some(pieces) = met.filter(|pieces| !pieces.is_empty()) else { return };
        if window.len() < crate::inflate::HISTORY {
            return;
        }
        let settled = Settled::new(self.encoded.clone(), pieces, decoded, window);
        let settled = Arc::new(settled);
        let mut state = self.lock();
        #[cfg(test)]
        {
            state.taken += settled.range().end - settled.range().start;
        }
        state.jobs.extend(plan.jobs(&settled));
        state.settled.push_back(settled);
    }

    /// The settled chunk that has decoded byte `at`.
    pub(crate) fn settled_at(&self, at: u64) -> Option<Arc<Settled>> {
        let state = self.lock();
        state.settled.iter().find(|settled| settled.range().contains(&at)).cloned()
    }

    /// Span `number`, which ends at the first boundary from `end` on, if it was decoded ahead.
    pub(crate) fn take(
        &self,
        core: &Core,
        source: &dyn ReadAt,
        number: usize,
        end: u64,
    ) -> Option<Made> {
        let job = self.job(number, end)?;
        job.take(core, source, || {
            let next = self.next_job(&self.lock());
            next.map(|next| next.run(core, source)).is_some()
        })
    }

    /// A job that nobody does yet, claimed.
    fn next_job(&self, state: &State) -> Option<Arc<Job>> {
        let job = state.jobs.iter().find(|job| job.is_waiting())?;
        job.claim(&self.buffers.memory).then(|| Arc::clone(job))
    }

    /// The job for span `number`, which ends at the first boundary from `end` on.
    fn job(&self, number: usize, end: u64) -> Option<Arc<Job>> {
        let mut state = self.lock();
        while state.jobs.front().is_some_and(|job| job.number() < number) {
            state.jobs.pop_front();
        }
        let job = state.jobs.front().filter(|job| job.is_for(number, end)).cloned();
        drop(state);
        job
    }

    /// The frontier is at decoded byte `decoded`, and has been working for `nanos` on the
    /// `bytes` before.
    pub(crate) fn advanced(&self, position: BitOffset, decoded: u64, bytes: u64, nanos: u64) {
        let helped = self.helpers.load(Ordering::Relaxed) > 0;
        let mut state = self.lock();
        state.frontier = (position.0 / 8, decoded);
        let mut passed = Vec::new();
        while let Some(settled) = state.settled.pop_front() {
            if settled.range().end > decoded {
                state.settled.push_front(settled);
                break;
            }
            passed.push(settled);
        }
        if !passed.is_empty() {
            state.jobs.retain(|job| !job.is_before(decoded));
        }
        let was_on = state.watch.is_on();
        state.watch.advanced(decoded, bytes, nanos, helped, self.tuning.warm_up);
        let given_up = self.tuning.watched && was_on && !state.watch.is_on();
        drop(state);
        passed.into_iter().for_each(|settled| self.recycle(settled));
        if given_up {
            self.clear();
        }
    }

    /// Drops everything that was decoded ahead.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        let dropped = (
            std::mem::take(&mut state.slots),
            std::mem::take(&mut state.settled),
            std::mem::take(&mut state.jobs),
        );
        drop(state);
        drop(dropped);
        self.buffers.clear();
    }

    fn recycle(&self, settled: Arc<Settled>) {
        if let Some(settled) = Arc::into_inner(settled) {
            settled.into_pieces().for_each(|piece| self.buffers.recycle(piece));
        }
    }
}

/// Counts who helps.
struct Helper<'a>(&'a AtomicUsize);

impl<'a> Helper<'a> {
    fn new(helpers: &'a AtomicUsize) -> Self {
        helpers.fetch_add(1, Ordering::Relaxed);
        Self(helpers)
    }
}

impl Drop for Helper<'_> {
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
        let mut state = self.ahead.lock();
        let slot = state.slots.iter_mut().find(|slot| slot.id == self.id);
        if let Some(slot) = slot.filter(|slot| slot.speculator.is_none()) {
            slot.ended = true;
        }
    }
}
