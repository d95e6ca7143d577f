//! Keeps the buffers of speculative decoding for the next pieces: fresh pages cost time.

use std::sync::Arc;

use super::chunk::Piece;
use crate::{
    Memory,
    inflate::{HISTORY, MARGIN, MAX_MATCH, Matches},
    memory::Reserved,
    sync::Mutex,
};

/// Decoded bytes of the longest piece, not counting the part of its last match that exceeds it.
pub(super) const PIECE: usize = 256 << 10;
/// Length of a buffer for a piece, in units.
const BUFFER: usize = HISTORY + PIECE + MAX_MATCH + MARGIN;

/// Bytes of the budget that one piece takes: its buffer and the list of its matches.
const fn memory<T>() -> u64 {
    (BUFFER * size_of::<T>() + Matches::most_memory(PIECE)) as u64
}

/// A buffer, with the bytes of the budget that are set aside for it and for its piece's list of
/// matches.
pub(super) struct Buffer<T> {
    pub(super) units: Vec<T>,
    reserved: Reserved,
}

impl<T> Buffer<T> {
    /// Replaces the units by those that `f` returns, and returns the other result of `f` too.
    pub(super) fn map<R>(self, f: impl FnOnce(Vec<T>) -> (Vec<T>, R)) -> (Self, R) {
        let (units, result) = f(self.units);
        (Self { units, reserved: self.reserved }, result)
    }
}

/// The buffer of a piece.
pub(super) enum Units {
    Bytes(Buffer<u8>),
    /// Bytes and markers (see `markers`).
    Marked(Buffer<u16>),
}

#[cfg(test)]
impl Units {
    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        match self {
            Self::Bytes(bytes) => size_of_val(&bytes.units[..]),
            Self::Marked(marked) => size_of_val(&marked.units[..]),
        }
    }
}

/// The idle buffers of a stream.
pub(super) struct Buffers {
    pub(super) memory: Arc<Memory>,
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    bytes: Vec<Buffer<u8>>,
    marked: Vec<Buffer<u16>>,
    /// Whether returned buffers are freed instead of kept.
    given_up: bool,
}

impl Buffers {
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        Self { memory, free: Mutex::default() }
    }

    /// Bytes of the budget that all buffers of all streams may take.
    fn most(&self) -> u64 {
        self.memory.limit() / 4
    }

    /// Decoded bytes for which there is room if each takes a unit of two bytes.
    pub(super) fn capacity(&self) -> u64 {
        self.most() / memory::<u16>() * PIECE as u64
    }

    pub(super) fn take_bytes(&self) -> Option<Buffer<u8>> {
        let free = self.free.lock().bytes.pop();
        free.or_else(|| self.fresh(0)).or_else(|| {
            // Freeing an idle buffer of the larger kind makes room.
            drop(self.free.lock().marked.pop()?);
            self.fresh(0)
        })
    }

    pub(super) fn take_marked(&self) -> Option<Buffer<u16>> {
        let free = self.free.lock().marked.pop();
        free.or_else(|| self.fresh(0)).or_else(|| {
            let mut free = self.free.lock();
            let left = free.bytes.len().checked_sub(2)?;
            let dropped = free.bytes.split_off(left);
            drop(free);
            drop(dropped);
            self.fresh(0)
        })
    }

    /// Whether `take_bytes` or `take_marked` is likely to succeed.
    pub(super) fn have_room(&self) -> bool {
        let free = self.free.lock();
        !free.bytes.is_empty()
            || !free.marked.is_empty()
            || self.memory.reserved() + memory::<u16>() <= self.most()
    }

    fn fresh<T: Clone>(&self, zero: T) -> Option<Buffer<T>> {
        let reserved = self.memory.reserve(memory::<T>(), self.most())?;
        Some(Buffer { units: vec![zero; BUFFER], reserved })
    }

    /// Keeps the buffer of a piece for later pieces, unless the piece is still in use.
    pub(super) fn recycle(&self, piece: Arc<Piece>) {
        let Some(piece) = Arc::into_inner(piece) else { return };
        let mut free = self.free.lock();
        match piece.units {
            _ if free.given_up => {}
            Units::Bytes(buffer) => free.bytes.push(buffer),
            Units::Marked(buffer) => free.marked.push(buffer),
        }
    }

    /// Frees all idle buffers, and until `keep` is called also the buffers that are returned.
    pub(super) fn give_up(&self) {
        let given_up = Free { given_up: true, ..Free::default() };
        let free = std::mem::replace(&mut *self.free.lock(), given_up);
        drop(free);
    }

    /// Keeps returned buffers from now on.
    pub(super) fn keep(&self) {
        self.free.lock().given_up = false;
    }

    pub(super) fn are_kept(&self) -> bool {
        !self.free.lock().given_up
    }
}
