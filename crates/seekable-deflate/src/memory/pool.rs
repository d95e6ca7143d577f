//! Keeps idle buffers for the next spans: the page faults of a fresh buffer cost several times the
//! fastest decode.
//!
//! Speculation has its own buffers (`speculation::buffers`): they have two unit sizes, they count
//! in the budget even while they are idle, and they are freed with their stream.

use super::Memory;
use crate::windows::Packer;

/// Number of spare buffers that are kept whatever their size: enough for the spans on their way
/// from the frontier to a reader. More are kept while all idle buffers take less than
/// `SPARE_BYTES`, which is what a reader gives up at a time.
const SPARES: usize = 4;
const SPARE_BYTES: u64 = 4 << 20;

/// Lengths of buffers are multiples of this number of bytes.
pub(super) const PAGE: usize = 4096;

/// Idle buffers, and how many bytes of buffers are lent.
#[derive(Default)]
pub(super) struct Pool {
    /// Idle buffers of spans that were given up.
    spares: Vec<Vec<u8>>,
    /// Idle buffers in which replies were collected from several spans. The page faults of fresh
    /// buffers took a fifth of a first pass over noise, whose spans are small.
    replies: Vec<Vec<u8>>,
    /// Bytes of the buffers that spans are being decoded into.
    pub(super) lent_bytes: u64,
    /// An idle packer of half a MiB, so that the next packing of windows need not allocate one. Not
    /// counted in the budget.
    pub(super) packer: Option<Box<Packer>>,
}

impl Pool {
    /// Bytes of the idle buffers.
    pub(super) fn spare_bytes(&self) -> u64 {
        bytes(&self.spares) + bytes(&self.replies)
    }

    /// Takes out a buffer that serves for `len` bytes, if there is one.
    pub(super) fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        let at = self.spares.iter().position(|buffer| serves(buffer.len(), len))?;
        Some(self.spares.swap_remove(at))
    }

    /// Keeps a buffer, or returns it if enough are kept already.
    pub(super) fn keep(&mut self, buffer: Vec<u8>) -> Option<Vec<u8>> {
        if self.spares.len() >= SPARES && bytes(&self.spares) >= SPARE_BYTES {
            return Some(buffer);
        }
        self.spares.push(buffer);
        None
    }

    /// Takes out a buffer for a reply, if there is one.
    pub(super) fn take_reply(&mut self) -> Option<Vec<u8>> {
        self.replies.pop()
    }

    /// Keeps the buffer of a reply, or returns it if the kept ones would then take more than `most`
    /// bytes.
    pub(super) fn keep_reply(&mut self, buffer: Vec<u8>, most: u64) -> Option<Vec<u8>> {
        if bytes(&self.replies) + buffer.capacity() as u64 > most {
            return Some(buffer);
        }
        self.replies.push(buffer);
        None
    }

    /// Takes out buffers of replies until the others take `most` bytes at most.
    pub(super) fn trim_replies(&mut self, most: u64) -> Vec<Vec<u8>> {
        let mut dropped = Vec::new();
        while bytes(&self.replies) > most {
            dropped.extend(self.replies.pop());
        }
        dropped
    }

    /// Takes out all spare buffers of spans.
    pub(super) fn take_spares(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.spares)
    }
}

fn bytes(buffers: &[Vec<u8>]) -> u64 {
    buffers.iter().map(|buffer| buffer.capacity() as u64).sum()
}

/// Whether a buffer of `held` bytes may be used if `len` bytes are needed: it must be long enough,
/// but at most twice as long.
pub(super) fn serves(held: usize, len: usize) -> bool {
    (len..=2 * len).contains(&held)
}

/// Counts a buffer while a span is decoded into it. Dropped just before the span is cached.
pub(crate) struct Lent<'a> {
    pub(super) memory: &'a Memory,
    pub(super) bytes: u64,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.memory.lock().pool.lent_bytes -= self.bytes;
    }
}
