//! Reads of decoded bytes at any offset: who waits for which span, and the works to be run for it.
//!
//! All reads of a stream come here, whether they block a thread or are answered by a call. A span
//! is decoded once for all who wait for it. `asker` is one who waits, `table` has all askers,
//! `work` decodes for them, and `blocked` lets a thread wait.

mod asker;
mod blocked;
mod table;
#[cfg(test)]
mod tests;
mod work;

use std::{fmt, io, ops::Range, sync::Arc};

pub use asker::Answers;
use asker::Asker;
use table::{Stage, Table, Ticket};
pub use work::{Outcome, Work};

use crate::{
    Error, IndexError, Memory, Options, ReadAt, SavedIndex, Span, StreamVerdict,
    core::{Core, Place, Trust},
    sync::{Mutex, RwLock},
};

/// Reads decoded bytes of a DEFLATE stream at any offset, for many threads at once.
///
/// The stream is decoded once from its start, as far as reads ask for. This pass leaves
/// checkpoints: before its frontier, a read of a byte decodes one span at most, or a few where
/// windows were given up for want of memory. A span is decoded once for all who wait for it. A read
/// before the frontier never waits for a read beyond it.
///
/// There are two ways to read. [`read_at`](Self::read_at) and [`span_at`](Self::span_at) block
/// their thread, which decodes. [`ask`](Self::ask) notes an asker and returns the [`Work`] to be
/// run: for callers that have threads of their own, and let several streams take turns.
pub struct DeflateReader<R> {
    shared: Arc<Shared<R>>,
}

/// How far a stream has been decoded, and what is known of it and of its adopted index.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Decoded offset up to which the stream has been decoded once.
    pub frontier: u64,
    /// The verdict so far on the stream as a whole.
    pub verdict: StreamVerdict,
    /// Whether an adopted saved index turned out to be wrong. After that, the reader adopts no
    /// other index that reaches farther than the reader.
    pub has_dropped_index: bool,
    /// Whether windows of the adopted index turned out to be damaged, and the index has not been
    /// written since. Writing an index replaces or leaves out damaged windows.
    pub has_damaged_windows: bool,
}

impl<R: ReadAt> DeflateReader<R> {
    /// A reader of the encoded bytes `encoded` of `source`. This call reads nothing yet.
    pub fn new(source: R, encoded: Range<u64>, options: Options, memory: Arc<Memory>) -> Self {
        let (core, table) = (RwLock::new(Core::new(encoded, options, memory)), Mutex::default());
        Self { shared: Arc::new(Shared { source, core, table }) }
    }

    /// Fills `buf` with decoded bytes from `offset` on. Returns fewer bytes only if the stream ends
    /// within `buf`, or if damage [stops](StreamVerdict::Stopped) the stream there. The next read,
    /// which starts at the damage, fails.
    ///
    /// # Errors
    /// See [`Error`]. Bytes before damage that stops the stream stay readable.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        let end = offset.saturating_add(buf.len() as u64);
        let mut filled = 0;
        let mut core = self.shared.core();
        while filled < buf.len() {
            let Some(at) = offset.checked_add(filled as u64) else { break };
            let span = self.shared.wait_for_span(at, end);
            // Another core: a wrong saved index was dropped, so the bytes so far may be wrong. This
            // happens once at most, since the new core relies on no index.
            let now = self.shared.core();
            if !Arc::ptr_eq(&core, &now) {
                (filled, core) = (0, now);
                continue;
            }
            let span = match span {
                Ok(Some(span)) => span,
                Ok(None) => break,
                // Only damage that ends the stream may cut a read short: a short read would hide
                // any other error.
                Err(_) if filled > 0 && self.is_stopped_at(at) => break,
                Err(error) => return Err(error),
            };
            let bytes = span.bytes_from(at).expect("a span holds the byte it was asked for");
            let len = bytes.len().min(buf.len() - filled);
            buf[filled..filled + len].copy_from_slice(&bytes[..len]);
            filled += len;
        }
        Ok(filled)
    }

    /// The span that holds decoded byte `offset`. Decodes the span if necessary, and everything
    /// before it that lies beyond the frontier. `None` at and after the end of the stream.
    ///
    /// # Errors
    /// See [`Error`]. `StaleIndex` is returned only to calls that were running when an adopted
    /// index turned out to be wrong. Call again: the stream is then decoded from its start.
    pub fn span_at(&self, offset: u64) -> Result<Option<Span>, Error> {
        self.shared.wait_for_span(offset, offset.saturating_add(1))
    }

    /// Asks for the decoded bytes of `range`, which must not be empty. If they are cached, calls
    /// `done` at once and returns no work. Else notes the asker, and returns the works that no
    /// other asker has been given: run them, in any thread. The thread that runs the last work that
    /// the asker waits for gets the answer to send.
    ///
    /// `done` is called with fewer bytes only at the end of the stream. With an error it gets none.
    #[must_use = "the works have to be run"]
    pub fn ask(
        &self,
        range: Range<u64>,
        done: impl FnOnce(Result<&[u8], Error>) + Send + 'static,
    ) -> Vec<Work<R>> {
        // Most reads find all their bytes in one cached span.
        let span = self.shared.core().cached_span_at(range.start);
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let bytes = span.as_ref().and_then(|span| span.bytes_from(range.start)?.get(..len));
        if let Some(bytes) = bytes {
            done(Ok(bytes));
            return Vec::new();
        }
        self.shared.note(Asker::for_bytes(range, Box::new(done)))
    }

    /// Like [`ask`](Self::ask), for bytes that are likely to be asked for soon: `range` is only
    /// decoded.
    #[must_use = "the works have to be run"]
    pub fn expect(&self, range: Range<u64>) -> Vec<Work<R>> {
        self.shared.note(Asker::for_nothing(range))
    }

    /// Like [`ask`](Self::ask), for a pass that compares the stream with its checksum: `range` is
    /// only decoded, and then `done` is called. Without `keep`, a span that nobody else asks for is
    /// not cached.
    #[must_use = "the works have to be run"]
    pub fn pass(
        &self,
        range: Range<u64>,
        keep: bool,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Vec<Work<R>> {
        self.shared.note(Asker::for_pass(range, keep, Box::new(done)))
    }

    /// Drops the cached spans that lie wholly within `range`, and keeps other cached spans. For
    /// bytes that are not likely to be read again soon; a later read decodes them again.
    pub fn give_up(&self, range: Range<u64>) {
        self.shared.core().give_up(range);
    }

    /// Drops the bytes that were decoded beyond the frontier, as soon as nobody waits there. For a
    /// stream that is no longer read; the next asker ends this.
    pub fn rest(&self) {
        let mut table = self.shared.table.lock();
        table.is_resting = true;
        self.shared.drop_speculative(&self.shared.core(), &table);
    }

    /// Helps the first pass of another thread: decodes beyond the frontier from places where a
    /// block may begin, and prepares the spans that the frontier reaches next. Returns `false` if
    /// there is nothing to do now.
    ///
    /// For any number of idle threads, to be called in a loop. A call takes a few milliseconds.
    /// Help changes neither the decoded bytes nor the checkpoints of a pass. The bytes decoded
    /// beyond the frontier take three eighths of the memory budget at most. There is nothing to do
    /// near the start and the end of a stream, in a stream that decodes to less than 64 MiB or to
    /// at least six times its encoded size, and for a while after help has turned out not to make
    /// the pass faster. After `false`, call again when another span has been read, or after a tenth
    /// of a millisecond or more. [`Work::wants_help`] tells when it is worth waking a thread.
    #[must_use]
    pub fn help(&self) -> bool {
        let core = self.shared.core();
        core.speculation.help(&self.shared.source)
    }

    /// Continues from a saved index. If the index reaches farther than this reader, it replaces the
    /// reader's own. In any case, windows that the saved index has are no longer held in memory,
    /// but read from where they are saved.
    ///
    /// An index that reaches farther takes effect only after a thread that decodes at the frontier
    /// has finished its span.
    ///
    /// Reads check the content of the index against the stream. An index that turns out to be wrong
    /// is dropped, and the stream is decoded from its start: see
    /// [`has_dropped_index`](Progress::has_dropped_index).
    ///
    /// # Errors
    /// See [`IndexError`]. After an error the reader is unchanged.
    pub fn adopt_index(&self, saved: SavedIndex) -> Result<(), IndexError> {
        self.shared.core().adopt(&saved)
    }

    /// Writes the index of everything decoded so far, for [`SavedIndex::new`]. Packs all windows
    /// that are not packed yet. Returns `false` and writes nothing if the index would be useless:
    /// for a stream of a single span, and for a damaged stream.
    ///
    /// # Errors
    /// [`Error::Source`] and [`Error::Sink`].
    pub fn write_index(&self, out: &mut dyn io::Write) -> Result<bool, Error> {
        self.shared.core().write_index(&self.shared.source, out)
    }

    /// How far the stream has been decoded, and what is known of it and of its adopted index.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let core = self.shared.core();
        let state = core.lock();
        Progress {
            frontier: state.index().frontier(),
            verdict: state.verdict().clone(),
            has_dropped_index: state.trust() == Trust::Refuted,
            has_damaged_windows: state.has_damaged_windows(),
        }
    }

    /// Whether decoded byte `offset` lies at or after damage that ends the stream.
    fn is_stopped_at(&self, offset: u64) -> bool {
        let Progress { frontier, verdict, .. } = self.progress();
        verdict.stopped().is_some() && offset >= frontier
    }
}

/// What a reader and its works share.
struct Shared<R> {
    source: R,
    /// Replaced once, under the lock of `table`, if an adopted saved index turns out to be wrong.
    core: RwLock<Arc<Core>>,
    table: Mutex<Table>,
}

/// What is due after the table has changed: works to run, and answers to send.
struct Due<R: ReadAt> {
    works: Vec<Work<R>>,
    answers: Answers,
}

impl<R: ReadAt> Due<R> {
    fn new(memory: &Arc<Memory>) -> Self {
        Self { works: Vec::new(), answers: Answers::new(memory) }
    }
}

impl<R: ReadAt> Shared<R> {
    fn core(&self) -> Arc<Core> {
        Arc::clone(&self.core.read())
    }

    /// Notes an asker, or answers it if all that it wants is cached. Returns the new works.
    fn note(self: &Arc<Self>, asker: Asker) -> Vec<Work<R>> {
        let mut table = self.table.lock();
        table.is_resting = false;
        let core = self.core();
        let mut due = Due::new(&core.memory);
        self.place(&core, &mut table, asker, &mut due);
        drop(table);
        due.answers.send();
        due.works
    }

    /// Gives `asker` what is cached. If it misses more, notes it at the span of its next byte, and
    /// has the span after that one decoded as well if the asker needs both: the kernel reads 128
    /// KiB around a row, which often lie in two spans, and two threads then decode one each.
    fn place(self: &Arc<Self>, core: &Core, table: &mut Table, mut asker: Asker, due: &mut Due<R>) {
        loop {
            let missing = asker.missing();
            let number = match core.place(missing.start) {
                Err(error) => return due.answers.push(asker.fail(error)),
                Ok(Place::AfterEnd) => return due.answers.push(asker.end()),
                Ok(Place::Beyond(number)) => number,
                Ok(Place::Span(number, range)) => match core.cached_span_at(missing.start) {
                    Some(span) => match asker.feed(&span, &core.memory) {
                        Ok(answer) => return due.answers.push(answer),
                        Err(more) => {
                            asker = more;
                            continue;
                        }
                    },
                    None => {
                        self.note_next(core, table, range.end..missing.end, due);
                        number
                    }
                },
            };
            let new = table.note(number, asker);
            // The first byte is asked for before those of the next span.
            let works = new.map(|ticket| Work::new(self, ticket));
            due.works.splice(0..0, works);
            return;
        }
    }

    /// Has the bytes of `range` that lie in the span at its start decoded, if there are any, and
    /// the span is known but not cached.
    fn note_next(
        self: &Arc<Self>,
        core: &Core,
        table: &mut Table,
        range: Range<u64>,
        due: &mut Due<R>,
    ) {
        if !range.is_empty()
            && let Ok(Place::Span(number, span)) = core.place(range.start)
            && !table.has(number)
            && !core.has(number, range.end)
        {
            let asker = Asker::for_later(range.start..range.end.min(span.end));
            let new = table.note(number, asker);
            due.works.extend(new.map(|ticket| Work::new(self, ticket)));
        }
    }

    /// Drops speculatively decoded bytes if the stream rests and nobody waits at the frontier.
    fn drop_speculative(&self, core: &Core, table: &Table) {
        if table.is_resting && !table.has(core.spans()) {
            core.speculation.clear();
        }
    }
}

impl<R: ReadAt> fmt::Debug for DeflateReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeflateReader")
            .field("frontier", &self.progress().frontier)
            .finish_non_exhaustive()
    }
}
