//! Decoding from a place where a block may begin, before it is known what stands before it.

use std::{
    ops::{Range, RangeInclusive},
    sync::Arc,
};

use super::{
    buffers::{Buffers, PIECE, Units},
    find::Finder,
    markers,
};
use crate::{
    BitOffset, ByteOffset, ReadAt,
    inflate::{Bits, Decoder, Fault, HISTORY, Input, Matches, Output, Place, Stop, Unit},
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
    pub(super) units: Units,
    /// Where they lie in the buffer.
    pub(super) range: Range<usize>,
    /// Where decoding can start again: first at the start, last at the end.
    pub(super) stands: Vec<Stand>,
    pub(super) matches: Matches,
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    pub(super) fn end(&self) -> Stand {
        *self.stands.last().expect("there is one at the start")
    }
}

/// Bytes between two stands. A checkpoint costs decoding half of that once more.
const STEP: usize = 32 << 10;

/// What came of some work.
pub(super) enum Worked {
    /// The start of a block, perhaps. It may be taken back as long as there is no piece.
    Found(RangeInclusive<BitOffset>),
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
    input: Input,
    decoder: Decoder,
    window: Window,
    stand: (BitOffset, Place),
    pieces: usize,
}

/// What stands before the next piece.
enum Window {
    Bytes(Vec<u8>),
    Marked(Vec<u16>),
}

impl Speculator {
    /// One that starts at the first block it finds from byte `from` on.
    pub(super) fn new(encoded: Range<u64>, from: ByteOffset) -> Self {
        let finder = Finder::new(encoded.clone(), from);
        Self { encoded, finder, decoding: None, ended: false }
    }

    /// Where in the stream it stands.
    pub(super) fn position(&self) -> ByteOffset {
        match &self.decoding {
            Some(decoding) => decoding.stand.0.byte(),
            None => self.finder.position(),
        }
    }

    /// Does what takes a fraction of a millisecond. Another chunk takes over at byte `halt`.
    pub(super) fn work(
        &mut self,
        source: &dyn ReadAt,
        halt: ByteOffset,
        buffers: &Buffers,
    ) -> Worked {
        if self.ended {
            return Worked::Ended;
        }
        if self.decoding.is_none() {
            return self.search(source, halt);
        }
        self.decode(source, halt, buffers)
    }

    fn search(&mut self, source: &dyn ReadAt, halt: ByteOffset) -> Worked {
        let end = ByteOffset(self.encoded.end - self.encoded.start).min(halt);
        if self.finder.position() >= end {
            self.ended = true;
            return Worked::Ended;
        }
        match self.finder.step(source, &self.encoded) {
            Ok(None) => Worked::Search,
            Ok(Some(found)) => {
                let at = *found.end();
                let (resumed, decoding) = Decoding::new(self.encoded.clone(), source, at);
                self.decoding = Some(decoding);
                self.ended = resumed.is_err();
                Worked::Found(found)
            }
            Err(_) => {
                self.ended = true;
                Worked::Ended
            }
        }
    }

    fn decode(&mut self, source: &dyn ReadAt, halt: ByteOffset, buffers: &Buffers) -> Worked {
        let Some(decoding) = &mut self.decoding else { return Worked::Search };
        decoding.decoder.halt_at(halt.bit());
        let Some(decoded) = decoding.piece(source, buffers) else { return Worked::Starved };
        match decoded {
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
    /// Before the header of a block.
    fn new(encoded: Range<u64>, source: &dyn ReadAt, at: BitOffset) -> (Result<(), Fault>, Self) {
        let (mut input, mut decoder) = (Input::new(encoded), Decoder::new());
        decoder.stop_short();
        let place = Place::BlockHeader;
        let mut bits = Bits::new(&mut input, source);
        let resumed = decoder.resume(&mut bits, at, place, u64::MAX);
        let window = Window::Marked(markers::window());
        (resumed, Self { input, decoder, window, stand: (at, place), pieces: 0 })
    }

    /// The next piece, and whether there is more behind it; `None` in it if there is nothing.
    /// `None` if there is no buffer.
    fn piece(&mut self, source: &dyn ReadAt, buffers: &Buffers) -> Option<Option<(Piece, bool)>> {
        let (input, decoder) = (&mut self.input, &mut self.decoder);
        let mut bits = Bits::new(input, source);
        let decoded = match &mut self.window {
            Window::Bytes(window) => {
                let buffer = buffers.take_bytes()?;
                let (buffer, run) =
                    buffer.map(|buffer| decode(decoder, &mut bits, self.stand, buffer, window));
                run.map(|run| (Units::Bytes(buffer), run))
            }
            Window::Marked(window) => {
                let buffer = buffers.take_marked()?;
                let (buffer, run) =
                    buffer.map(|buffer| decode(decoder, &mut bits, self.stand, buffer, window));
                if let Some(known) = markers::known(window) {
                    self.window = Window::Bytes(known);
                }
                run.map(|run| (Units::Marked(buffer), run))
            }
        };
        let Some((units, Run { range, stands, matches, goes_on })) = decoded else {
            return Some(None);
        };
        let piece = Piece { units, range, stands, matches };
        let Stand { encoded, place, .. } = piece.end();
        self.stand = (encoded, place);
        self.pieces += 1;
        Some(Some((piece, goes_on)))
    }
}

/// What was decoded at a stretch.
struct Run {
    range: Range<usize>,
    stands: Vec<Stand>,
    matches: Matches,
    goes_on: bool,
}

/// Decodes a piece from `stand` into `buffer`, behind `window`, which is then the one behind the
/// piece. No run if there is nothing.
fn decode<T: Unit>(
    decoder: &mut Decoder,
    bits: &mut Bits,
    (encoded, place): (BitOffset, Place),
    buffer: Vec<T>,
    window: &mut [T],
) -> (Vec<T>, Option<Run>) {
    let mut stands = vec![Stand { len: 0, encoded, place }];
    let mut out = Output::new(buffer, window).with_matches(PIECE);
    let mut goes_on = true;
    while goes_on && out.len() + STEP <= PIECE {
        let limit = out.len() + STEP;
        match decoder.decode(bits, &mut out, limit) {
            Ok(Stop::Limit) => {}
            Ok(Stop::Block) => goes_on = false,
            // The last stand is the last good one: it is for the frontier to see what comes
            // then. Ends of streams are its business as well.
            Ok(Stop::End) | Err(_) => {
                goes_on = false;
                break;
            }
        }
        let Some(place) = decoder.place() else { break };
        stands.push(Stand { len: out.len(), encoded: bits.position(), place });
    }
    let matches = out.take_matches();
    let len = stands.last().map_or(0, |stand| stand.len);
    let (units, range) = out.into_parts();
    let range = range.start..range.start + len;
    let Some(matches) = matches.filter(|_| !range.is_empty()) else { return (units, None) };
    window.copy_from_slice(&units[range.end - HISTORY..range.end]);
    (units, Some(Run { range, stands, matches, goes_on }))
}
