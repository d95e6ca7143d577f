//! Spans of settled chunks, done by whoever comes first.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::settled::{Boundary, Settled};
use crate::{
    Memory, ReadAt, Span,
    core::Core,
    crc::Crc,
    index::{Checkpoint, Spacing},
    inflate::{Fault, MAX_MATCH},
    memory::Reserved,
};

/// Which spans follow the one that the frontier is in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// The number of that one.
    pub(crate) number: usize,
    /// Where it ends: at the first boundary of symbols from here on.
    pub(crate) end: u64,
    pub(crate) spacing: Spacing,
    /// Spans that can reach so far are the frontier's.
    pub(crate) promised: Option<u64>,
}

impl Plan {
    /// The spans that lie in `settled` as a whole.
    pub(super) fn jobs(self, settled: &Arc<Settled>) -> Vec<Arc<Job>> {
        let range = settled.range();
        let (mut number, mut from) = (self.number + 1, self.end);
        let mut jobs = Vec::new();
        while from > range.start {
            // A span ends less than a match behind the offset asked for. Where that may be
            // behind the next such offset, only the frontier knows which comes next.
            let Some(to) = self.spacing.end_after(number, from, MAX_MATCH as u64) else { break };
            let reach = to.saturating_add(MAX_MATCH as u64);
            if to > range.end || self.promised.is_some_and(|len| reach >= len) {
                break;
            }
            let settled = Arc::clone(settled);
            let state = Mutex::new(State::Waiting);
            jobs.push(Arc::new(Job { number, from, to, settled, state, done: Condvar::new() }));
            (number, from) = (number + 1, to);
        }
        jobs
    }
}

/// A span to be made from a settled chunk.
pub(super) struct Job {
    number: usize,
    /// It reaches from the first boundary of symbols at or behind `from` to that of `to`.
    from: u64,
    to: u64,
    settled: Arc<Settled>,
    state: Mutex<State>,
    done: Condvar,
}

enum State {
    Waiting,
    /// Somebody is at it, with memory set aside or none.
    Running(Option<Reserved>),
    Done(Box<Made>),
    /// Done and taken, or it could not be done.
    Gone,
}

/// A span that was made.
pub(crate) struct Made {
    pub(crate) span: Span,
    pub(crate) crc: Crc,
    /// The checkpoint at its end.
    pub(crate) next: Checkpoint,
    _reserved: Option<Reserved>,
}

impl Job {
    pub(super) fn number(&self) -> usize {
        self.number
    }

    pub(super) fn is_for(&self, number: usize, end: u64) -> bool {
        (self.number, self.to) == (number, end)
    }

    pub(super) fn is_before(&self, decoded: u64) -> bool {
        self.to <= decoded
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(*self.lock(), State::Waiting)
    }

    /// Claims it, with memory for its span set aside.
    pub(super) fn claim(&self, memory: &Arc<Memory>) -> bool {
        let mut state = self.lock();
        if !matches!(*state, State::Waiting) {
            return false;
        }
        // What it is made from goes when it is there: so these may take more than chunks may.
        let most = memory.limit() / 8 * 3;
        let Some(reserved) = memory.reserve(self.to - self.from, most) else { return false };
        *state = State::Running(Some(reserved));
        true
    }

    /// Does what was claimed.
    pub(super) fn run(&self, core: &Core, source: &dyn ReadAt) {
        let _guard = Unfinished { job: self };
        let made = self.make(core, source);
        let mut state = self.lock();
        let State::Running(reserved) = &mut *state else { return };
        let reserved = reserved.take();
        *state = match made {
            Ok(made) => State::Done(Box::new(Made { _reserved: reserved, ..made })),
            // The frontier will see for itself.
            Err(_) => State::Gone,
        };
    }

    /// The span: made here, or by who is at it; meanwhile `other` may do something else, and says
    /// whether it did. `None` if the span could not be made.
    pub(super) fn take(
        &self,
        core: &Core,
        source: &dyn ReadAt,
        mut other: impl FnMut() -> bool,
    ) -> Option<Made> {
        let mut state = self.lock();
        if matches!(*state, State::Waiting) {
            *state = State::Running(None);
            drop(state);
            self.run(core, source);
            state = self.lock();
        }
        loop {
            match std::mem::replace(&mut *state, State::Gone) {
                State::Done(made) => return Some(*made),
                running @ State::Running(_) => {
                    *state = running;
                    drop(state);
                    let did = other();
                    state = self.lock();
                    if did || !matches!(*state, State::Running(_)) {
                        continue;
                    }
                    state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                State::Waiting | State::Gone => return None,
            }
        }
    }

    fn make(&self, core: &Core, source: &dyn ReadAt) -> Result<Made, Fault> {
        let start = self.settled.boundary(source, self.from)?.decoded;
        let Boundary { decoded, encoded, place } = self.settled.boundary(source, self.to)?;
        let len = (decoded - start) as usize;
        let mut buffer = core.memory.buffer(len);
        let mut crc = crc32fast::Hasher::new();
        let mut at = start;
        // In pieces that stay in a near cache between one and the other.
        for piece in buffer[..len].chunks_mut(64 << 10) {
            self.settled.resolve(at, piece);
            crc.update(piece);
            at += piece.len() as u64;
        }
        let window = self.settled.window_at(decoded);
        Ok(Made {
            span: Span::new(start, buffer, 0..len),
            crc: Crc::new(crc.finalize(), len as u64),
            next: Checkpoint { encoded, decoded, place: Some(place), window: Some(window.into()) },
            _reserved: None,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// However work on a job ends, nobody is left waiting.
struct Unfinished<'a> {
    job: &'a Job,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let mut state = self.job.lock();
        if matches!(*state, State::Running(_)) {
            *state = State::Gone;
        }
        drop(state);
        self.job.done.notify_all();
    }
}
