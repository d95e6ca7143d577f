//! Settled chunks: the window before them and their decoded offset are known.

use std::{ops::Range, sync::Arc};

use super::{
    buffers::Units,
    chunk::{Piece, ResumePoint},
    markers::Key,
};
use crate::{
    BitOffset, Memory, ReadAt,
    inflate::{Bits, Decoder, Fault, HISTORY, Input, Output, Place, Stop},
    memory::Reserved,
    windows::Reach,
};

/// A boundary between two symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Boundary {
    pub(crate) decoded: u64,
    pub(crate) encoded: BitOffset,
    pub(crate) place: Place,
}

/// A chunk that is known to be right, because the frontier or another settled chunk has reached its
/// start.
pub(crate) struct Settled {
    encoded: Range<u64>,
    /// Each piece with its decoded offset.
    pieces: Vec<(u64, Arc<Piece>)>,
    range: Range<u64>,
    key: Key,
    _reserved: Reserved,
}

impl Settled {
    /// Settles a chunk of these pieces, which begin at decoded offset `start` after `window`.
    pub(super) fn new(
        encoded: Range<u64>,
        pieces: Vec<Arc<Piece>>,
        start: u64,
        window: &[u8],
        memory: &Arc<Memory>,
    ) -> Self {
        let mut end = start;
        let pieces = pieces.into_iter().map(|piece| {
            let start = end;
            end += piece.len() as u64;
            (start, piece)
        });
        let pieces = pieces.collect();
        // Memory is taken even above the budget: waiting would keep the memory of the pieces for
        // longer.
        let reserved = memory.reserve_anyway(Key::MEMORY);
        let key = Key::new(window);
        Self { encoded, pieces, range: start..end, key, _reserved: reserved }
    }

    /// The decoded offsets of the chunk.
    pub(crate) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    pub(crate) fn end(&self) -> Boundary {
        let (start, piece) = self.pieces.last().expect("there is a piece");
        let ResumePoint { len, encoded, place } = piece.end();
        Boundary { decoded: start + len as u64, encoded, place }
    }

    /// The first boundary of symbols at or after decoded offset `at`, which must lie in the chunk
    /// or at its end. The end-of-block code does not count as a symbol.
    pub(crate) fn boundary(&self, source: &dyn ReadAt, at: u64) -> Result<Boundary, Fault> {
        let number = self.pieces.partition_point(|(start, _)| *start < at) - 1;
        let (start, piece) = &self.pieces[number];
        let limit = (at - start) as usize;
        let number = piece.resume_points.partition_point(|point| point.len < limit) - 1;
        let resume_point = piece.resume_points[number];
        let wanted = piece.resume_points.get(number + 1).map_or(0, |next| next.encoded.0 / 8 + 1);

        let mut input = Input::new(self.encoded.clone());
        let mut decoder = Decoder::new();
        let mut bits = Bits::new(&mut input, source);
        decoder.resume(&mut bits, resume_point.encoded, resume_point.place, wanted)?;
        // The boundaries of symbols do not depend on the window, so any window will do.
        let limit = limit - resume_point.len;
        let buffer = vec![0u8; Output::room(HISTORY, limit)];
        let mut out = Output::new(buffer, &[0; HISTORY]);
        match decoder.decode(&mut bits, &mut out, limit)? {
            Stop::Limit => {}
            // This block has ended too early: the source has changed.
            Stop::Block | Stop::End => return Err(Fault::Truncated),
        }
        let decoded = start + (resume_point.len + out.len()) as u64;
        if decoded > self.range.end {
            // The source has changed: the last match ends after the end of the chunk.
            return Err(Fault::Truncated);
        }
        Ok(Boundary {
            decoded,
            encoded: bits.position(),
            place: decoder.place().ok_or(Fault::Truncated)?,
        })
    }

    /// Fills `out` with the bytes from decoded offset `at` on. All of them must lie in the chunk.
    pub(crate) fn resolve(&self, mut at: u64, mut out: &mut [u8]) {
        let mut number = self.pieces.partition_point(|(start, _)| *start <= at).saturating_sub(1);
        while !out.is_empty() {
            let (start, piece) = &self.pieces[number];
            let skip = (at - start) as usize;
            let len = (piece.len() - skip).min(out.len());
            let range = piece.range.start + skip..piece.range.start + skip + len;
            let (now, rest) = out.split_at_mut(len);
            match &piece.units {
                Units::Bytes(bytes) => now.copy_from_slice(&bytes.units[range]),
                Units::Marked(marked) => self.key.resolve(&marked.units[range], now),
            }
            out = rest;
            at += len as u64;
            number += 1;
        }
    }

    /// Adds to `reach` the bytes before decoded offset `before` that the bytes of `range` refer to.
    /// `range` must lie in the chunk. Returns `false` if these bytes are not known.
    pub(super) fn add_reach(&self, range: Range<u64>, before: u64, reach: &mut Reach) -> bool {
        let first =
            self.pieces.partition_point(|(start, piece)| start + piece.len() as u64 <= range.start);
        let mut within = self.pieces[first..].iter().take_while(|(start, _)| *start < range.end);
        within.all(|(start, piece)| {
            let from = range.start.max(*start) - start;
            let to = (range.end - start).min(piece.len() as u64);
            let before = before as isize - *start as isize;
            let back = piece.matches.reaching_back(from as usize..to as usize, before);
            back.map(|back| back.for_each(|(back, len)| reach.add(back, len))).is_some()
        })
    }

    /// The window at decoded offset `at`, which must lie in the chunk or at its end.
    pub(crate) fn window_at(&self, at: u64) -> Vec<u8> {
        let len = (at - self.range.start).min(HISTORY as u64) as usize;
        let mut window = self.key.window()[len..].to_vec();
        window.resize(HISTORY, 0);
        self.resolve(at - len as u64, &mut window[HISTORY - len..]);
        window
    }

    pub(super) fn into_pieces(self) -> impl Iterator<Item = Arc<Piece>> {
        self.pieces.into_iter().map(|(_, piece)| piece)
    }
}
