//! Decodes from a place where a block may begin, while the window before it is not known.

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

/// A place between two symbols of a piece where decoding can resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResumePoint {
    /// Bytes of the piece before this point.
    pub(super) len: usize,
    pub(super) encoded: BitOffset,
    pub(super) place: Place,
}

/// A part of a chunk: up to 256 KiB of consecutive decoded bytes.
pub(super) struct Piece {
    pub(super) units: Units,
    /// The range of `units` that holds the decoded bytes or markers.
    pub(super) range: Range<usize>,
    /// The first point is at the start of the piece, the last at its end.
    pub(super) resume_points: Vec<ResumePoint>,
    pub(super) matches: Matches,
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        self.range.len()
    }

    pub(super) fn end(&self) -> ResumePoint {
        *self.resume_points.last().expect("there is one at the start")
    }
}

/// Decoded bytes between two resume points. To place a checkpoint, half of that is decoded again on
/// average.
const STEP: usize = 32 << 10;

/// The result of some work on a chunk.
pub(super) enum Worked {
    /// The bits at which a block header may begin. If decoding fails before the first piece,
    /// `Search` revokes this result.
    Found(RangeInclusive<BitOffset>),
    Piece(Arc<Piece>),
    /// Nothing is found yet, or no block begins where one was found: the search continues.
    Search,
    /// There is no memory for a buffer now.
    Starved,
    /// The chunk ends here.
    Ended,
}

/// Searches for the start of a chunk, then decodes the chunk.
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
    /// Where the next piece begins.
    start: (BitOffset, Place),
    pieces: usize,
}

/// The window before the next piece.
enum Window {
    Bytes(Vec<u8>),
    Marked(Vec<u16>),
}

impl Speculator {
    /// A chunk that starts at the first block found from byte `from` on.
    pub(super) fn new(encoded: Range<u64>, from: ByteOffset) -> Self {
        let finder = Finder::new(encoded.clone(), from);
        Self { encoded, finder, decoding: None, ended: false }
    }

    /// The encoded byte up to which the stream is searched or decoded.
    pub(super) fn position(&self) -> ByteOffset {
        match &self.decoding {
            Some(decoding) => decoding.start.0.byte(),
            None => self.finder.position(),
        }
    }

    /// Searches or decodes for a fraction of a millisecond. `halt` is the encoded byte at or after
    /// which the next chunk begins.
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
            // Decoding failed before it yielded anything, so no block begins here: the search
            // continues.
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
    /// A decoder at the block header at `at`. The `Result` is an error if the decoder cannot start
    /// there.
    fn new(encoded: Range<u64>, source: &dyn ReadAt, at: BitOffset) -> (Result<(), Fault>, Self) {
        let (mut input, mut decoder) = (Input::new(encoded), Decoder::new());
        decoder.stop_short();
        let place = Place::BlockHeader;
        let mut bits = Bits::new(&mut input, source);
        let resumed = decoder.resume(&mut bits, at, place, u64::MAX);
        let window = Window::Marked(markers::window());
        (resumed, Self { input, decoder, window, start: (at, place), pieces: 0 })
    }

    /// The next piece, and whether more pieces follow. The outer `None` means that there is no
    /// memory for a buffer, the inner `None` that nothing could be decoded.
    fn piece(&mut self, source: &dyn ReadAt, buffers: &Buffers) -> Option<Option<(Piece, bool)>> {
        let (input, decoder) = (&mut self.input, &mut self.decoder);
        let mut bits = Bits::new(input, source);
        let decoded = match &mut self.window {
            Window::Bytes(window) => {
                let buffer = buffers.take_bytes()?;
                let (buffer, run) =
                    buffer.map(|buffer| decode(decoder, &mut bits, self.start, buffer, window));
                run.map(|run| (Units::Bytes(buffer), run))
            }
            Window::Marked(window) => {
                let buffer = buffers.take_marked()?;
                let (buffer, run) =
                    buffer.map(|buffer| decode(decoder, &mut bits, self.start, buffer, window));
                if let Some(known) = markers::known(window) {
                    self.window = Window::Bytes(known);
                }
                run.map(|run| (Units::Marked(buffer), run))
            }
        };
        let Some((units, Run { range, resume_points, matches, goes_on })) = decoded else {
            return Some(None);
        };
        let piece = Piece { units, range, resume_points, matches };
        let ResumePoint { encoded, place, .. } = piece.end();
        self.start = (encoded, place);
        self.pieces += 1;
        Some(Some((piece, goes_on)))
    }
}

struct Run {
    range: Range<usize>,
    resume_points: Vec<ResumePoint>,
    matches: Matches,
    goes_on: bool,
}

/// Decodes a piece into `buffer`, with `window` before it, and replaces `window` by the one at the
/// end of the piece. Returns the buffer, and no run if nothing could be decoded.
fn decode<T: Unit>(
    decoder: &mut Decoder,
    bits: &mut Bits,
    (encoded, place): (BitOffset, Place),
    buffer: Vec<T>,
    window: &mut [T],
) -> (Vec<T>, Option<Run>) {
    let mut resume_points = vec![ResumePoint { len: 0, encoded, place }];
    let mut out = Output::new(buffer, window).with_matches(PIECE);
    let mut goes_on = true;
    while goes_on && out.len() + STEP <= PIECE {
        let limit = out.len() + STEP;
        match decoder.decode(bits, &mut out, limit) {
            Ok(Stop::Limit) => {}
            Ok(Stop::Block) => goes_on = false,
            // The piece ends at the last resume point. The frontier decodes what follows it,
            // including the end of the stream.
            Ok(Stop::End) | Err(_) => {
                goes_on = false;
                break;
            }
        }
        let Some(place) = decoder.place() else { break };
        resume_points.push(ResumePoint { len: out.len(), encoded: bits.position(), place });
    }
    let matches = out.take_matches();
    let len = resume_points.last().map_or(0, |point| point.len);
    let (units, range) = out.into_parts();
    let range = range.start..range.start + len;
    let Some(matches) = matches.filter(|_| !range.is_empty()) else { return (units, None) };
    window.copy_from_slice(&units[range.end - HISTORY..range.end]);
    (units, Some(Run { range, resume_points, matches, goes_on }))
}
