//! The state that all readers of one stream share, and the decoding that they do.
//!
//! A lock, held only briefly, covers the state (`state`); no thread decodes or reads the source
//! while it holds the lock. `frontier` decodes the stream for the first time, `spans` decodes spans
//! before the frontier again. A thread waits here only for a helper that already makes the next
//! span (`speculation`). `reader` sees to it that a span is decoded once for all who wait for it.

mod adopt;
mod frontier;
mod packing;
mod save;
mod spans;
mod state;

use std::{ops::Range, sync::Arc};

use crate::{
    Error, Memory, Options, Span,
    index::Spacing,
    memory::{ReaderId, Thin},
    speculation::{Speculation, Tuning},
    sync::{Mutex, MutexGuard},
};

use state::State;
pub use state::StreamVerdict;
pub(crate) use state::{Place, Trust};

/// A reader of a stream, without the source.
pub(crate) struct Core {
    /// The bytes of the source that hold the stream.
    pub(crate) encoded: Range<u64>,
    pub(crate) options: Options,
    pub(crate) spacing: Spacing,
    pub(crate) memory: Arc<Memory>,
    pub(crate) id: ReaderId,
    /// Speculative decoding by helper threads.
    pub(crate) speculation: Speculation,
    state: Mutex<State>,
}

impl Core {
    pub(crate) fn new(encoded: Range<u64>, options: Options, memory: Arc<Memory>) -> Arc<Self> {
        Arc::new(Self::nothing_known(encoded, options, memory, Trust::None))
    }

    /// A new core of the same stream that begins at the start and relies on no saved index.
    pub(crate) fn anew(&self) -> Arc<Self> {
        let (encoded, options) = (self.encoded.clone(), self.options.clone());
        Arc::new(Self::nothing_known(encoded, options, Arc::clone(&self.memory), Trust::Refuted))
    }

    fn nothing_known(
        encoded: Range<u64>,
        options: Options,
        memory: Arc<Memory>,
        trust: Trust,
    ) -> Self {
        // Offsets in bits must fit into a `u64`, so the range is cut to 2^60 bytes.
        let len = encoded.end.saturating_sub(encoded.start).min(1 << 60);
        let encoded = encoded.start..encoded.start + len;
        Self {
            speculation: Speculation::new(Tuning::DEFAULT, encoded.clone(), Arc::clone(&memory)),
            encoded,
            spacing: Spacing::new(options.spacing, memory.limit()),
            id: memory.add_reader(),
            memory,
            options,
            state: Mutex::new(State::new(trust)),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Where decoded byte `offset` lies.
    ///
    /// # Errors
    /// The damage that makes every read of this byte fail.
    pub(crate) fn place(&self, offset: u64) -> Result<Place, Error> {
        self.lock().find(offset, self.options.decoded_len)
    }

    /// Number of spans before the frontier.
    pub(crate) fn spans(&self) -> usize {
        self.lock().index().len()
    }

    /// The span of decoded byte `offset`, if that byte is cached.
    pub(crate) fn cached_span_at(&self, offset: u64) -> Option<Span> {
        let Ok(Place::Span(number, _)) = self.place(offset) else { return None };
        self.memory.span(self.id, number).filter(|span| span.bytes_from(offset).is_some())
    }

    /// See `DeflateReader::give_up`.
    pub(crate) fn give_up(&self, range: Range<u64>) {
        let state = self.lock();
        let numbers = state.index().within(&range);
        drop(state);
        self.memory.give_up(self.id, numbers);
    }

    /// `error`, or `StaleIndex` if it may be due to a wrong saved index.
    pub(crate) fn or_stale(&self, error: Error) -> Error {
        match error {
            Error::Source(_) | Error::Sink(_) => error,
            _ if self.lock().trust() == Trust::Relied => Error::StaleIndex,
            _ => error,
        }
    }

    /// Drops everything that this core holds in `memory`, and all speculative decoding.
    pub(crate) fn forget(&self) {
        self.speculation.clear();
        self.memory.remove_reader(self.id);
    }
}

#[cfg(test)]
impl Core {
    /// The span that holds decoded byte `offset`, for tests with one thread at the frontier.
    pub(crate) fn span_at(
        self: &Arc<Self>,
        source: &dyn crate::ReadAt,
        offset: u64,
    ) -> Result<Option<Span>, Error> {
        loop {
            match self.place(offset)? {
                Place::AfterEnd => return Ok(None),
                Place::Span(number, _) => return self.span_to(source, number, u64::MAX).map(Some),
                Place::Beyond(_) => {
                    let span = self.advance(source)?;
                    if let Some(span) = span.filter(|span| span.bytes_from(offset).is_some()) {
                        return Ok(Some(span));
                    }
                }
            }
        }
    }
}

impl Thin for Core {
    /// Gives up memory whose content can be rebuilt: windows first, then the paused decoder.
    /// Returns the bytes that are still held.
    fn thin(&self) -> u64 {
        let mut state = self.lock();
        state.thin();
        state.bytes()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    /// A stream of 50,000 decoded bytes, whose promised CRC-32 is `crc32`.
    fn core(crc32: Option<u32>) -> (Arc<Core>, Vec<u8>) {
        let (encoded, options) = testing::fifty_blocks();
        let options = Options { crc32, ..options };
        (Core::new(0..encoded.len() as u64, options, Memory::new(1 << 20)), encoded)
    }

    #[test]
    fn a_core_without_windows_to_give_up_gives_up_the_paused_decoder() {
        let (core, encoded) = core(None);
        core.span_at(&encoded, 30_000).unwrap();
        assert!(core.lock().has_live());
        (0..10).for_each(|_| _ = core.thin());
        assert!(!core.lock().has_live());
        assert!(core.span_at(&encoded, 49_999).is_ok());
    }

    #[test]
    fn bytes_of_a_damaged_stream_that_come_into_the_cache_late_are_not_given() {
        let (core, encoded) = core(Some(7));
        let span = core.span_at(&encoded, 0).unwrap().unwrap();
        assert!(core.span_at(&encoded, 49_999).is_err());
        // Insert the span late, like a thread that was still decoding it when the damage was found.
        core.memory.insert(core.id, 0, &span);
        assert!(core.cached_span_at(0).is_none());
    }
}
