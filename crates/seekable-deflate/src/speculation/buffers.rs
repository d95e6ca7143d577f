//! Buffers for what is decoded ahead, used again and again: fresh pages cost time.

use std::sync::Arc;

use super::chunk::Piece;
use crate::{
    Memory,
    inflate::{HISTORY, MARGIN, MAX_MATCH, Matches},
    memory::Reserved,
    sync::{Mutex, MutexGuard},
};

/// Bytes that a piece has at most, not counting the rest of a match.
pub(super) const PIECE: usize = 256 << 10;
/// Length of a buffer for a piece, in units.
const BUFFER: usize = HISTORY + PIECE + MAX_MATCH + MARGIN;

/// Bytes that a piece takes of the budget: its buffer, and the matches that are noted of it.
const fn memory<T>() -> u64 {
    (BUFFER * size_of::<T>() + Matches::most_memory(PIECE)) as u64
}

/// A buffer, counted as long as it is there, with the matches of its piece.
pub(super) struct Buffer<T> {
    pub(super) units: Vec<T>,
    reserved: Reserved,
}

impl<T> Buffer<T> {
    /// What `f` makes of it.
    pub(super) fn map<R>(self, f: impl FnOnce(Vec<T>) -> (Vec<T>, R)) -> (Self, R) {
        let (units, result) = f(self.units);
        (Self { units, reserved: self.reserved }, result)
    }
}

/// A buffer of either kind of units.
pub(super) enum Units {
    Bytes(Buffer<u8>),
    /// Bytes and markers.
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

/// Those of a stream that nobody uses now.
pub(super) struct Buffers {
    pub(super) memory: Arc<Memory>,
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    bytes: Vec<Buffer<u8>>,
    marked: Vec<Buffer<u16>>,
    /// None is kept.
    given_up: bool,
}

impl Buffers {
    pub(super) fn new(memory: Arc<Memory>) -> Self {
        Self { memory, free: Mutex::default() }
    }

    /// Bytes of the budget that all of them may take.
    fn most(&self) -> u64 {
        self.memory.limit() / 4
    }

    /// How many decoded bytes there is room for where none is known.
    pub(super) fn capacity(&self) -> u64 {
        self.most() / memory::<u16>() * PIECE as u64
    }

    pub(super) fn take_bytes(&self) -> Option<Buffer<u8>> {
        let free = self.lock().bytes.pop();
        free.or_else(|| self.fresh(0)).or_else(|| {
            // Room is room.
            drop(self.lock().marked.pop()?);
            self.fresh(0)
        })
    }

    pub(super) fn take_marked(&self) -> Option<Buffer<u16>> {
        let free = self.lock().marked.pop();
        free.or_else(|| self.fresh(0)).or_else(|| {
            let mut free = self.lock();
            let left = free.bytes.len().checked_sub(2)?;
            let dropped = free.bytes.split_off(left);
            drop(free);
            drop(dropped);
            self.fresh(0)
        })
    }

    /// Whether there is one of either kind, as far as can be told.
    pub(super) fn have_room(&self) -> bool {
        let free = self.lock();
        !free.bytes.is_empty()
            || !free.marked.is_empty()
            || self.memory.reserved() + memory::<u16>() <= self.most()
    }

    fn fresh<T: Clone>(&self, zero: T) -> Option<Buffer<T>> {
        let reserved = self.memory.reserve(memory::<T>(), self.most())?;
        Some(Buffer { units: vec![zero; BUFFER], reserved })
    }

    /// Takes back the buffer of a piece that nobody else has.
    pub(super) fn recycle(&self, piece: Arc<Piece>) {
        let Some(piece) = Arc::into_inner(piece) else { return };
        let mut free = self.lock();
        match piece.units {
            _ if free.given_up => {}
            Units::Bytes(buffer) => free.bytes.push(buffer),
            Units::Marked(buffer) => free.marked.push(buffer),
        }
    }

    /// Gives all of them up, and those that come back until they are wanted again.
    pub(super) fn give_up(&self) {
        let given_up = Free { given_up: true, ..Free::default() };
        let free = std::mem::replace(&mut *self.lock(), given_up);
        drop(free);
    }

    /// Keeps them from now on.
    pub(super) fn keep(&self) {
        self.lock().given_up = false;
    }

    pub(super) fn are_kept(&self) -> bool {
        !self.lock().given_up
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock()
    }
}
