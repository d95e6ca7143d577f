//! Decoding from a place where a block may begin, before it is known what stands before it.

use std::{
    ops::{Range, RangeInclusive},
    sync::Arc,
};

use super::{Buffers, find::Finder, planes};
use crate::{
    BitOffset, ReadAt,
    inflate::{Bits, Decoder, HISTORY, Input, MARGIN, MAX_MATCH, Output, Place, Stop},
    memory::Reserved,
};

/// Where a decoder stood between two symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stand {
    /// Bytes decoded before it, from the start of the piece.
    pub(super) len: usize,
    pub(super) encoded: BitOffset,
    pub(super) place: Place,
}

/// Some decoded bytes of a chunk.
pub(super) struct Piece {
    /// One buffer if all of it is known, else both.
    pub(super) buffers: Vec<Buffer>,
    /// Where the bytes lie in the buffers.
    pub(super) range: Range<usize>,
    /// Where decoding can start again: first at the start, last at the end.
    pub(super) stands: Vec<Stand>,
}

/// A buffer, counted as long as it is there.
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pub(super) reserved: Reserved,
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    pub(super) fn end(&self) -> Stand {
        *self.stands.last().expect("there is one at the start")
    }
}

/// Bytes that a piece has at most, not counting the rest of a match.
pub(super) const PIECE: usize = 256 << 10;
/// Bytes between two stands. A checkpoint costs decoding half of that once more.
const STEP: usize = 32 << 10;
/// Length of a buffer for a piece.
pub(super) const BUFFER: usize = HISTORY + PIECE + MAX_MATCH + MARGIN;

/// What came of some work.
pub(super) enum Worked {
    /// The start of a block, perhaps. It may be taken back as long as there is no piece.
    Found(RangeInclusive<u64>),
    Piece(Arc<Piece>),
    /// More of it.
    Search,
    /// No memory for now.
    Starved,
    /// It goes no further.
    Ended,
}

/// A chunk that is being searched for or decoded.
pub(super) struct Speculator {
    encoded: Range<u64>,
    finder: Finder,
    decoding: Option<Decoding>,
    ended: bool,
}

struct Decoding {
    lanes: Vec<Lane>,
    stand: (BitOffset, Place),
    pieces: usize,
}

/// One of two decoders that do the same behind another window.
struct Lane {
    input: Input,
    decoder: Decoder,
    window: Vec<u8>,
}

impl Speculator {
    /// One that starts at the first block it finds from byte `from` on.
    pub(super) fn new(encoded: Range<u64>, from: u64) -> Self {
        let finder = Finder::new(encoded.clone(), from);
        Self { encoded, finder, decoding: None, ended: false }
    }

    /// Where in the stream it stands, in bytes.
    pub(super) fn position(&self) -> u64 {
        match &self.decoding {
            Some(decoding) => decoding.stand.0.0 / 8,
            None => self.finder.position(),
        }
    }

    /// Does what takes a fraction of a millisecond. Another chunk takes over at byte `halt`.
    pub(super) fn work(&mut self, source: &dyn ReadAt, halt: u64, buffers: &Buffers) -> Worked {
        if self.ended {
            return Worked::Ended;
        }
        if self.decoding.is_none() {
            return self.search(source, halt);
        }
        self.decode(source, halt, buffers)
    }

    fn search(&mut self, source: &dyn ReadAt, halt: u64) -> Worked {
        let end = (self.encoded.end - self.encoded.start).min(halt);
        if self.finder.position() >= end {
            self.ended = true;
            return Worked::Ended;
        }
        match self.finder.step(source, &self.encoded) {
            Ok(None) => Worked::Search,
            Ok(Some(found)) => {
                let at = BitOffset(*found.end());
                let lanes = planes::windows().map(|window| Lane {
                    input: Input::new(self.encoded.clone()),
                    decoder: Decoder::new(),
                    window,
                });
                let stand = (at, Place::BlockHeader);
                self.decoding = Some(Decoding { lanes: lanes.into(), stand, pieces: 0 });
                let decoding = self.decoding.as_mut().expect("it was just put there");
                let resumed = decoding.lanes.iter_mut().try_for_each(|lane| {
                    let mut bits = Bits::new(&mut lane.input, source);
                    lane.decoder.resume(&mut bits, at, Place::BlockHeader, u64::MAX)
                });
                self.ended = resumed.is_err();
                Worked::Found(found)
            }
            Err(_) => {
                self.ended = true;
                Worked::Ended
            }
        }
    }

    fn decode(&mut self, source: &dyn ReadAt, halt: u64, buffers: &Buffers) -> Worked {
        let Some(decoding) = &mut self.decoding else { return Worked::Search };
        let Some(first) = buffers.take() else { return Worked::Starved };
        let second = match decoding.lanes.len() {
            1 => None,
            _ => match buffers.take() {
                Some(second) => Some(second),
                None => {
                    buffers.give(first);
                    return Worked::Starved;
                }
            },
        };
        let halt = BitOffset(halt.saturating_mul(8));
        match decoding.piece(source, halt, first, second) {
            Some((piece, goes_on)) => {
                self.ended = !goes_on;
                Worked::Piece(Arc::new(piece))
            }
            // What fails so soon was no block.
            None if decoding.pieces == 0 => {
                self.decoding = None;
                Worked::Search
            }
            None => {
                self.ended = true;
                Worked::Ended
            }
        }
    }
}

impl Decoding {
    /// The next piece, and whether there is more behind it. `None` if there is nothing, or not
    /// from all lanes.
    fn piece(
        &mut self,
        source: &dyn ReadAt,
        halt: BitOffset,
        first: Buffer,
        second: Option<Buffer>,
    ) -> Option<(Piece, bool)> {
        let (encoded, place) = self.stand;
        let mut stands = vec![Stand { len: 0, encoded, place }];
        let lane = &mut self.lanes[0];
        lane.decoder.halt_at(halt);
        let mut out = Output::new(first.bytes, &lane.window);
        let mut goes_on = true;
        while goes_on && out.len() < PIECE {
            let limit = (out.len() + STEP).min(PIECE);
            let mut bits = Bits::new(&mut lane.input, source);
            match lane.decoder.decode(&mut bits, &mut out, limit) {
                Ok(Stop::Limit) => {}
                Ok(Stop::Block) => goes_on = false,
                // The last stand is the last good one: it is for the frontier to see what
                // comes then. Ends of streams are its business as well.
                Ok(Stop::End) | Err(_) => {
                    goes_on = false;
                    break;
                }
            }
            let place = lane.decoder.place()?;
            stands.push(Stand { len: out.len(), encoded: lane.input.position(), place });
        }
        let end = *stands.last().expect("there is one at the start");
        if end.len == 0 {
            return None;
        }
        self.stand = (end.encoded, end.place);
        self.pieces += 1;
        let (bytes, range) = out.into_parts();
        let range = range.start..range.start + end.len;
        let mut filled = vec![Buffer { bytes, reserved: first.reserved }];
        if let Some(second) = second {
            let lane = &mut self.lanes[1];
            let mut out = Output::new(second.bytes, &lane.window);
            while out.len() < end.len {
                let mut bits = Bits::new(&mut lane.input, source);
                match lane.decoder.decode(&mut bits, &mut out, end.len) {
                    Ok(Stop::Limit) => {}
                    _ => return None,
                }
            }
            filled.push(Buffer { bytes: out.into_parts().0, reserved: second.reserved });
        }
        for (lane, buffer) in self.lanes.iter_mut().zip(&filled) {
            lane.window.copy_from_slice(&buffer.bytes[range.end - HISTORY..range.end]);
        }
        // Nothing is unknown any more.
        if let [first, second] = &self.lanes[..]
            && first.window == second.window
        {
            self.lanes.truncate(1);
        }
        Some((Piece { buffers: filled, range, stands }, goes_on))
    }
}
