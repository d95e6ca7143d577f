//! What is known of one stream: its checkpoints and checksums, the verdict on it, what a saved index
//! adds, and which spans threads are decoding now.
//!
//! The methods keep these consistent: the frontier moves only together with its checksum, and stays
//! where it is once there is a verdict. Never decodes, reads or waits.

use std::{collections::HashMap, sync::Arc};

use super::flight::Flight;
use crate::{
    Error, IndexError, Span,
    crc::Sums,
    index::{Checkpoint, Index, Spacing},
    stream::Stream,
    windows::Window,
};

/// What is known of a stream as a whole.
#[derive(Debug, Clone, Default)]
pub enum StreamVerdict {
    /// Decoding has not reached an end yet.
    #[default]
    Open,
    /// All of it has been decoded, and was right.
    Ended,
    /// Damage ends the stream at the frontier: reads from there on fail with this error, reads
    /// before it succeed.
    Stopped(Error),
    /// The stream as a whole is unfit: every read fails with this error.
    Damaged(Error),
}

impl StreamVerdict {
    /// Whether all of the stream has been decoded, and was right.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended)
    }

    /// The damage that ends the stream at the frontier.
    #[must_use]
    pub fn stopped(&self) -> Option<&Error> {
        if let Self::Stopped(error) = self { Some(error) } else { None }
    }

    /// The damage that makes the stream as a whole unfit.
    #[must_use]
    pub fn damage(&self) -> Option<&Error> {
        if let Self::Damaged(error) = self { Some(error) } else { None }
    }
}

/// How far a reader trusts a saved index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// All that is known was decoded here.
    None,
    /// A saved index moved the frontier: only decoding tells whether it was right.
    Relied,
    /// A saved index was wrong: no other may move the frontier.
    Refuted,
}

/// A saved index in the form of a reader's own.
pub(crate) struct Adopted {
    pub(crate) index: Index,
    pub(crate) sums: Sums,
    pub(crate) ended: bool,
}

/// Where a decoded byte is to be had.
pub(crate) enum Place {
    /// In the span of this number.
    Span(usize),
    /// Beyond the frontier.
    Beyond,
    /// Nowhere: the stream ends before it.
    AfterEnd,
}

/// Where the frontier stands, for the thread that decodes the next span.
pub(crate) struct Frontier {
    pub(crate) start: Checkpoint,
    /// The number of the next span.
    pub(crate) number: usize,
    /// Decoded offset from which on the next span ends at the first boundary of symbols.
    pub(crate) end: u64,
    pub(crate) sums: Sums,
    /// The decoder that stands there, unless it was given up.
    pub(crate) live: Option<Box<Stream>>,
}

/// What follows a span that was decoded at the frontier.
pub(crate) enum PassEnd {
    /// This checkpoint, with the decoder that stands there if there is one.
    Next(Checkpoint, Option<Box<Stream>>),
    /// Nothing.
    Final(StreamVerdict),
}

/// What is known of one stream; see the module.
pub(crate) struct State {
    index: Index,
    /// Checksums up to the frontier.
    sums: Sums,
    verdict: StreamVerdict,
    /// The decoder that stands at the frontier, unless it is at work or was given up.
    live: Option<Box<Stream>>,
    /// Spans that threads decode now, by number. The span at the frontier has the number of all
    /// before it.
    flights: HashMap<usize, Arc<Flight>>,
    trust: Trust,
    /// Windows of the saved index turned out to be damaged since the index was last written.
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
            flights: HashMap::new(),
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

    /// Whether the frontier stays where it is.
    pub(crate) fn is_over(&self) -> bool {
        !matches!(self.verdict, StreamVerdict::Open)
    }

    /// Where decoded byte `offset` is to be had, in a stream of `promised` decoded bytes if that is
    /// known.
    pub(crate) fn find(&self, offset: u64, promised: Option<u64>) -> Result<Place, Error> {
        match (&self.verdict, self.index.find(offset)) {
            (StreamVerdict::Damaged(error), _) => Err(error.clone()),
            (_, Some(number)) => Ok(Place::Span(number)),
            (StreamVerdict::Ended, None) => Ok(Place::AfterEnd),
            (_, None) if promised.is_some_and(|len| offset >= len) => Ok(Place::AfterEnd),
            (StreamVerdict::Open, None) => Ok(Place::Beyond),
            (StreamVerdict::Stopped(error), None) => Err(error.clone()),
        }
    }

    /// Bytes of memory that the index and the paused decoder take.
    pub(crate) fn bytes(&self) -> u64 {
        self.index.bytes() + self.live.as_ref().map_or(0, |live| live.memory() as u64)
    }

    /// Gives up windows, or if there are none to give up, the paused decoder.
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

    // The frontier.

    /// What decoding at the frontier goes on from. There must be no verdict yet.
    pub(crate) fn take_frontier(&mut self, spacing: Spacing) -> Frontier {
        let start = self.index.last().expect("without a verdict a checkpoint is last").clone();
        let (number, end) = (self.index.len(), self.index.next_end(spacing));
        Frontier { start, number, end, sums: self.sums, live: self.live.take() }
    }

    /// Notes the span that was decoded at the frontier, if there is one, with its CRC-32, and what
    /// follows it.
    pub(crate) fn advance(&mut self, span: Option<&(Span, u32)>, sums: Sums, end: PassEnd) {
        let (next, live) = match end {
            PassEnd::Next(next, live) => (Some(next), live),
            PassEnd::Final(verdict) => {
                self.verdict = verdict;
                (None, None)
            }
        };
        self.live = live;
        self.sums = sums;
        if let Some((span, crc32)) = span {
            self.index.push(*crc32, span.start() + span.bytes().len() as u64, next);
        }
    }

    // Spans that are being decoded.

    /// Notes that the calling thread decodes span `number`; `Err` has the flight to wait for if
    /// another thread does.
    pub(crate) fn take_off(&mut self, number: usize) -> Result<Arc<Flight>, Arc<Flight>> {
        if let Some(flight) = self.flights.get(&number) {
            return Err(Arc::clone(flight));
        }
        let flight = Arc::new(Flight::new());
        self.flights.insert(number, Arc::clone(&flight));
        Ok(flight)
    }

    pub(crate) fn is_in_flight(&self, number: usize) -> bool {
        self.flights.contains_key(&number)
    }

    /// Threads that wait for span `number`: all that share its flight but the table and the thread
    /// that decodes.
    #[cfg(test)]
    pub(crate) fn waiting_for(&self, number: usize) -> usize {
        self.flights.get(&number).map_or(0, |flight| Arc::strong_count(flight) - 2)
    }

    /// Nobody decodes span `number` any more. `true` if a saved index has waited for that.
    pub(crate) fn end_flight(&mut self, number: usize) -> bool {
        self.flights.remove(&number);
        self.adopting.is_some()
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

    /// Gives up the saved window at checkpoint `number`, which is damaged, if it is still there.
    pub(crate) fn drop_damaged_window(&mut self, number: usize) {
        self.has_damaged_windows |= self.index.drop_saved(number);
    }

    pub(crate) fn has_damaged_windows(&self) -> bool {
        self.has_damaged_windows
    }

    /// Sets whether saved windows are damaged, and returns what was set before.
    pub(crate) fn set_damaged_windows(&mut self, are_damaged: bool) -> bool {
        std::mem::replace(&mut self.has_damaged_windows, are_damaged)
    }

    // A saved index.

    /// Takes a saved index; [`take_over`](Self::take_over) lets it take effect.
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

    /// Goes on from the saved index that was offered, unless a thread decodes at the frontier that
    /// it moves. Says whether the frontier moved, if the index took effect.
    pub(crate) fn take_over(&mut self) -> Option<bool> {
        let adopted = self.adopting.take()?;
        let moves = self.reaches_less_than(&adopted);
        if moves && self.is_in_flight(self.index.len()) {
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

    /// Whether an adopted index has the same spans as far as both know.
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
