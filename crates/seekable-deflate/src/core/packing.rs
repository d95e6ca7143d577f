//! When windows are packed.
//!
//! The first pass copies them as they are, goes on, and leaves what is needed of one where it knows
//! that this is little (`reach`). They are packed by who has time
//! (`DeflateReader::pack`), before they are saved, or by the pass when memory gets scarce.

use std::sync::Arc;

use super::Core;
use crate::{
    Error, ReadAt,
    index::Checkpoint,
    inflate::HISTORY,
    windows::{Packed, Packer, Reach, TraceStart, Window},
};

/// Windows that a pass packs at the end of each span when memory is scarce. As it leaves one
/// itself, they grow fewer.
const AT_ONCE: usize = 2;

impl Core {
    /// See `DeflateReader::pack`.
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
                // What the source has to say, it will say again to who reads.
                if !self.pack(source).unwrap_or(false) {
                    break;
                }
            }
        }
    }

    /// Leaves of the window of `checkpoint` what the bytes behind it reach back to.
    pub(crate) fn keep_reach(&self, number: usize, checkpoint: &Checkpoint, reach: Reach) {
        if let Some(window @ Window::Raw(raw)) = &checkpoint.window
            && let Some(sparse) = reach.of(raw)
        {
            self.lock().replace(number, window, Window::Sparse(Arc::new(sparse)));
        }
    }

    /// Holds the window of checkpoint `number`, which was `unpacked`, packed from now on.
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

    /// What packs the windows of this stream; `Memory::keep_packer` takes it back.
    pub(crate) fn packer(&self) -> Box<Packer> {
        self.memory.packer(self.options.format, self.encoded.clone())
    }

    /// The window `raw` of a checkpoint packed: without what nothing up to `frontier` refers to, if
    /// it can be told, which is if 32 KiB follow or it `is_over` at the frontier.
    pub(crate) fn packed(
        &self,
        packer: &mut Packer,
        source: &dyn ReadAt,
        checkpoint: &Checkpoint,
        raw: &[u8],
        frontier: u64,
        is_over: bool,
    ) -> Result<Packed, Error> {
        let behind = (frontier - checkpoint.decoded).min(HISTORY as u64) as usize;
        let Some(place) = checkpoint.place.filter(|_| is_over || behind == HISTORY) else {
            return Ok(packer.pack(raw));
        };
        let start = TraceStart { at: checkpoint.encoded, place, window: raw.len() };
        packer.pack_needed(raw, source, start, behind).map_err(|fault| fault.at(checkpoint.decoded))
    }
}
