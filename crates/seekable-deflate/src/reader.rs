//! Reads of decoded bytes at any offset.

use std::{fmt, io, ops::Range, sync::Arc};

use crate::{
    Error, IndexError, Memory, Options, ReadAt, SavedIndex, Span, StreamVerdict,
    core::{Core, Trust},
    sync::RwLock,
};

/// Decoded bytes of a DEFLATE stream, at any offset, for many threads at once.
///
/// The stream is decoded once from its start as far as reads ask for, which leaves checkpoints;
/// before that frontier a read costs one span at most. Each span is decoded by one thread at a
/// time, and all that wait for it share it. Readers before the frontier never wait for one
/// beyond it.
pub struct DeflateReader<R> {
    source: R,
    /// Another, once, when a saved index that was adopted turns out to be wrong.
    core: RwLock<Arc<Core>>,
}

/// What `DeflateReader::span_at` returns.
type Found = Result<Option<Span>, Error>;

impl<R: ReadAt> DeflateReader<R> {
    /// A reader of the encoded bytes `encoded` of `source`. Nothing is read yet.
    pub fn new(source: R, encoded: Range<u64>, options: Options, memory: Arc<Memory>) -> Self {
        Self { source, core: RwLock::new(Core::new(encoded, options, memory)) }
    }

    fn core(&self) -> Arc<Core> {
        Arc::clone(&self.core.read())
    }

    /// Replaces `stale`, whose saved index was wrong, by a core that begins at the start; once,
    /// however many threads notice.
    fn drop_index(&self, stale: &Arc<Core>) {
        let mut core = self.core.write();
        if Arc::ptr_eq(&core, stale) {
            *core = stale.anew();
            drop(core);
            stale.forget();
        }
    }

    /// Fills `buf` with decoded bytes from `offset`; fewer only at the end of the stream, or
    /// where damage [`stopped`](StreamVerdict::Stopped) it: then the next read fails.
    ///
    /// # Errors
    /// See [`Error`]. Bytes before damage stay readable.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        let mut filled = 0;
        // What was decoded along with the span before it.
        let mut along = None;
        while filled < buf.len() {
            let Some(at) = offset.checked_add(filled as u64) else { break };
            let span = match along.take() {
                Some(span) => span,
                None => {
                    let (span, next) = self.spans_at(at, (buf.len() - filled) as u64);
                    along = next;
                    span
                }
            };
            let span = match span {
                Ok(Some(span)) => span,
                Ok(None) => break,
                // Once: then there is none.
                Err(Error::StaleIndex) => {
                    (filled, along) = (0, None);
                    continue;
                }
                // Any other error is not of the stream's end: a short read would hide it.
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

    /// The span that holds decoded byte `offset`, decoding it, and all before it if it lies
    /// beyond the frontier; `None` at and after the end of the stream.
    ///
    /// # Errors
    /// See [`Error`]. `StaleIndex` comes only to calls that were under way when an adopted index
    /// turned out to be wrong: ask again then, which decodes from the start.
    pub fn span_at(&self, offset: u64) -> Result<Option<Span>, Error> {
        let core = self.core();
        let span = core.span_at(&self.source, offset);
        if let Err(Error::StaleIndex) = span {
            self.drop_index(&core);
        }
        span
    }

    /// The spans that hold two decoded bytes before the frontier, decoded by the calling thread at
    /// once, which takes three fifths of the time that one after the other does.
    ///
    /// `None`, and nothing is done, where it would be no faster, as it is for all data but noise:
    /// see [`is_faster_as_pair`](Self::is_faster_as_pair). Or where one of them is cached, or being
    /// decoded, or cannot be decoded without those before it.
    ///
    /// # Errors
    /// As for [`span_at`](Self::span_at).
    pub fn span_pair_at(&self, offsets: [u64; 2]) -> Option<[Result<Span, Error>; 2]> {
        self.span_pair_of(&self.core(), offsets)
    }

    fn span_pair_of(
        &self,
        core: &Arc<Core>,
        offsets: [u64; 2],
    ) -> Option<[Result<Span, Error>; 2]> {
        let pair = core.span_pair_at(&self.source, offsets)?;
        if pair.iter().any(|span| matches!(span, Err(Error::StaleIndex))) {
            self.drop_index(core);
        }
        Some(pair)
    }

    /// Whether two decoded bytes lie before the frontier in different spans that
    /// [`span_pair_at`](Self::span_pair_at) is faster for than one after the other, if neither is
    /// decoded. Cheap.
    pub fn is_faster_as_pair(&self, offsets: [u64; 2]) -> bool {
        self.core().pair(offsets).is_some()
    }

    /// The span that holds decoded byte `offset`; and the next, if `len` bytes from there reach into
    /// it and it was decoded along.
    fn spans_at(&self, offset: u64, len: u64) -> (Found, Option<Found>) {
        let core = self.core();
        let next = core.span_range(offset).map(|span| span.end).filter(|end| end - offset < len);
        match next.and_then(|next| self.span_pair_of(&core, [offset, next])) {
            Some([span, next]) => (span.map(Some), Some(next.map(Some))),
            None => (self.span_at(offset), None),
        }
    }

    /// The decoded bytes of the span that holds byte `offset`, if that has been decoded once:
    /// `None` from the frontier on.
    pub fn span_range(&self, offset: u64) -> Option<Range<u64>> {
        self.core().span_range(offset)
    }

    /// The span that holds decoded byte `offset`, if it is decoded already. Never blocks on
    /// decoding.
    pub fn cached_span_at(&self, offset: u64) -> Option<Span> {
        self.core().cached_span_at(offset)
    }

    /// Drops the decoded spans that lie wholly within `range`, before others that are cached: for
    /// bytes that nobody is likely to ask for soon. A read of them decodes them again.
    pub fn give_up(&self, range: Range<u64>) {
        self.core().give_up(range);
    }

    /// Works for a first pass that others make: decodes beyond the frontier from places where a
    /// block may begin, and makes ready what the frontier comes to. `false` if there is nothing
    /// to do now.
    ///
    /// For threads that have nothing better to do, any number of them, in a loop. A call takes a
    /// few milliseconds. What a pass yields is the same with help and without, its checkpoints
    /// included; what is decoded beyond the frontier takes three eighths of the memory at most. There is nothing
    /// to do near the start and the end of a stream, in one that decodes to less than 64 MiB or to
    /// six times its size and more, nor once help turned out not to pay. After `false`, look again
    /// when another span has been read, or after a tenth of a millisecond or more.
    pub fn help(&self) -> bool {
        let core = self.core();
        core.ahead.help(&self.source)
    }

    /// Whether a call of `help` would find something to do now. Cheap: to be asked before a thread
    /// is woken for it.
    pub fn wants_help(&self) -> bool {
        self.core().ahead.wants_help()
    }

    /// Drops what was decoded beyond the frontier: for streams that nobody reads any more.
    pub fn drop_speculative(&self) {
        self.core().ahead.clear();
    }

    /// Goes on from a saved index: one that reaches farther than this reader takes the place of its
    /// own; windows of the others are no longer held in memory but read where they are saved.
    ///
    /// While a thread decodes at the frontier, an index that reaches farther waits for the end of
    /// that span.
    ///
    /// What an index says is checked against the stream as reads come to it. One that turns out to be
    /// wrong is dropped, and the stream is decoded from its start: see
    /// [`has_dropped_index`](Self::has_dropped_index).
    ///
    /// # Errors
    /// See [`IndexError`]; then nothing has changed.
    pub fn adopt_index(&self, saved: SavedIndex) -> Result<(), IndexError> {
        self.core().adopt(&saved)
    }

    /// Whether a saved index that was adopted turned out to be wrong. Another that reaches farther
    /// than this reader is not adopted any more.
    pub fn has_dropped_index(&self) -> bool {
        self.core().lock().trust() == Trust::Refuted
    }

    /// Whether windows of the saved index that was adopted turned out to be damaged, and the index
    /// has not been written since: then that has good ones.
    pub fn has_damaged_windows(&self) -> bool {
        self.core().lock().has_damaged_windows()
    }

    /// Writes the index of what is decoded so far, for [`SavedIndex::new`]; windows that are not
    /// packed yet are packed. `false`, and nothing is written, if it would be of no use: for a
    /// single span, and for a stream with damage.
    ///
    /// # Errors
    /// [`Error::Source`] and [`Error::Sink`].
    pub fn write_index(&self, out: &mut dyn io::Write) -> Result<bool, Error> {
        self.core().write_index(&self.source, out)
    }

    /// Packs one window that is not packed yet, which takes a fraction of a millisecond; `false`
    /// if there is none, or the source fails. For threads that have nothing better to do.
    pub fn pack(&self) -> bool {
        self.core().pack(&self.source).unwrap_or(false)
    }

    /// What is known of the stream as a whole by now.
    pub fn verdict(&self) -> StreamVerdict {
        self.core().lock().verdict().clone()
    }

    /// How far the stream has been decoded once, in decoded bytes.
    pub fn frontier(&self) -> u64 {
        self.core().lock().index().frontier()
    }

    /// Whether decoded byte `offset` lies at or after the damage that ends the stream.
    fn is_stopped_at(&self, offset: u64) -> bool {
        let core = self.core();
        let state = core.lock();
        state.verdict().stopped().is_some() && offset >= state.index().frontier()
    }

    /// Bytes that the checkpoints and their windows take.
    pub fn index_bytes(&self) -> u64 {
        self.core().lock().index().bytes()
    }
}

impl<R: ReadAt> fmt::Debug for DeflateReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeflateReader")
            .field("frontier", &self.core().lock().index().frontier())
            .finish_non_exhaustive()
    }
}
