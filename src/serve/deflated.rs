//! A deflated member, decoded span by span by tasks of the pool.
//!
//! The engine notes which reads wait for which span (`DeflateReader::ask`), and returns works. Each
//! work becomes a task of the pool, which decodes one span and answers all reads that waited for
//! it. If they need more, the task continues with the next work, or queues it if the pool has other
//! tasks. So members take turns, and a pass over a large member does not hold up the others.
//!
//! A task that continues leaves the answers to another thread. Waking another thread for the next
//! span instead took an eighth of a pass over noise, whose spans are short.

use std::{
    fmt, io, mem,
    ops::Range,
    sync::{
        Arc,
        mpsc::{self, TryRecvError},
    },
};

use seekable_deflate::{
    Answers, DeflateReader, IndexError, Progress, SavedIndex, StreamVerdict, Work,
};

use super::{
    Error, Reply, Shared,
    index::ArchiveIndex,
    verify::Verdict,
    waiting::{Event, WaitingWorks},
};
use crate::{
    archive::{self, SourceFile},
    saved::{self, StreamKey},
    sync::Mutex,
};

type Works = Vec<Work<Arc<SourceFile>>>;

/// A deflated member: its engine, and its part of the saved indexes.
pub(super) struct Deflated {
    reader: DeflateReader<Arc<SourceFile>>,
    /// Encoded size in bytes.
    encoded_size: u64,
    /// Decoded size in bytes.
    size: u64,
    shared: Arc<Shared>,
    verdict: Arc<Verdict>,
    /// The saved indexes of the archive, and the member's key in them; `None` if the member is too
    /// small or indexes are not saved.
    index: Option<(StreamKey, Arc<ArchiveIndex>)>,
    saved: Mutex<Saved>,
    /// The works that are queued in the pool.
    waiting: WaitingWorks,
}

/// What is known of the saved index of a member.
#[derive(Default)]
struct Saved {
    /// The frontier of the saved index, in decoded bytes.
    frontier: u64,
    /// Whether the saved index cannot be used.
    is_refused: bool,
    /// Whether it has been reported that the saved index was wrong.
    was_dropped: bool,
    /// Whether it has been reported that the saved index has damaged windows.
    was_damaged: bool,
}

impl Saved {
    /// Notes a usable index up to `frontier`.
    fn reach(&mut self, frontier: u64) {
        self.frontier = self.frontier.max(frontier);
        self.is_refused = false;
    }

    /// Notes that the index was wrong. Returns whether that is to be reported.
    fn drop_index(&mut self) -> bool {
        let is_first = !mem::replace(&mut self.was_dropped, true);
        if is_first {
            (self.frontier, self.is_refused) = (0, true);
        }
        is_first
    }

    /// Notes that the index has damaged windows. Returns whether that is to be reported.
    fn damage_windows(&mut self) -> bool {
        !mem::replace(&mut self.was_damaged, true)
    }
}

impl fmt::Debug for Deflated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflated").field("frontier", &self.frontier()).finish()
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
        let (saved, waiting) = (Mutex::default(), WaitingWorks::default());
        let this = Self { reader, encoded_size, size, shared, verdict, index, saved, waiting };
        if let Some((key, index)) = &this.index {
            index.adopt(*key, &this);
        }
        // A saved index that reaches to the end of the member settles its verdict.
        this.judge();
        Arc::new(this)
    }

    /// Decoded offset up to which the member has been decoded once.
    pub(super) fn frontier(&self) -> u64 {
        self.reader.progress().frontier
    }

    /// What decoding has shown of the stream as a whole.
    pub(super) fn stream_verdict(&self) -> StreamVerdict {
        self.reader.progress().verdict
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
        self.saved.lock().reach(frontier);
    }

    /// Notes that the saved index cannot be used.
    pub(super) fn refuse_saved(&self) {
        self.saved.lock().is_refused = true;
    }

    /// Whether the saved index cannot be used.
    pub(super) fn has_refused(&self) -> bool {
        self.saved.lock().is_refused || self.reader.progress().has_damaged_windows
    }

    /// Whether there is something to save: no damage was found, and the member has been decoded
    /// beyond the frontier of its saved index, or can replace damaged windows in that index.
    pub(super) fn has_unsaved(&self) -> bool {
        let Progress { frontier, verdict, has_damaged_windows, .. } = self.reader.progress();
        (frontier > self.saved.lock().frontier || has_damaged_windows)
            && matches!(verdict, StreamVerdict::Open | StreamVerdict::Ended)
    }

    /// Writes the index of this member; `false` if there is nothing to write.
    ///
    /// # Errors
    /// When the source cannot be read, or writing to `out` fails.
    pub(super) fn write_index(&self, out: &mut dyn io::Write) -> Result<bool, saved::Error> {
        self.reader.write_index(out).map_err(saved::Error::from)
    }

    /// Calls `reply` with the bytes of `range`: before this returns if they are cached, else from
    /// another thread. Bytes of one span are passed without a copy.
    pub(super) fn read(
        self: &Arc<Self>,
        range: Range<u64>,
        reply: impl FnOnce(Result<&[u8], Error>) + Send + 'static,
    ) {
        self.queue(self.ask(range, reply));
    }

    /// The bytes of `range`, and whether they were cached. The calling thread waits. Meanwhile it
    /// runs works of this member: it may be a thread of the pool, and the work that it waits for
    /// may be queued after its own task.
    pub(super) fn read_here(self: &Arc<Self>, range: Range<u64>) -> (Result<Vec<u8>, Error>, bool) {
        let (answer, events) = mpsc::channel();
        let answer = Arc::new(answer);
        let thread = Arc::downgrade(&answer);
        let reply = move |bytes: Result<&[u8], _>| {
            // This cannot fail: the receiver waits below.
            let _ = answer.send(Event::Answer(bytes.map(<[u8]>::to_vec)));
        };
        let works = self.ask(range, reply);
        if let Ok(Event::Answer(cached)) = events.try_recv() {
            return (cached, true);
        }
        self.waiting.tell(thread);
        self.work_here(works);
        loop {
            let event = match events.try_recv() {
                Err(TryRecvError::Empty) => match self.waiting.take() {
                    Some(work) => {
                        self.work_here(vec![work]);
                        continue;
                    }
                    None => events.recv().ok(),
                },
                event => event.ok(),
            };
            match event {
                Some(Event::Answer(bytes)) => return (bytes, false),
                Some(Event::Work) => {}
                None => return (Err(io::Error::other("the server ends").into()), false),
            }
        }
    }

    fn ask(
        &self,
        range: Range<u64>,
        reply: impl FnOnce(Result<&[u8], Error>) + Send + 'static,
    ) -> Works {
        let (size, Range { start, end }) = (self.size, range.clone());
        self.reader.ask(range, move |bytes| {
            reply(match bytes {
                // Not expected: reads end at `size`, and the engine checks that the stream has
                // `size` bytes.
                Ok(bytes) if start + (bytes.len() as u64) < end => {
                    let decoded = start + bytes.len() as u64;
                    Err(archive::Error::Short { decoded, size }.into())
                }
                bytes => bytes.map_err(Error::from),
            });
        })
    }

    /// Continues the first pass to at least decoded byte `target`, then calls `reply` with no
    /// bytes. A span that no read waits for is dropped from the cache at once, unless `keep` is
    /// set.
    pub(super) fn pass_to(self: &Arc<Self>, target: u64, keep: bool, reply: Reply) {
        self.queue(self.pass(target, keep, reply));
    }

    fn pass(&self, target: u64, keep: bool, reply: Reply) -> Works {
        let (frontier, target) = (self.judge().frontier, target.min(self.size));
        if frontier >= target || self.verdict.is_settled() {
            reply(self.verdict.judge(Ok(&[])));
            return Works::new();
        }
        let done = |passed: Result<(), _>| reply(passed.map(|()| &[][..]).map_err(Error::from));
        self.reader.pass(frontier..target, keep, done)
    }

    /// Compares the whole member with its CRC-32 in this thread, unless another thread is about to.
    /// For a member of one span.
    pub(super) fn compare_at_once(self: &Arc<Self>) {
        // An error is ignored here: the next read of the member returns it.
        let works = self.pass(self.size, true, Box::new(|_| ()));
        self.work_here(works);
    }

    /// Queues the decoding of `range`, which has not been requested yet. It must not be empty.
    pub(super) fn read_ahead(self: &Arc<Self>, range: Range<u64>) {
        self.queue(self.reader.expect(range));
    }

    /// Decodes those of `ranges` that are not cached, before they are requested. Skips ranges
    /// beyond the frontier, since a long pass may lie before them. Skips all while other tasks wait
    /// for a thread: requested bytes go first, and these ranges may never be requested.
    pub(super) fn read_beside(self: &Arc<Self>, ranges: Vec<Range<u64>>) {
        for range in ranges {
            // Allows for one waiting task: the thread that has just answered this reader is about
            // to take it.
            let is_room = self.shared.decode.short_of() <= 1;
            if is_room && !range.is_empty() && range.end <= self.frontier() {
                self.read_ahead(range);
            }
        }
    }

    /// Queues each work as a task of the pool.
    fn queue(self: &Arc<Self>, works: Works) {
        for work in works {
            let (this, work) = (self.clone(), self.waiting.add(work));
            self.shared.decode.spawn(move || {
                if let Some(work) = work.take() {
                    this.work(work);
                }
            });
        }
    }

    /// Runs the first of `works` in this thread. Queues the others, and the works that follow.
    fn work_here(self: &Arc<Self>, works: Works) {
        let mut works = works.into_iter();
        let first = works.next();
        self.queue(works.collect());
        if let Some(first) = first {
            let (answers, next) = self.run(first);
            self.queue(next);
            answers.send();
        }
    }

    /// Runs `work` and what follows from it, until another task waits for a thread.
    fn work(self: Arc<Self>, mut work: Work<Arc<SourceFile>>) {
        loop {
            if self.shared.idle.have_one() && work.wants_help() {
                let this = self.clone();
                self.shared.decode.spawn_if_idle(move || this.help());
            }
            let (answers, mut next) = self.run(work);
            if next.is_empty() || self.shared.decode.has_work() {
                self.queue(next);
                return answers.send();
            }
            work = next.remove(0);
            self.queue(next);
            if !answers.is_empty() {
                self.shared.reply.spawn(move || answers.send());
            }
        }
    }

    fn run(&self, work: Work<Arc<SourceFile>>) -> (Answers, Works) {
        let outcome = work.run(self.shared.decode.is_short());
        // Judge before the answers are sent: the reads of a condemned member must fail.
        let frontier = self.judge().frontier;
        if let Some((_, index)) = &self.index
            && outcome.advanced > 0
        {
            index.progress(outcome.advanced, frontier >= self.size);
        }
        (outcome.answers, outcome.next)
    }

    /// Decodes beyond the frontier until a task needs this thread or another process needs its
    /// core.
    fn help(self: Arc<Self>) {
        self.shared.idle.use_one(|| !self.shared.decode.has_work(), || self.reader.help());
    }

    #[cfg(test)]
    pub(super) fn reader(&self) -> &DeflateReader<Arc<SourceFile>> {
        &self.reader
    }

    /// Drops the cached spans that lie wholly within `range`.
    pub(super) fn give_up(&self, range: Range<u64>) {
        self.reader.give_up(range);
    }

    /// Drops speculatively decoded spans, as soon as no task works at the frontier.
    pub(super) fn rest(&self) {
        self.reader.rest();
    }

    /// Reports to the verdict and to the saved index what decoding found out about the member.
    /// Returns the progress of the reader.
    fn judge(&self) -> Progress {
        let progress = self.reader.progress();
        if !self.verdict.is_settled() {
            match &progress.verdict {
                StreamVerdict::Open => {}
                StreamVerdict::Ended => self.verdict.confirm(),
                StreamVerdict::Damaged(damage) => self.verdict.condemn(damage.clone().into()),
                StreamVerdict::Stopped(error) => self.verdict.stops(error.clone().into()),
            }
        }
        if let Some((key, index)) = &self.index {
            if progress.has_dropped_index && self.saved.lock().drop_index() {
                index.refute(*key);
                self.verdict.condemn(Error::Refuted);
            }
            if progress.has_damaged_windows && self.saved.lock().damage_windows() {
                index.mend();
            }
        }
        progress
    }
}

#[cfg(test)]
mod tests;
