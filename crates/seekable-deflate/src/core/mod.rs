//! What all readers of one stream share.
//!
//! One short lock covers the checkpoints and who works on what; nothing is decoded or read under
//! it. `frontier` decodes the stream for the first time, `behind` decodes spans again.

mod adopt;
mod behind;
mod flight;
mod frontier;
mod packing;
mod save;
#[cfg(test)]
mod waiting;

use std::{collections::HashMap, ops::Range, sync::Arc};

use adopt::Adopted;
use flight::Flight;

use crate::{
    Error, Memory, Options, ReadAt, Span,
    crc::Sums,
    index::{Index, Spacing},
    memory::{ReaderId, Thin},
    speculation::{Ahead, Tuning},
    stream::Stream,
    sync::{Mutex, MutexGuard},
};

/// The reader of a stream, but for the source.
pub(crate) struct Core {
    /// What the stream is of its source.
    pub(crate) encoded: Range<u64>,
    pub(crate) options: Options,
    pub(crate) spacing: Spacing,
    pub(crate) memory: Arc<Memory>,
    pub(crate) id: ReaderId,
    /// What helpers do for the frontier.
    pub(crate) ahead: Ahead,
    /// Whether a saved index may say what has not been decoded here: not after one was wrong.
    pub(crate) may_rely_on_saved: bool,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) index: Index,
    /// Checksums up to the frontier.
    pub(crate) sums: Sums,
    /// The decoder that stands at the frontier, unless it is at work or was given up.
    pub(crate) live: Option<Box<Stream>>,
    /// Somebody decodes at the frontier.
    pub(crate) advancing: bool,
    /// Who waits for it, and for which decoded byte.
    pub(crate) ahead: Vec<(u64, Arc<Flight>)>,
    /// Spans that are being decoded again.
    pub(crate) behind: HashMap<usize, Arc<Flight>>,
    /// The frontier is the end of the stream.
    pub(crate) ended: bool,
    /// A saved index said how far the frontier is: only decoding tells whether it was right.
    pub(crate) relies_on_saved: bool,
    /// Windows of a saved index turned out to be damaged since the index was last written.
    pub(crate) saved_is_damaged: bool,
    /// A saved index that waits for its turn at the frontier.
    pub(crate) adopting: Option<Adopted>,
    /// Why it cannot advance.
    pub(crate) stopped: Option<Error>,
    /// Why nothing of it is good.
    pub(crate) damage: Option<Error>,
}

impl Core {
    pub(crate) fn new(encoded: Range<u64>, options: Options, memory: Arc<Memory>) -> Arc<Self> {
        Arc::new(Self::nothing_known(encoded, options, memory, true))
    }

    /// The same stream from its start, without what a saved index said.
    pub(crate) fn anew(&self) -> Arc<Self> {
        let (encoded, options) = (self.encoded.clone(), self.options.clone());
        Arc::new(Self::nothing_known(encoded, options, Arc::clone(&self.memory), false))
    }

    fn nothing_known(
        encoded: Range<u64>,
        options: Options,
        memory: Arc<Memory>,
        may_rely_on_saved: bool,
    ) -> Self {
        // Places are counted in bits, so a range of 2^61 bytes and more has to be cut short.
        let len = encoded.end.saturating_sub(encoded.start).min(1 << 60);
        let encoded = encoded.start..encoded.start + len;
        Self {
            may_rely_on_saved,
            ahead: Ahead::new(Tuning::DEFAULT, encoded.clone(), Arc::clone(&memory)),
            encoded,
            spacing: Spacing::new(options.spacing, memory.limit()),
            id: memory.add_reader(),
            memory,
            options,
            state: Mutex::new(State {
                index: Index::new(),
                sums: Sums::default(),
                live: None,
                advancing: false,
                ahead: Vec::new(),
                behind: HashMap::new(),
                ended: false,
                relies_on_saved: false,
                saved_is_damaged: false,
                adopting: None,
                stopped: None,
                damage: None,
            }),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// See `DeflateReader::span_at`.
    pub(crate) fn span_at(
        self: &Arc<Self>,
        source: &dyn ReadAt,
        offset: u64,
    ) -> Result<Option<Span>, Error> {
        loop {
            let state = self.lock();
            if let Some(damage) = &state.damage {
                return Err(damage.clone());
            }
            if let Some(number) = state.index.find(offset) {
                drop(state);
                let span = self.span(source, number).map_err(|error| self.or_stale(error));
                return span.map(Some);
            }
            if state.ended || self.options.decoded_len.is_some_and(|len| offset >= len) {
                return Ok(None);
            }
            if let Some(stopped) = &state.stopped {
                return Err(stopped.clone());
            }
            drop(state);
            if let Some(span) = self.advance(source, offset)? {
                return Ok(Some(span));
            }
        }
    }

    /// See `DeflateReader::cached_span_at`.
    pub(crate) fn cached_span_at(&self, offset: u64) -> Option<Span> {
        let state = self.lock();
        if state.damage.is_some() {
            return None;
        }
        let number = state.index.find(offset)?;
        drop(state);
        self.memory.span(self.id, number)
    }

    /// See `DeflateReader::span_range`.
    pub(crate) fn span_range(&self, offset: u64) -> Option<Range<u64>> {
        let state = self.lock();
        state.index.find(offset).map(|number| state.index.range(number))
    }

    /// See `DeflateReader::give_up`.
    pub(crate) fn give_up(&self, range: Range<u64>) {
        let state = self.lock();
        let numbers = state.index.within(&range);
        drop(state);
        self.memory.give_up(self.id, numbers);
    }

    /// What `error` means: where a saved index said what there is, perhaps that it is wrong.
    pub(crate) fn or_stale(&self, error: Error) -> Error {
        match error {
            Error::Source(_) | Error::Sink(_) => error,
            _ if self.lock().relies_on_saved => Error::StaleIndex,
            _ => error,
        }
    }

    /// Gives up all memory.
    pub(crate) fn forget(&self) {
        self.ahead.clear();
        self.memory.remove_reader(self.id);
    }
}

impl Thin for Core {
    /// Gives up what can be had again for more time: windows first, then the paused decoder.
    /// Returns the bytes that are still held.
    fn thin(&self) -> u64 {
        let mut state = self.lock();
        let before = state.index.bytes();
        state.index.thin();
        if state.index.bytes() == before {
            state.live = None;
        }
        state.bytes()
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.forget();
    }
}

impl State {
    /// Whether advancing the frontier does not bring decoded byte `offset` nearer.
    pub(crate) fn has_nothing_ahead_for(&self, offset: u64) -> bool {
        let over = self.ended || self.stopped.is_some() || self.damage.is_some();
        over || offset < self.index.frontier()
    }

    /// Bytes of memory that the index and the paused decoder take.
    pub(crate) fn bytes(&self) -> u64 {
        self.index.bytes() + self.live.as_ref().map_or(0, |live| live.memory() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    /// A stream of 50,000 bytes, which are to have this CRC-32.
    fn core(crc32: Option<u32>) -> (Arc<Core>, Vec<u8>) {
        let (encoded, options) = testing::fifty_blocks();
        let options = Options { crc32, ..options };
        (Core::new(0..encoded.len() as u64, options, Memory::new(1 << 20)), encoded)
    }

    #[test]
    fn who_has_no_window_left_to_give_up_gives_up_the_paused_decoder() {
        let (core, encoded) = core(None);
        core.span_at(&encoded, 30_000).unwrap();
        assert!(core.lock().live.is_some());
        (0..10).for_each(|_| _ = core.thin());
        assert!(core.lock().live.is_none());
        assert!(core.span_at(&encoded, 49_999).is_ok());
    }

    #[test]
    fn bytes_of_a_damaged_stream_that_come_into_the_cache_late_are_not_given() {
        let (core, encoded) = core(Some(7));
        let span = core.span_at(&encoded, 0).unwrap().unwrap();
        assert!(core.span_at(&encoded, 49_999).is_err());
        // As by a thread that was at it.
        core.memory.insert(core.id, 0, &span);
        assert!(core.cached_span_at(0).is_none());
    }
}
