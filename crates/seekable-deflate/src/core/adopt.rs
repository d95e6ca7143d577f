//! Going on from a saved index.

use std::sync::Arc;

use super::{Core, State, flight::Landing};
use crate::{
    IndexError, SavedIndex,
    crc::Sums,
    index::{Checkpoint, Index},
    saved::Record,
    windows::Window,
};

/// A saved index that fits a reader, in the form of its own.
pub(crate) struct Adopted {
    index: Index,
    sums: Sums,
    ended: bool,
}

impl Core {
    /// See `DeflateReader::adopt_index`.
    pub(crate) fn adopt(self: &Arc<Self>, saved: &SavedIndex) -> Result<(), IndexError> {
        let adopted = self.adopted(saved)?;
        let mut state = self.lock();
        if !state.agrees_with(&adopted) {
            return Err(IndexError::OtherSpans);
        }
        if state.is_behind(&adopted) && !self.may_rely_on_saved {
            return Err(IndexError::Distrusted);
        }
        state.adopting = Some(adopted);
        drop(state);
        self.take_over_adopted(false);
        Ok(())
    }

    /// Lets an index that was adopted take effect. Only who has the turn at the frontier may move
    /// it, or anybody while nobody has.
    pub(crate) fn take_over_adopted(self: &Arc<Self>, has_turn: bool) {
        let mut state = self.lock();
        let Some(adopted) = state.adopting.take() else { return };
        let moves = state.is_behind(&adopted);
        if moves && state.advancing && !has_turn {
            state.adopting = Some(adopted);
            return;
        }
        if !state.agrees_with(&adopted) {
            return;
        }
        state.take_over(adopted);
        // They look again.
        let waiting = if moves { std::mem::take(&mut state.ahead) } else { Vec::new() };
        let bytes = state.bytes();
        drop(state);
        for (_, flight) in waiting {
            flight.land(Landing::Abandoned);
        }
        if moves {
            self.ahead.clear();
        }
        self.memory.set_index(self.id, self, bytes);
    }

    /// Compares a saved index with what is known of the stream.
    fn adopted(&self, saved: &SavedIndex) -> Result<Adopted, IndexError> {
        let header = saved.header();
        let (mine, theirs) = (&self.options, &header.options);
        for (differs, what) in [
            (mine.format != theirs.format, "format"),
            (self.encoded.end - self.encoded.start != header.encoded_len, "encoded length"),
            (mine.decoded_len != theirs.decoded_len, "promised length"),
            (mine.crc32 != theirs.crc32, "promised checksum"),
        ] {
            if differs {
                return Err(IndexError::OtherStream(what));
            }
        }
        let adopted = Adopted { index: index(saved), sums: header.sums, ended: header.complete };
        let most = self.spacing.longest_span();
        let spans = (0..adopted.index.len()).map(|number| adopted.index.span(number));
        let longest = spans.map(|span| span.end - span.start.decoded).max().unwrap_or(0);
        if longest > most {
            return Err(IndexError::SpanTooLong { len: longest, most });
        }
        let frontier = adopted.index.frontier();
        let fits = match adopted.ended {
            true => self.judge_whole(adopted.sums.whole).is_none(),
            false => mine.decoded_len.is_none_or(|len| frontier < len),
        };
        if fits { Ok(adopted) } else { Err(IndexError::Corrupt("the frontier")) }
    }
}

impl State {
    /// Whether an adopted index knows more of the stream.
    fn is_behind(&self, adopted: &Adopted) -> bool {
        (self.index.frontier(), self.ended) < (adopted.index.frontier(), adopted.ended)
    }

    /// Whether an adopted index says the same, as far as both know.
    fn agrees_with(&self, adopted: &Adopted) -> bool {
        let (mine, theirs) = (&self.index, &adopted.index);
        let ended = self.ended || self.stopped.is_some();
        let (shorter, longer, over) = match self.is_behind(adopted) {
            true => (mine, theirs, ended),
            false => (theirs, mine, adopted.ended),
        };
        let contradicts = over && shorter.frontier() < longer.frontier();
        self.damage.is_none() && !contradicts && shorter.begins(longer)
    }

    fn take_over(&mut self, adopted: Adopted) {
        if self.is_behind(&adopted) {
            self.index.extend(&adopted.index);
            self.sums = adopted.sums;
            self.ended = adopted.ended;
            self.relies_on_saved = true;
            self.live = None;
        }
        self.index.take_windows(&adopted.index);
    }
}

/// The checkpoints of a saved index.
fn index(saved: &SavedIndex) -> Index {
    let records = saved.records();
    let mut checkpoints = Vec::with_capacity(records.len());
    let mut crcs = Vec::with_capacity(records.len());
    let frontier = saved.frontier();
    for (number, (record, window)) in records.enumerate() {
        let Record { encoded, decoded, place, crc32, .. } = *record;
        let window = window.map(Window::Saved).or((number == 0).then(Window::default));
        checkpoints.push(Checkpoint { encoded, decoded, place, window });
        if decoded < frontier {
            crcs.push(crc32);
        }
    }
    Index::from_parts(checkpoints, crcs, frontier)
}
