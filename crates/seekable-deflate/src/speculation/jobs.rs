//! Jobs: each makes one span from settled chunks, on the first thread that is free.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use super::settled::{Boundary, Settled};
use crate::{
    Memory, ReadAt, Span,
    crc::{BLOCK, SpanCrcs},
    index::Checkpoint,
    inflate::HISTORY,
    memory::Reserved,
    sync::{Condvar, Mutex, MutexGuard},
    windows::Reach,
};

/// The edge between two spans: the first boundary of symbols at or after a decoded offset. Finding
/// it costs a tenth of decoding a short span, so the two spans share the result.
pub(super) struct Edge {
    /// The decoded offset.
    at: u64,
    boundary: OnceLock<Option<Boundary>>,
}

impl Edge {
    pub(super) fn new(at: u64) -> Arc<Self> {
        Arc::new(Self { at, boundary: OnceLock::new() })
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The boundary. `None` if the source has changed or the chunk before the edge is dropped: then
    /// the frontier decodes these spans itself.
    pub(super) fn find(&self, chunks: &[Arc<Settled>], source: &dyn ReadAt) -> Option<Boundary> {
        *self.boundary.get_or_init(|| {
            // A chunk that begins at the edge does not hold the end of the symbol before it.
            let has_before = |range: Range<u64>| range.start < self.at && self.at <= range.end;
            let chunk = chunks.iter().find(|chunk| has_before(chunk.range()))?;
            chunk.boundary(source, self.at).ok()
        })
    }
}

/// A span to be made from settled chunks.
pub(super) struct Job {
    number: usize,
    from: Arc<Edge>,
    to: Arc<Edge>,
    state: Mutex<Progress>,
    done: Condvar,
}

enum Progress {
    /// Not started. Has the chunks that the job needs, in order. The edges lie in the first and the
    /// last chunk.
    Waiting(Vec<Arc<Settled>>),
    Running,
    Done(Box<SpeculatedSpan>),
    /// The span was taken, or the job failed.
    Gone,
}

/// A span that was decoded speculatively.
pub(crate) struct SpeculatedSpan {
    pub(crate) span: Span,
    pub(crate) crcs: SpanCrcs,
    /// The bytes of the window that the span refers to, if they are known.
    pub(crate) reach: Option<Reach>,
    /// The checkpoint at the end of the span.
    pub(crate) next: Checkpoint,
    _reserved: Option<Reserved>,
}

impl Job {
    pub(super) fn new(
        number: usize,
        from: Arc<Edge>,
        to: Arc<Edge>,
        chunks: Vec<Arc<Settled>>,
    ) -> Arc<Self> {
        let state = Mutex::new(Progress::Waiting(chunks));
        Arc::new(Self { number, from, to, state, done: Condvar::new() })
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    pub(super) fn is_for(&self, number: usize, end: u64) -> bool {
        (self.number, self.to.at) == (number, end)
    }

    pub(super) fn is_before(&self, decoded: u64) -> bool {
        self.to.at <= decoded
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(*self.state.lock(), Progress::Waiting(_))
    }

    /// Claims the job, if it is waiting and there is memory for its span.
    pub(super) fn claim(self: &Arc<Self>, memory: &Arc<Memory>) -> Option<Claimed> {
        let state = self.state.lock();
        if !matches!(*state, Progress::Waiting(_)) {
            return None;
        }
        // This limit is higher than the quarter for chunks, because making a span frees its chunks.
        let most = memory.limit() / 8 * 3;
        // Memory for the span and for the window at its end.
        let reserved = memory.reserve(self.to.at - self.from.at + HISTORY as u64, most)?;
        self.start(state, Some(reserved))
    }

    fn start(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, Progress>,
        reserved: Option<Reserved>,
    ) -> Option<Claimed> {
        let Progress::Waiting(chunks) = &mut *state else { return None };
        let chunks = std::mem::take(chunks);
        *state = Progress::Running;
        Some(Claimed { job: Arc::clone(self), chunks, reserved })
    }

    /// The span, made by `run` or by another thread that has claimed the job. While this thread
    /// waits for that thread, it calls `other`, which does another job and returns whether there
    /// was one. `None` if the job failed.
    pub(super) fn take(
        self: &Arc<Self>,
        run: impl FnOnce(Claimed),
        mut other: impl FnMut() -> bool,
    ) -> Option<SpeculatedSpan> {
        // No memory is set aside: the frontier is about to cache the span.
        let claimed = self.start(self.state.lock(), None);
        if let Some(claimed) = claimed {
            run(claimed);
        }
        let mut state = self.state.lock();
        loop {
            match std::mem::replace(&mut *state, Progress::Gone) {
                Progress::Done(made) => return Some(*made),
                Progress::Running => {
                    *state = Progress::Running;
                    drop(state);
                    let did = other();
                    state = self.state.lock();
                    if did || !matches!(*state, Progress::Running) {
                        continue;
                    }
                    state = self.done.wait(state);
                }
                Progress::Waiting(_) | Progress::Gone => return None,
            }
        }
    }
}

/// A job that a thread works on. When it is dropped, waiting threads are woken, however the work
/// ended.
pub(super) struct Claimed {
    job: Arc<Job>,
    chunks: Vec<Arc<Settled>>,
    reserved: Option<Reserved>,
}

impl Claimed {
    /// Does the job. Returns the chunks that were needed for it.
    pub(super) fn run(mut self, memory: &Memory, source: &dyn ReadAt) -> Vec<Arc<Settled>> {
        if let Some(made) = self.make(memory, source) {
            *self.job.state.lock() = Progress::Done(Box::new(made));
        }
        std::mem::take(&mut self.chunks)
    }

    fn make(&mut self, memory: &Memory, source: &dyn ReadAt) -> Option<SpeculatedSpan> {
        let start = self.job.from.find(&self.chunks, source)?.decoded;
        let Boundary { decoded, encoded, place } = self.job.to.find(&self.chunks, source)?;
        let len = (decoded - start) as usize;
        let (mut buffer, _lent) = memory.buffer(len);
        let mut crc = crc32fast::Hasher::new();
        let mut block_ends = Vec::with_capacity(len.div_ceil(BLOCK));
        let mut at = start;
        // The pieces are small enough to stay in a near cache from `resolve` to `update`.
        for piece in buffer[..len].chunks_mut(BLOCK) {
            self.resolve(at, piece);
            crc.update(piece);
            block_ends.push(crc.clone().finalize());
            at += piece.len() as u64;
        }
        let window = match len.checked_sub(HISTORY) {
            Some(from) => buffer[from..len].into(),
            None => self.chunk_of(decoded).window_at(decoded).into(),
        };
        Some(SpeculatedSpan {
            span: Span::new(start, buffer, 0..len),
            crcs: SpanCrcs::new(
                &block_ends[..SpanCrcs::inner_of(len as u64) as usize],
                crc.finalize(),
            ),
            reach: self.reach(start..decoded),
            next: Checkpoint { encoded, decoded, place: Some(place), window: Some(window) },
            _reserved: self.reserved.take(),
        })
    }

    /// The bytes of the window that this span of decoded bytes refers to, if they are known.
    fn reach(&self, span: Range<u64>) -> Option<Reach> {
        let range = span.start..span.start + HISTORY as u64;
        let mut reach = Reach::default();
        let is_known = range.end <= span.end
            && self.chunks.iter().all(|chunk| {
                let (start, end) = (chunk.range().start, chunk.range().end);
                let part = range.start.max(start)..range.end.min(end);
                part.is_empty() || chunk.add_reach(part, range.start, &mut reach)
            });
        is_known.then_some(reach)
    }

    /// The chunk that holds the byte before decoded offset `at`.
    fn chunk_of(&self, at: u64) -> &Settled {
        let number = self.chunks.partition_point(|chunk| chunk.range().end < at);
        &self.chunks[number]
    }

    /// Fills `out` with the bytes from decoded offset `at` on. The chunks must hold all of them.
    fn resolve(&self, mut at: u64, mut out: &mut [u8]) {
        while !out.is_empty() {
            let chunk = self.chunk_of(at + 1);
            let len = out.len().min((chunk.range().end - at) as usize);
            let (now, rest) = out.split_at_mut(len);
            chunk.resolve(at, now);
            out = rest;
            at += len as u64;
        }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        let mut state = self.job.state.lock();
        if matches!(*state, Progress::Running) {
            *state = Progress::Gone;
        }
        drop(state);
        self.job.done.notify_all();
    }
}
