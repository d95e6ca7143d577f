//! Decides when windows are packed.
//!
//! The first pass stores each window uncompressed at first. If it knows that the bytes after a
//! window refer to only a few bytes of it (`Reach`), it keeps only these bytes. The other windows
//! are packed later: when an index is saved, or by the pass itself when memory is scarce.

use std::sync::Arc;

use super::Core;
use crate::{
    Error, ReadAt,
    index::Checkpoint,
    inflate::HISTORY,
    windows::{Packed, Packer, Reach, TraceStart, Window},
};

/// Windows that a pass packs after each span when memory is scarce. Each span adds only one window,
/// so with two the number of unpacked windows falls.
const AT_ONCE: usize = 2;

impl Core {
    /// Packs the next raw window whose needed bytes are known. Returns `false` if there is none.
    pub(crate) fn pack(self: &Arc<Self>, source: &dyn ReadAt) -> Result<bool, Error> {
        let mut state = self.lock();
        let is_over = state.is_over();
        let Some(number) = state.take_unpacked() else { return Ok(false) };
        let checkpoint = state.index().checkpoint(number).clone();
        let frontier = state.index().frontier();
        drop(state);
        if let Some(window @ Window::Raw(raw)) = &checkpoint.window {
            let mut packer = self.packer();
            let packed = self.packed(&mut packer, source, &checkpoint, raw, frontier, is_over)?;
            self.memory.keep_packer(packer);
            self.put_packed(number, window, &Arc::new(packed));
        }
        Ok(true)
    }

    /// Packs windows if memory is scarce.
    pub(crate) fn pack_if_tight(self: &Arc<Self>, source: &dyn ReadAt) {
        if self.memory.is_tight() {
            for _ in 0..AT_ONCE {
                // An error of the source is dropped here: the next read gets it again.
                if !self.pack(source).unwrap_or(false) {
                    break;
                }
            }
        }
    }

    /// If the bytes after `checkpoint` need few bytes of its window (`reach`), keeps only these.
    pub(crate) fn keep_reach(&self, number: usize, checkpoint: &Checkpoint, reach: Reach) {
        if let Some(window @ Window::Raw(raw)) = &checkpoint.window
            && let Some(sparse) = reach.of(raw)
        {
            self.lock().replace(number, window, Window::Sparse(Arc::new(sparse)));
        }
    }

    /// Replaces the window of checkpoint `number` by `packed`, if it still is `unpacked`.
    pub(crate) fn put_packed(
        self: &Arc<Self>,
        number: usize,
        unpacked: &Window,
        packed: &Arc<Packed>,
    ) {
        let mut state = self.lock();
        state.replace(number, unpacked, Window::Packed(Arc::clone(packed)));
        let bytes = state.bytes();
        drop(state);
        self.memory.set_index(self.id, self, bytes);
    }

    /// A packer for the windows of this stream. Give it back with `Memory::keep_packer`.
    pub(crate) fn packer(&self) -> Box<Packer> {
        self.memory.packer(self.options.format, self.encoded.clone())
    }

    /// Packs the window `raw` of `checkpoint` without the bytes that nothing refers to, if these
    /// are known: once 32 KiB after the checkpoint are decoded, or if the stream `is_over` at the
    /// frontier.
    pub(crate) fn packed(
        &self,
        packer: &mut Packer,
        source: &dyn ReadAt,
        checkpoint: &Checkpoint,
        raw: &[u8],
        frontier: u64,
        is_over: bool,
    ) -> Result<Packed, Error> {
        let following = (frontier - checkpoint.decoded).min(HISTORY as u64) as usize;
        let Some(place) = checkpoint.place.filter(|_| is_over || following == HISTORY) else {
            return Ok(packer.pack(raw));
        };
        let start = TraceStart { at: checkpoint.encoded, place, window: raw.len() };
        packer
            .pack_needed(raw, source, start, following)
            .map_err(|fault| fault.at(checkpoint.decoded))
    }
}
