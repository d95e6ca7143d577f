//! Reads of decoded bytes at any offset.

use std::{fmt, io, ops::Range, sync::Arc};

use crate::{
    Error, IndexError, Memory, Options, ReadAt, SavedIndex, Span, StreamVerdict,
    core::{Core, Trust},
    sync::RwLock,
};

/// Reads decoded bytes of a DEFLATE stream at any offset, for many threads at once.
///
/// The stream is decoded once from its start, as far as reads ask for. This pass leaves
/// checkpoints: before its frontier, a read of a byte costs one span at most. One thread at a time
/// decodes a span, and all threads that wait for the span share the result. A read before the
/// frontier never waits for a read beyond it.
pub struct DeflateReader<R> {
    source: R,
    /// Replaced once, if an adopted saved index turns out to be wrong.
    core: RwLock<Arc<Core>>,
}

/// The result of `DeflateReader::span_at`.
type Found = Result<Option<Span>, Error>;

impl<R: ReadAt> DeflateReader<R> {
    /// A reader of the encoded bytes `encoded` of `source`. This call reads nothing yet.
    pub fn new(source: R, encoded: Range<u64>, options: Options, memory: Arc<Memory>) -> Self {
        Self { source, core: RwLock::new(Core::new(encoded, options, memory)) }
    }

    fn core(&self) -> Arc<Core> {
        Arc::clone(&self.core.read())
    }

    /// Replaces `stale`, whose saved index was wrong, by a core that begins at the start of the
    /// stream. Happens once, even if several threads notice the wrong index.
    fn drop_index(&self, stale: &Arc<Core>) {
        let mut core = self.core.write();
        if Arc::ptr_eq(&core, stale) {
            *core = stale.anew();
            drop(core);
            stale.forget();
        }
    }

    /// Fills `buf` with decoded bytes from `offset`. Returns fewer bytes only at the end of the
    /// stream, or before damage that [`stopped`](StreamVerdict::Stopped) it; the next read after
    /// such damage fails.
    ///
    /// # Errors
    /// See [`Error`]. Bytes before damage stay readable.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, Error> {
        let mut filled = 0;
        // The next span, if it was decoded together with the one before it.
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
                // This happens once at most: the new core does not rely on a saved index.
                Err(Error::StaleIndex) => {
                    (filled, along) = (0, None);
                    continue;
                }
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
        let core = self.core();
        let span = core.span_at(&self.source, offset);
        if let Err(Error::StaleIndex) = span {
            self.drop_index(&core);
        }
        span
    }

    /// The spans that hold two decoded bytes before the frontier. The calling thread decodes both
    /// at once, which takes three fifths of the time of decoding them one after the other.
    ///
    /// `None`, and nothing is decoded, if this would be no faster, which is so for all data but
    /// noise: see [`is_faster_as_pair`](Self::is_faster_as_pair). Also `None` if one of the spans
    /// is cached, is being decoded, or cannot be decoded without the spans before it.
    ///
    /// # Errors
    /// The same as for [`span_at`](Self::span_at).
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
    /// [`span_pair_at`](Self::span_pair_at) decodes faster than two single calls would. Does not
    /// check whether a span is decoded already. Cheap.
    pub fn is_faster_as_pair(&self, offsets: [u64; 2]) -> bool {
        self.core().pair(offsets).is_some()
    }

    /// The span that holds decoded byte `offset`. Also the next span, if `len` bytes from `offset`
    /// reach into it and both spans were decoded as a pair.
    fn spans_at(&self, offset: u64, len: u64) -> (Found, Option<Found>) {
        let core = self.core();
        let next = core.span_range(offset).map(|span| span.end).filter(|end| end - offset < len);
        match next.and_then(|next| self.span_pair_of(&core, [offset, next])) {
            Some([span, next]) => (span.map(Some), Some(next.map(Some))),
            None => (self.span_at(offset), None),
        }
    }

    /// The range of decoded bytes of the span that holds byte `offset`. `None` if the byte lies at
    /// or after the frontier.
    pub fn span_range(&self, offset: u64) -> Option<Range<u64>> {
        self.core().span_range(offset)
    }

    /// The span that holds decoded byte `offset`, if it is cached. Never waits for decoding.
    pub fn cached_span_at(&self, offset: u64) -> Option<Span> {
        self.core().cached_span_at(offset)
    }

    /// Drops the cached spans that lie wholly within `range`, and keeps other cached spans. For
    /// bytes that are not likely to be read again soon; a later read decodes them again.
    pub fn give_up(&self, range: Range<u64>) {
        self.core().give_up(range);
    }

    /// Helps the first pass of another thread: decodes beyond the frontier from places where a
    /// block may begin, and prepares the spans that the frontier reaches next. Returns `false` if
    /// there is nothing to do now.
    ///
    /// For any number of idle threads, to be called in a loop. A call takes a few milliseconds.
    /// Help changes neither the decoded bytes nor the checkpoints of a pass. The bytes decoded
    /// beyond the frontier take three eighths of the memory budget at most. There is nothing to do
    /// near the start and the end of a stream, in a stream that decodes to less than 64 MiB or to
    /// at least six times its encoded size, and after help has turned out not to make the pass
    /// faster. After `false`, call again when another span has been read, or after a tenth of a
    /// millisecond or more.
    pub fn help(&self) -> bool {
        let core = self.core();
        core.speculation.help(&self.source)
    }

    /// Whether a call of `help` would find something to do now. Cheap: ask this before you wake a
    /// thread for `help`.
    pub fn wants_help(&self) -> bool {
        self.core().speculation.wants_help()
    }

    /// Drops the bytes that were decoded beyond the frontier. For streams that are no longer read.
    pub fn drop_speculative(&self) {
        self.core().speculation.clear();
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
    /// [`has_dropped_index`](Self::has_dropped_index).
    ///
    /// # Errors
    /// See [`IndexError`]. After an error the reader is unchanged.
    pub fn adopt_index(&self, saved: SavedIndex) -> Result<(), IndexError> {
        self.core().adopt(&saved)
    }

    /// Whether an adopted saved index turned out to be wrong. After that, the reader adopts no
    /// other index that reaches farther than the reader.
    pub fn has_dropped_index(&self) -> bool {
        self.core().lock().trust() == Trust::Refuted
    }

    /// Whether windows of the adopted index turned out to be damaged, and the index has not been
    /// written since. Writing an index replaces or leaves out damaged windows.
    pub fn has_damaged_windows(&self) -> bool {
        self.core().lock().has_damaged_windows()
    }

    /// Writes the index of everything decoded so far, for [`SavedIndex::new`]. Packs all windows
    /// that are not packed yet. Returns `false` and writes nothing if the index would be useless:
    /// for a stream of a single span, and for a damaged stream.
    ///
    /// # Errors
    /// [`Error::Source`] and [`Error::Sink`].
    pub fn write_index(&self, out: &mut dyn io::Write) -> Result<bool, Error> {
        self.core().write_index(&self.source, out)
    }

    /// Packs one window that is not packed yet, which takes a fraction of a millisecond. Returns
    /// `false` if there is no such window or the source fails. For idle threads.
    pub fn pack(&self) -> bool {
        self.core().pack(&self.source).unwrap_or(false)
    }

    /// The verdict so far on the stream as a whole.
    pub fn verdict(&self) -> StreamVerdict {
        self.core().lock().verdict().clone()
    }

    /// Decoded offset up to which the stream has been decoded once.
    pub fn frontier(&self) -> u64 {
        self.core().lock().index().frontier()
    }

    /// Whether decoded byte `offset` lies at or after damage that ends the stream.
    fn is_stopped_at(&self, offset: u64) -> bool {
        let core = self.core();
        let state = core.lock();
        state.verdict().stopped().is_some() && offset >= state.index().frontier()
    }

    /// Bytes of memory that the checkpoints and their windows take.
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
