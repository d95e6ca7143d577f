//! A deflated member, decoded span by span by tasks of the pool.
//!
//! A read whose spans are cached is answered at once. Any other read is parked. The pool has at
//! most one task for the frontier of a member and one for each span before the frontier, no matter
//! how many reads wait. A task decodes one span and answers all reads that waited for it. While
//! reads wait beyond the frontier, the task of the frontier continues with the next span, or queues
//! itself again if the pool has other work. So members take turns, and a pass over a large member
//! does not hold up the others.
//!
//! A task that continues with the next span leaves the answers to another thread. Waking another
//! thread for the next span instead took an eighth of a pass over noise, whose spans have 256 KiB.

use std::{
    collections::hash_map::Entry,
    fmt, io,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use seekable_deflate::{DeflateReader, IndexError, SavedIndex, Span, StreamVerdict};

use super::{
    Error, Once, Reply, Shared,
    index::ArchiveIndex,
    verify::Verdict,
    waiting::{Served, Stage, Waiter, Waiting},
};
use crate::{
    archive::{self, SourceFile},
    saved::{self, StreamKey},
    sync::Mutex,
};

/// A deflated member.
pub(super) struct Deflated {
    reader: DeflateReader<Arc<SourceFile>>,
    /// Encoded size in bytes.
    encoded_size: u64,
    /// Decoded size in bytes.
    size: u64,
    shared: Arc<Shared>,
    verdict: Arc<Verdict>,
    waiting: Mutex<Waiting>,
    /// The saved indexes of the archive, and the member's key in them; `None` if the member is too
    /// small.
    index: Option<(StreamKey, Arc<ArchiveIndex>)>,
    /// Frontier of the member's saved index, in decoded bytes.
    saved: AtomicU64,
    /// Whether the saved index cannot be used.
    refused: AtomicBool,
    /// Set when `judge` has reported that the reader dropped the wrong saved index.
    dropped: Once,
    /// Set when `judge` has reported that the saved index has damaged windows.
    damaged: Once,
}

impl fmt::Debug for Deflated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflated").field("frontier", &self.reader.frontier()).finish()
    }
}

impl Deflated {
    pub(super) fn new(
        reader: DeflateReader<Arc<SourceFile>>,
        encoded_size: u64,
        size: u64,
        shared: Arc<Shared>,
        verdict: Arc<Verdict>,
        index: Option<(StreamKey, Arc<ArchiveIndex>)>,
    ) -> Arc<Self> {
        let (waiting, saved) = (Mutex::default(), AtomicU64::new(0));
        let refused = AtomicBool::new(false);
        let (dropped, damaged) = (Once::default(), Once::default());
        let this = Self {
            reader,
            encoded_size,
            size,
            shared,
            verdict,
            waiting,
            index,
            saved,
            refused,
            dropped,
            damaged,
        };
        if let Some((key, index)) = &this.index {
            index.adopt(*key, &this);
        }
        // The saved index may reach to the end of the member.
        this.judge();
        Arc::new(this)
    }

    pub(super) fn reader(&self) -> &DeflateReader<Arc<SourceFile>> {
        &self.reader
    }

    /// Encoded size in bytes.
    pub(super) fn encoded_size(&self) -> u64 {
        self.encoded_size
    }

    /// Registers this member, so that its index is saved as it grows.
    pub(super) fn save_index(self: &Arc<Self>) {
        if let Some((key, index)) = &self.index {
            index.register(*key, self);
        }
    }

    /// Continues the first pass at the frontier of a saved index.
    ///
    /// # Errors
    /// When the index is of another stream.
    pub(super) fn adopt_index(&self, index: SavedIndex) -> Result<(), IndexError> {
        let frontier = index.frontier();
        self.reader.adopt_index(index)?;
        self.set_saved(frontier);
        Ok(())
    }

    /// Notes that the saved index reaches to `frontier`, in decoded bytes.
    pub(super) fn set_saved(&self, frontier: u64) {
        self.saved.fetch_max(frontier, Ordering::Relaxed);
        self.refused.store(false, Ordering::Relaxed);
    }

    /// Notes that the saved index cannot be used.
    pub(super) fn refuse_saved(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Whether the saved index cannot be used.
    pub(super) fn has_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed) || self.reader.has_damaged_windows()
    }

    /// Whether there is something to save: no damage was found, and the member has been decoded
    /// beyond the frontier of its saved index, or can replace damaged windows in that index.
    pub(super) fn has_unsaved(&self) -> bool {
        (self.reader.frontier() > self.saved.load(Ordering::Relaxed)
            || self.reader.has_damaged_windows())
            && matches!(self.reader.verdict(), StreamVerdict::Open | StreamVerdict::Ended)
    }

    /// Writes the index of this member; `false` if there is nothing to write.
    ///
    /// # Errors
    /// When the source cannot be read, or writing to `out` fails.
    pub(super) fn write_index(&self, out: &mut dyn io::Write) -> Result<bool, saved::Error> {
        self.reader.write_index(out).map_err(saved::Error::from)
    }

    /// Calls `reply` with the bytes of `range` if all of them are cached. Bytes of one span are
    /// passed without a copy; bytes of several spans are collected in `scratch`. Else returns
    /// `reply`.
    pub(super) fn read_ready<F: FnOnce(Result<&[u8], Error>)>(
        &self,
        range: Range<u64>,
        scratch: &mut Vec<u8>,
        reply: F,
    ) -> Result<(), F> {
        scratch.clear();
        let mut next = range.start;
        loop {
            let Some(span) = self.reader.cached_span_at(next) else { return Err(reply) };
            let from = (next - span.start()) as usize;
            let to = (range.end - span.start()).min(span.bytes().len() as u64) as usize;
            let bytes = &span.bytes()[from..to];
            next += bytes.len() as u64;
            if next == range.end && scratch.is_empty() {
                reply(Ok(bytes));
                return Ok(());
            }
            scratch.extend_from_slice(bytes);
            if next == range.end {
                reply(Ok(scratch));
                return Ok(());
            }
        }
    }

    /// Queues the decoding of `range`; `reply` gets its bytes later.
    pub(super) fn read_later(self: &Arc<Self>, range: Range<u64>, reply: Reply) {
        self.park(Waiter::read(range, reply));
    }

    /// Continues the first pass to at least decoded byte `target`, then calls `reply` with no
    /// bytes. A span that no read waits for is dropped from the cache at once, unless `keep` is
    /// set.
    pub(super) fn pass_to(self: &Arc<Self>, target: u64, keep: bool, reply: Reply) {
        self.judge();
        let frontier = self.reader.frontier();
        if frontier >= target.min(self.size) || self.verdict.is_settled() {
            return reply(self.verdict.judge(Ok(&[])));
        }
        self.park(Waiter::pass(frontier..target.min(self.size), keep, reply));
    }

    /// Compares the whole member with its CRC-32 in this thread. For a member of one span.
    pub(super) fn compare_at_once(&self) {
        // The next read of the member returns the same error.
        let _ = self.span_at(self.size.saturating_sub(1));
    }

    /// Queues the decoding of `range`, which has not been requested yet.
    pub(super) fn read_ahead(self: &Arc<Self>, range: Range<u64>) {
        self.park(Waiter::read_ahead(range));
    }

    /// Decodes those of `ranges` that are not cached, before they are requested. Skips ranges
    /// beyond the frontier, since a long pass may lie before them. Skips all while other tasks wait
    /// for a thread: requested bytes go first, and these ranges may never be requested.
    pub(super) fn read_beside(self: &Arc<Self>, ranges: Vec<Range<u64>>) {
        for range in ranges {
            // Allows for one waiting task: the thread that has just answered this reader is about
            // to take it.
            let is_room = self.shared.decode.short_of() <= 1;
            let is_decoded = range.end <= self.reader.frontier();
            if is_decoded && is_room && !self.is_cached(range.clone()) {
                self.park(Waiter::read_ahead(range));
            }
        }
    }

    fn is_cached(&self, mut range: Range<u64>) -> bool {
        while !range.is_empty() {
            let Some(span) = self.reader.cached_span_at(range.start) else { return false };
            range.start = span.start() + span.bytes().len() as u64;
        }
        true
    }

    fn park(self: &Arc<Self>, waiter: Waiter) {
        let mut waiting = self.waiting.lock();
        waiting.resting = false;
        let range = self.start(&mut waiting, waiter.missing.start);
        // The kernel reads 128 KiB around a row, which often lie in two spans. Then two threads
        // decode, one span each.
        if let Some(range) = range
            && range.end < waiter.missing.end
            && self.reader.span_range(range.end).is_some()
        {
            self.start(&mut waiting, range.end);
        }
        waiting.list.push(waiter);
    }

    /// Starts a task that decodes the span of `offset`, unless there is one already. Returns the
    /// range of that span in decoded bytes, if it lies before the frontier.
    fn start(self: &Arc<Self>, waiting: &mut Waiting, offset: u64) -> Option<Range<u64>> {
        let range = self.reader.span_range(offset);
        let this = self.clone();
        match range.as_ref().map(|range| range.start) {
            None if !waiting.advancing => {
                waiting.advancing = true;
                self.shared.decode.spawn(move || this.advance());
            }
            None => {}
            Some(start) => {
                if let Entry::Vacant(entry) = waiting.decoding.entry(start) {
                    entry.insert(Stage::Queued);
                    self.shared.decode.spawn(move || this.decode(start));
                }
            }
        }
        range
    }

    fn advance(self: Arc<Self>) {
        loop {
            if self.shared.idle.have_one() && self.reader.wants_help() {
                let this = self.clone();
                self.shared.decode.spawn_if_idle(move || this.help());
            }
            let from = self.reader.frontier();
            // `None`: the saved index was wrong, and the frontier is back at the start.
            let Some(result) = self.try_span_at(from) else { continue };
            let mut waiting = self.waiting.lock();
            let frontier = self.reader.frontier();
            let passed_over = !waiting.want(&(from..frontier));
            let done = match result {
                Ok(span) => waiting.deliver(&span),
                Err(error) => waiting.fail(&(from..u64::MAX), &error),
            };
            if let Some((_, index)) = &self.index {
                index.progress(frontier.saturating_sub(from), frontier >= self.size);
            }
            // The loop ends: each turn moves the frontier, or fails all reads that wait beyond it.
            let goes_on = waiting.list.iter().any(|waiter| waiter.missing.start >= frontier);
            waiting.advancing = goes_on && !self.shared.decode.has_work();
            let here = waiting.advancing;
            self.start_all(&mut waiting);
            let rests = waiting.resting && !waiting.advancing;
            drop(waiting);
            if rests {
                self.reader.drop_speculative();
            }
            if passed_over {
                // No read waits for this span: the pass only goes through it. Give its buffer up,
                // so that the next span is decoded into the same buffer, which is still in the
                // processor's caches.
                self.reader.give_up(from..frontier);
            }
            if !here {
                return done.into_iter().for_each(Served::reply);
            }
            if !done.is_empty() {
                self.shared.reply.spawn(move || done.into_iter().for_each(Served::reply));
            }
        }
    }

    /// Decodes beyond the frontier until a task needs this thread or another process needs its
    /// core.
    fn help(self: Arc<Self>) {
        self.shared.idle.use_one(|| !self.shared.decode.has_work(), || self.reader.help());
    }

    /// Drops speculatively decoded spans, as soon as no task works at the frontier.
    pub(super) fn rest(&self) {
        let mut waiting = self.waiting.lock();
        waiting.resting = true;
        let rests = !waiting.advancing;
        drop(waiting);
        if rests {
            self.reader.drop_speculative();
        }
    }

    /// Whether no read has been parked since `rest`.
    #[cfg(test)]
    pub(super) fn rests(&self) -> bool {
        self.waiting.lock().resting
    }

    /// Decodes the span that begins at `start`, unless another task has taken it over.
    fn decode(self: Arc<Self>, start: u64) {
        let Some(other) = self.begin(start) else { return };
        let pair = other.and_then(|other| Some((other, self.try_span_pair_at([start, other])?)));
        if let Some((other, [first, second])) = pair {
            self.deliver(start, first);
            self.deliver(other, second);
            return;
        }
        for start in [Some(start), other].into_iter().flatten() {
            // If the saved index turned out to be wrong, the frontier is before `start`. Then the
            // task at the frontier decodes this span.
            let is_known = self.reader.span_range(start).is_some();
            let result = if is_known { self.try_span_at(start) } else { None };
            self.deliver(start, result);
        }
    }

    /// Takes over the span that begins at `start`; `None` if another task has it. Also takes over
    /// and returns a second queued span, if no thread is free for that span and the engine decodes
    /// both together faster.
    fn begin(&self, start: u64) -> Option<Option<u64>> {
        let mut waiting = self.waiting.lock();
        let stage = waiting.decoding.get_mut(&start)?;
        if std::mem::replace(stage, Stage::Running) == Stage::Running {
            return None;
        }
        if !self.shared.decode.is_short() {
            return Some(None);
        }
        let mut queued = waiting.decoding.iter_mut().filter(|(_, stage)| **stage == Stage::Queued);
        let other = queued.find(|(other, _)| self.reader.is_faster_as_pair([start, **other]));
        Some(other.map(|(other, stage)| {
            *stage = Stage::Running;
            *other
        }))
    }

    /// Gives the span that begins at `start`, which the calling task has taken over, to the reads
    /// that wait for it.
    fn deliver(self: &Arc<Self>, start: u64, result: Option<Result<Span, Error>>) {
        let mut waiting = self.waiting.lock();
        waiting.decoding.remove(&start);
        let done = result.map(|result| match result {
            Ok(span) => waiting.deliver(&span),
            // All reads that wait for this span get the error.
            Err(error) => {
                let span = self.reader.span_range(start).unwrap_or(start..start + 1);
                waiting.fail(&span, &error)
            }
        });
        self.start_all(&mut waiting);
        drop(waiting);
        done.into_iter().flatten().for_each(Served::reply);
    }

    /// The span of `offset`, decoded by the calling thread.
    pub(super) fn span_at(&self, offset: u64) -> Result<Span, Error> {
        loop {
            if let Some(result) = self.try_span_at(offset) {
                return result;
            }
        }
    }

    /// The span of `offset`, decoded by the calling thread. `None` if the saved index turned out to
    /// be wrong: then the frontier is back at the start. This happens at most once per member.
    fn try_span_at(&self, offset: u64) -> Option<Result<Span, Error>> {
        let span = decoded(|| self.reader.span_at(offset)).unwrap_or_else(Err);
        self.judge();
        match span {
            Err(seekable_deflate::Error::StaleIndex) => None,
            result => Some(result.map_err(Error::from).and_then(|span| {
                // Reads are clamped to the size, and the engine checks that the stream has it.
                span.ok_or_else(|| {
                    archive::Error::Short { decoded: offset, size: self.size }.into()
                })
            })),
        }
    }

    /// As [`try_span_at`](Self::try_span_at), for two spans together; `None` if the engine does not
    /// decode this pair together.
    fn try_span_pair_at(&self, offsets: [u64; 2]) -> Option<[Option<Result<Span, Error>>; 2]> {
        let pair = decoded(|| self.reader.span_pair_at(offsets));
        let pair = pair.unwrap_or_else(|error| Some([Err(error.clone()), Err(error)]));
        self.judge();
        let is_stale = |span: &_| matches!(span, Err(seekable_deflate::Error::StaleIndex));
        Some(pair?.map(|span| (!is_stale(&span)).then(|| span.map_err(Error::from))))
    }

    /// Reports to the verdict and to the saved index what decoding found out about the member.
    pub(super) fn judge(&self) {
        if !self.verdict.is_settled() {
            match self.reader.verdict() {
                StreamVerdict::Open => {}
                StreamVerdict::Ended => self.verdict.confirm(),
                StreamVerdict::Damaged(damage) => self.verdict.condemn(damage.into()),
                StreamVerdict::Stopped(error) => self.verdict.stops(error.into()),
            }
        }
        let Some((key, index)) = &self.index else { return };
        if self.reader.has_dropped_index() && self.dropped.first() {
            self.saved.store(0, Ordering::Relaxed);
            self.refuse_saved();
            index.refute(*key);
            self.verdict.condemn(Error::Refuted);
        }
        if self.reader.has_damaged_windows() && self.damaged.first() {
            index.mend();
        }
    }

    /// Starts tasks for the remaining waiters. This ends: each task answers the waiters it was
    /// started for, or gives them more bytes.
    fn start_all(self: &Arc<Self>, waiting: &mut Waiting) {
        let offsets: Vec<u64> = waiting.list.iter().map(|waiter| waiter.missing.start).collect();
        for offset in offsets {
            self.start(waiting, offset);
        }
    }
}

/// Turns a panic of `decode` into an error. Otherwise its reads would wait forever.
fn decoded<T>(decode: impl FnOnce() -> T) -> Result<T, seekable_deflate::Error> {
    panic::catch_unwind(AssertUnwindSafe(decode)).map_err(|_| {
        let error = io::Error::other("its decoder failed");
        seekable_deflate::Error::Source(Arc::new(error))
    })
}

#[cfg(test)]
mod tests;
