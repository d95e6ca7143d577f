//! Buffers that are used again, since the page faults of a fresh one cost several times the fastest
//! decode.
//!
//! Speculation has buffers of its own (`speculation::buffers`): they are of two kinds of units,
//! their bytes stay set aside from the budget while they are idle, and they are freed with their
//! stream.

use super::Memory;
use crate::windows::Packer;

/// Spare buffers are kept up to this number, for the spans on their way from the frontier to a
/// reader, or up to this many bytes, which a reader gives up at a time.
const SPARES: usize = 4;
const SPARE_BYTES: u64 = 4 << 20;

/// Lengths of buffers are multiples of this. Bytes.
pub(super) const PAGE: usize = 4096;

/// Idle buffers, and how much is lent.
#[derive(Default)]
pub(super) struct Pool {
    /// Idle buffers of spans that were given up.
    spares: Vec<Vec<u8>>,
    /// Bytes of the buffers that spans are being decoded into.
    pub(super) lent_bytes: u64,
    /// Half a MiB that the next packing of windows need not allocate. Not counted.
    pub(super) packer: Option<Box<Packer>>,
}

impl Pool {
    /// Bytes of the idle buffers.
    pub(super) fn spare_bytes(&self) -> u64 {
        self.spares.iter().map(|buffer| buffer.capacity() as u64).sum()
    }

    /// A buffer that serves for `len` bytes.
    pub(super) fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        let at = self.spares.iter().position(|buffer| serves(buffer.len(), len))?;
        Some(self.spares.swap_remove(at))
    }

    /// Keeps a buffer, or returns it if there are enough.
    pub(super) fn keep(&mut self, buffer: Vec<u8>) -> Option<Vec<u8>> {
        if self.spares.len() >= SPARES && self.spare_bytes() >= SPARE_BYTES {
            return Some(buffer);
        }
        self.spares.push(buffer);
        None
    }

    /// Takes out all buffers.
    pub(super) fn take_spares(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.spares)
    }
}

/// Whether a buffer of `held` bytes may serve where `len` are needed.
pub(super) fn serves(held: usize, len: usize) -> bool {
    (len..=2 * len).contains(&held)
}

/// Counts a buffer that is being decoded into. Dropped just before the span is cached.
pub(crate) struct Lent<'a> {
    pub(super) memory: &'a Memory,
    pub(super) bytes: u64,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.memory.lock().pool.lent_bytes -= self.bytes;
    }
}
