//! A deflated member, decoded span by span by tasks of the pool.
//!
//! Reads whose spans are at hand are answered at once. Others are parked, and at most one task
//! stands in the pool for the frontier and one for each span behind it, whatever the number of
//! waiters. A task decodes one span and answers all who waited for it. If somebody still waits for
//! the frontier, it goes on with the next span, or queues itself again if the pool has other work:
//! so members take turns, and a pass over a large one holds up nobody.
//!
//! A task that goes on leaves the answers to another thread. To wake one for the next span instead
//! took an eighth of a pass over spans of 256 KiB (noise, cat: 349 MB/s, now 395).
//!
//! Where more spans wait than there are threads, a task takes two of them if the engine decodes
//! both faster at once than one after the other.
//!
//! Threads of the pool that have nothing to do decode ahead of the frontier on cores that are idle
//! (`idle`), where the engine finds that it pays.

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
pub struct Deflated {
    reader: DeflateReader<Arc<SourceFile>>,
    /// In bytes.
    encoded_size: u64,
    /// Decoded, in bytes.
    size: u64,
    shared: Arc<Shared>,
    verdict: Arc<Verdict>,
    waiting: Mutex<Waiting>,
    /// What saves its index, if that is worth it, and under which name.
    index: Option<(StreamKey, Arc<ArchiveIndex>)>,
    /// How far its saved index reaches, in decoded bytes.
    saved: AtomicU64,
    /// What was saved cannot be used.
    refused: AtomicBool,
    /// Whether it is known that the reader dropped its saved index.
    dropped: Once,
    /// Whether it is known that what was saved has damaged windows.
    damaged: Once,
}

impl fmt::Debug for Deflated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflated").field("frontier", &self.reader.frontier()).finish()
    }
}

impl Deflated {
    pub fn new(
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
        // What was saved of it may reach to its end.
        this.judge();
        Arc::new(this)
    }

    pub fn reader(&self) -> &DeflateReader<Arc<SourceFile>> {
        &self.reader
    }

    /// Encoded, in bytes.
    pub fn encoded_size(&self) -> u64 {
        self.encoded_size
    }

    /// Saves its index from now on.
    pub fn save_index(self: &Arc<Self>) {
        if let Some((key, index)) = &self.index {
            index.register(*key, self);
        }
    }

    /// Goes on from a saved index.
    ///
    /// # Errors
    /// When it is of another stream.
    pub fn adopt_index(&self, index: SavedIndex) -> Result<(), IndexError> {
        let frontier = index.frontier();
        self.reader.adopt_index(index)?;
        self.set_saved(frontier);
        Ok(())
    }

    /// Notes that its saved index reaches so far.
    pub fn set_saved(&self, frontier: u64) {
        self.saved.fetch_max(frontier, Ordering::Relaxed);
        self.refused.store(false, Ordering::Relaxed);
    }

    /// Notes that what is saved cannot be used.
    pub fn refuse_saved(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Whether what is saved cannot be used.
    pub fn has_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed) || self.reader.has_damaged_windows()
    }

    /// Whether it has been decoded farther than its saved index says, or can be saved better than
    /// it is, and is good so far.
    pub fn has_unsaved(&self) -> bool {
        (self.reader.frontier() > self.saved.load(Ordering::Relaxed)
            || self.reader.has_damaged_windows())
            && matches!(self.reader.verdict(), StreamVerdict::Open | StreamVerdict::Ended)
    }

    /// Writes its index; `false` if there is nothing to write.
    ///
    /// # Errors
    /// When the source cannot be read, or `out` does not take it.
    pub fn write_index(&self, out: &mut dyn io::Write) -> Result<bool, saved::Error> {
        self.reader.write_index(out).map_err(saved::Error::from)
    }

    /// Copies the bytes of `range` into `scratch` or finds them in one span, if that needs no
    /// decoding, and gives them to `reply`; else gives `reply` back.
    pub fn read_ready<F: FnOnce(Result<&[u8], Error>)>(
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

    /// Decodes `range` and gives it to `reply`, later.
    pub fn read_later(self: &Arc<Self>, range: Range<u64>, reply: Reply) {
        self.park(Waiter::read(range, reply));
    }

    /// Makes the pass come to decoded byte `target` at least, then tells `reply`. What nobody else
    /// wants is given up along the way, unless it is to be kept.
    pub fn pass_to(self: &Arc<Self>, target: u64, keep: bool, reply: Reply) {
        self.judge();
        let frontier = self.reader.frontier();
        if frontier >= target.min(self.size) || self.verdict.is_settled() {
            return reply(self.verdict.judge(Ok(&[])));
        }
        self.park(Waiter::pass(frontier..target.min(self.size), keep, reply));
    }

    /// Compares all of it in this thread: for a member of one span.
    pub fn compare_at_once(&self) {
        // Why it cannot be read, the read that follows says as well.
        let _ = self.span_at(self.size.saturating_sub(1));
    }

    /// Decodes `range` before anybody asks.
    pub fn read_ahead(self: &Arc<Self>, range: Range<u64>) {
        self.park(Waiter::ahead(range));
    }

    /// Decodes those of `ranges` that are not at hand before anybody asks. Only behind the frontier,
    /// for what lies ahead of it may be far; and only while others do not wait for threads: what is
    /// asked for goes first, and what is not may never be.
    pub fn read_beside(self: &Arc<Self>, ranges: Vec<Range<u64>>) {
        for range in ranges {
            // The thread that has just answered this reader is about to take one task.
            let is_room = self.shared.decode.short_of() <= 1;
            let is_behind = range.end <= self.reader.frontier();
            if is_behind && is_room && !self.is_at_hand(range.clone()) {
                self.park(Waiter::ahead(range));
            }
        }
    }

    fn is_at_hand(&self, mut range: Range<u64>) -> bool {
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
        // What the kernel reads around a row often lies in two spans: two threads decode them.
        if let Some(range) = range
            && range.end < waiter.missing.end
            && self.reader.span_range(range.end).is_some()
        {
            self.start(&mut waiting, range.end);
        }
        waiting.list.push(waiter);
    }

    /// Sees to it that a task is on its way to decode the span of `offset`. Returns the decoded
    /// bytes of that span if it has been decoded before.
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
            // From the start, if what was saved turned out to be wrong.
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
            // Each turn moves the frontier or fails, which leaves nobody ahead of it.
            let goes_on = waiting.list.iter().any(|waiter| waiter.missing.start >= frontier);
            waiting.advancing = goes_on && !self.shared.decode.has_work();
            let here = waiting.advancing;
            self.start_all(&mut waiting);
            let rests = waiting.resting && !waiting.advancing;
            drop(waiting);
            if rests {
                self.reader.drop_ahead();
            }
            if passed_over {
                // On the way to what is asked for. The next span is decoded into the same buffer,
                // which is still in the caches.
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

    /// Decodes ahead of the frontier as long as nobody else wants this thread or its core.
    fn help(self: Arc<Self>) {
        self.shared.idle.use_one(|| !self.shared.decode.has_work(), || self.reader.help());
    }

    /// Gives up what was decoded ahead of the frontier, as soon as it does not go on.
    pub fn rest(&self) {
        let mut waiting = self.waiting.lock();
        waiting.resting = true;
        let rests = !waiting.advancing;
        drop(waiting);
        if rests {
            self.reader.drop_ahead();
        }
    }

    /// Whether that was the last that happened to it.
    #[cfg(test)]
    pub fn rests(&self) -> bool {
        self.waiting.lock().resting
    }

    /// Decodes the span that begins at `start`, unless another task does.
    fn decode(self: Arc<Self>, start: u64) {
        let Some(other) = self.begin(start) else { return };
        let pair = other.and_then(|other| Some((other, self.try_span_pair_at([start, other])?)));
        if let Some((other, [first, second])) = pair {
            self.deliver(start, first);
            self.deliver(other, second);
            return;
        }
        for start in [Some(start), other].into_iter().flatten() {
            // The frontier is before `start` if the saved index turned out to be wrong: then the
            // task at the frontier goes on.
            let is_known = self.reader.span_range(start).is_some();
            let result = if is_known { self.try_span_at(start) } else { None };
            self.deliver(start, result);
        }
    }

    /// Takes over the span that begins at `start`; `None` if another task has. Also takes over one
    /// more queued span if no thread is free for it and one thread decodes both faster at once.
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

    /// Hands out the span that begins at `start`, which the calling task has taken over.
    fn deliver(self: &Arc<Self>, start: u64, result: Option<Result<Span, Error>>) {
        let mut waiting = self.waiting.lock();
        waiting.decoding.remove(&start);
        let done = result.map(|result| match result {
            Ok(span) => waiting.deliver(&span),
            // All who wait for this span get the error.
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
    pub fn span_at(&self, offset: u64) -> Result<Span, Error> {
        loop {
            if let Some(result) = self.try_span_at(offset) {
                return result;
            }
        }
    }

    /// The span of `offset`, decoded by the calling thread. `None`, once, says that the saved index
    /// was wrong, and that the frontier is at the start again.
    fn try_span_at(&self, offset: u64) -> Option<Result<Span, Error>> {
        let span = decoded(|| self.reader.span_at(offset)).unwrap_or_else(Err);
        self.judge();
        match span {
            Err(seekable_deflate::Error::StaleIndex) => None,
            result => Some(result.map_err(Error::from).and_then(|span| {
                // Reads are clamped to the size, and the reader checks the length it was told.
                span.ok_or_else(|| {
                    archive::Error::Short { decoded: offset, size: self.size }.into()
                })
            })),
        }
    }

    /// As `try_span_at` for two spans at once; `None` if that is not to be had.
    fn try_span_pair_at(&self, offsets: [u64; 2]) -> Option<[Option<Result<Span, Error>>; 2]> {
        let pair = decoded(|| self.reader.span_pair_at(offsets));
        let pair = pair.unwrap_or_else(|error| Some([Err(error.clone()), Err(error)]));
        self.judge();
        let is_stale = |span: &_| matches!(span, Err(seekable_deflate::Error::StaleIndex));
        Some(pair?.map(|span| (!is_stale(&span)).then(|| span.map_err(Error::from))))
    }

    /// Looks whether decoding found something out about the member or its saved index.
    pub fn judge(&self) {
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

    /// Starts what the waiters that are left need. Each task ends or feeds the waiters it was
    /// started for, so this comes to an end.
    fn start_all(self: &Arc<Self>, waiting: &mut Waiting) {
        let offsets: Vec<u64> = waiting.list.iter().map(|waiter| waiter.missing.start).collect();
        for offset in offsets {
            self.start(waiting, offset);
        }
    }
}

/// What `decode` returns. A panic that went on would leave the waiters waiting for ever.
fn decoded<T>(decode: impl FnOnce() -> T) -> Result<T, seekable_deflate::Error> {
    panic::catch_unwind(AssertUnwindSafe(decode)).map_err(|_| {
        let error = io::Error::other("its decoder failed");
        seekable_deflate::Error::Source(Arc::new(error))
    })
}

#[cfg(test)]
mod tests;
