//! What is used again: fresh pages cost several times the fastest decode.
//!
//! The buffers that speculation decodes into are not here but in `speculation::buffers`: each has
//! its bytes of the budget set aside while it lies idle, and they go with their stream.

use super::Memory;
use crate::windows::Packer;

/// Spare buffers that are kept: as many spans as are on their way from the frontier to a reader,
/// or as many bytes as are given up at a time.
const SPARES: usize = 4;
const SPARE_BYTES: u64 = 4 << 20;

/// Buffers are as many bytes as a multiple of this.
pub(super) const PAGE: usize = 4096;

/// What nobody uses now.
#[derive(Default)]
pub(super) struct Pool {
    /// Buffers of spans that were given up.
    spares: Vec<Vec<u8>>,
    /// Bytes of the buffers that spans are being decoded into.
    pub(super) lent_bytes: u64,
    /// Half a MiB that the next who packs need not allocate; it is not counted.
    pub(super) packer: Option<Box<Packer>>,
}

impl Pool {
    /// Bytes of the buffers that nobody uses.
    pub(super) fn spare_bytes(&self) -> u64 {
        self.spares.iter().map(|buffer| buffer.capacity() as u64).sum()
    }

    /// A buffer that serves for `len` bytes.
    pub(super) fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        let at = self.spares.iter().position(|buffer| serves(buffer.len(), len))?;
        Some(self.spares.swap_remove(at))
    }

    /// Keeps a buffer, or gives it back if there are enough.
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

/// A buffer that is to come back as a cached span; this is dropped just before it does.
pub(crate) struct Lent<'a> {
    pub(super) memory: &'a Memory,
    pub(super) bytes: u64,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.memory.lock().pool.lent_bytes -= self.bytes;
    }
}
