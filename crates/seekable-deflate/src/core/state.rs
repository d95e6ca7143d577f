//! The state of one stream: its checkpoints and checksums, the verdict on it, and an adopted saved
//! index.
//!
//! The methods keep these parts consistent: the frontier moves only together with its checksum, and
//! it no longer moves after a verdict. This module never decodes, reads or waits.

use std::ops::Range;

use crate::{
    Error, IndexError, Span,
    crc::{SpanCrcs, Sums},
    index::{Checkpoint, Index, Spacing},
    stream::Stream,
    windows::Window,
};

/// What decoding has shown of a stream as a whole.
#[derive(Debug, Clone, Default)]
pub enum StreamVerdict {
    /// Decoding has not reached an end yet.
    #[default]
    Open,
    /// The whole stream has been decoded, and passed all checks.
    Ended,
    /// Damage ends the stream at the frontier: reads at or after the frontier fail with this error,
    /// reads before it succeed.
    Stopped(Error),
    /// No byte of the stream can be trusted: every read fails with this error.
    Damaged(Error),
}

impl StreamVerdict {
    /// Whether the whole stream has been decoded, and passed all checks.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// The damage that ends the stream at the frontier.
    #[must_use]
    pub fn stopped(&self) -> Option<&Error> {
        if let Self::Stopped(error) = self { Some(error) } else { None }
    }

    /// The damage that makes every read fail.
    #[must_use]
    pub fn damage(&self) -> Option<&Error> {
        if let Self::Damaged(error) = self { Some(error) } else { None }
    }
}

/// Whether the reader relies on a saved index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The reader decoded everything up to the frontier itself.
    None,
    /// A saved index moved the frontier: only decoding can show whether the index was right.
    Relied,
    /// A saved index was wrong: no other index may move the frontier.
    Refuted,
}

/// A saved index, converted to the type of the reader's own index.
pub(crate) struct Adopted {
    pub(crate) index: Index,
    pub(crate) sums: Sums,
    pub(crate) ended: bool,
}

/// Where a decoded byte lies.
pub(crate) enum Place {
    /// In the span of this number, which has these decoded bytes.
    Span(usize, Range<u64>),
    /// Beyond the frontier. The span at the frontier gets this number.
    Beyond(usize),
    /// Nowhere: the stream ends at or before this offset.
    AfterEnd,
}

/// The frontier, for the thread that decodes the next span.
pub(crate) struct Frontier {
    pub(crate) start: Checkpoint,
    /// The number of the next span.
    pub(crate) number: usize,
    /// The next span ends at the first symbol boundary at or after this decoded offset.
    pub(crate) end: u64,
    pub(crate) sums: Sums,
    /// The decoder that is paused at the frontier, unless it was given up.
    pub(crate) live: Option<Box<Stream>>,
}

/// What comes after a span that was decoded at the frontier.
pub(crate) enum PassEnd {
    /// The next checkpoint, and the decoder that is paused there if there is one.
    Next(Checkpoint, Option<Box<Stream>>),
    /// The end of the pass, with this verdict.
    Final(StreamVerdict),
}

/// The state of one stream; see the module.
pub(crate) struct State {
    index: Index,
    /// Checksums up to the frontier.
    sums: Sums,
    verdict: StreamVerdict,
    /// The decoder that is paused at the frontier. `None` while it runs or after it was given up.
    live: Option<Box<Stream>>,
    /// Whether a thread decodes at the frontier.
    is_advancing: bool,
    trust: Trust,
    /// Whether saved windows turned out to be damaged since the index was last written.
    has_damaged_windows: bool,
    /// A saved index that waits until no thread decodes at the frontier.
    adopting: Option<Adopted>,
}

impl State {
    pub(crate) fn new(trust: Trust) -> Self {
        Self {
            index: Index::new(),
            sums: Sums::default(),
            verdict: StreamVerdict::Open,
            live: None,
            is_advancing: false,
            trust,
            has_damaged_windows: false,
            adopting: None,
        }
    }

    /// The checkpoints up to the frontier.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) fn verdict(&self) -> &StreamVerdict {
        &self.verdict
    }

    pub(crate) fn trust(&self) -> Trust {
        self.trust
    }

    pub(crate) fn sums(&self) -> Sums {
        self.sums
    }

    /// Whether there is a verdict, so that the frontier no longer moves.
    pub(crate) fn is_over(&self) -> bool {
        !matches!(self.verdict, StreamVerdict::Open)
    }

    /// Where decoded byte `offset` lies. `promised` is the decoded length of the stream, if it is
    /// known.
    pub(crate) fn find(&self, offset: u64, promised: Option<u64>) -> Result<Place, Error> {
        match (&self.verdict, self.index.find(offset)) {
            (StreamVerdict::Damaged(error), _) => Err(error.clone()),
            (_, Some(number)) => Ok(Place::Span(number, self.index.range(number))),
            (StreamVerdict::Ended, None) => Ok(Place::AfterEnd),
            (_, None) if promised.is_some_and(|len| offset >= len) => Ok(Place::AfterEnd),
            (StreamVerdict::Open, None) => Ok(Place::Beyond(self.index.len())),
            (StreamVerdict::Stopped(error), None) => Err(error.clone()),
        }
    }

    /// Bytes of memory that the index and the paused decoder take.
    pub(crate) fn bytes(&self) -> u64 {
        self.index.bytes() + self.live.as_ref().map_or(0, |live| live.memory() as u64)
    }

    /// Gives up windows. If there are none to give up, gives up the paused decoder.
    pub(crate) fn thin(&mut self) {
        let before = self.index.bytes();
        self.index.thin();
        if self.index.bytes() == before {
            self.live = None;
        }
    }

    /// Whether a decoder is kept at the frontier.
    #[cfg(test)]
    pub(crate) fn has_live(&self) -> bool {
        self.live.is_some()
    }

    // For the thread that decodes at the frontier.

    /// The checkpoint, decoder and checksums with which the calling thread continues at the
    /// frontier, until [`give_back`](Self::give_back). `None` if another thread does, or if there
    /// is a verdict.
    pub(crate) fn take_frontier(&mut self, spacing: Spacing) -> Option<Frontier> {
        if self.is_advancing || self.is_over() {
            return None;
        }
        self.is_advancing = true;
        let start = self.index.last().expect("without a verdict a checkpoint is last").clone();
        let (number, end) = (self.index.len(), self.index.next_end(spacing));
        Some(Frontier { start, number, end, sums: self.sums, live: self.live.take() })
    }

    /// Notes that no thread decodes at the frontier any more. Returns whether a saved index waits
    /// for this.
    pub(crate) fn give_back(&mut self) -> bool {
        self.is_advancing = false;
        self.adopting.is_some()
    }

    /// Records what a thread has decoded at the frontier: the span with its checksums, if there is
    /// a span, the checksums up to the new frontier, and what comes after the span.
    pub(crate) fn advance(&mut self, span: Option<&(Span, SpanCrcs)>, sums: Sums, end: PassEnd) {
        let (next, live) = match end {
            PassEnd::Next(next, live) => (Some(next), live),
            PassEnd::Final(verdict) => {
                self.verdict = verdict;
                (None, None)
            }
        };
        self.live = live;
        self.sums = sums;
        if let Some((span, crcs)) = span {
            self.index.push(crcs.clone(), span.start() + span.bytes().len() as u64, next);
        }
    }

    // Windows.

    pub(crate) fn put_missing(&mut self, number: usize, window: &[u8]) -> bool {
        self.index.put_missing(number, window)
    }

    pub(crate) fn replace(&mut self, number: usize, unpacked: &Window, packed: Window) {
        self.index.replace(number, unpacked, packed);
    }

    pub(crate) fn take_unpacked(&mut self) -> Option<usize> {
        self.index.take_unpacked(self.is_over())
    }

    /// Drops the damaged saved window of checkpoint `number`, unless it has been replaced already.
    pub(crate) fn drop_damaged_window(&mut self, number: usize) {
        self.has_damaged_windows |= self.index.drop_saved(number);
    }

    pub(crate) fn has_damaged_windows(&self) -> bool {
        self.has_damaged_windows
    }

    /// Sets whether saved windows are damaged, and returns the previous value.
    pub(crate) fn set_damaged_windows(&mut self, are_damaged: bool) -> bool {
        std::mem::replace(&mut self.has_damaged_windows, are_damaged)
    }

    // A saved index.

    /// Stores a saved index until [`take_over`](Self::take_over) lets it take effect.
    pub(crate) fn offer(&mut self, adopted: Adopted) -> Result<(), IndexError> {
        if !self.agrees_with(&adopted) {
            return Err(IndexError::OtherSpans);
        }
        if self.reaches_less_than(&adopted) && self.trust == Trust::Refuted {
            return Err(IndexError::Distrusted);
        }
        self.adopting = Some(adopted);
        Ok(())
    }

    /// Lets the offered index take effect, unless it moves the frontier while a thread decodes
    /// there. Returns whether the frontier moved, or `None` if the index did not take effect.
    pub(crate) fn take_over(&mut self) -> Option<bool> {
        let adopted = self.adopting.take()?;
        let moves = self.reaches_less_than(&adopted);
        if moves && self.is_advancing {
            self.adopting = Some(adopted);
            return None;
        }
        if !self.agrees_with(&adopted) {
            return None;
        }
        if moves {
            self.index.extend(&adopted.index);
            self.sums = adopted.sums;
            if adopted.ended {
                self.verdict = StreamVerdict::Ended;
            }
            self.trust = Trust::Relied;
            self.live = None;
        }
        self.index.take_windows(&adopted.index);
        Some(moves)
    }

    fn reaches_less_than(&self, adopted: &Adopted) -> bool {
        let mine = (self.index.frontier(), self.verdict.is_ended());
        mine < (adopted.index.frontier(), adopted.ended)
    }

    /// Whether the adopted index and this one have the same spans, as far as both reach.
    fn agrees_with(&self, adopted: &Adopted) -> bool {
        let (mine, theirs) = (&self.index, &adopted.index);
        let (shorter, longer, shorter_is_over) = match self.reaches_less_than(adopted) {
            true => (mine, theirs, self.is_over()),
            false => (theirs, mine, adopted.ended),
        };
        let contradicts = shorter_is_over && shorter.frontier() < longer.frontier();
        self.verdict.damage().is_none() && !contradicts && shorter.begins(longer)
    }
}
