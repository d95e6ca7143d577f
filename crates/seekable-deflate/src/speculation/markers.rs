//! Markers: units that stand for bytes of a window that is not known yet.
//!
//! A chunk is decoded into units of two bytes, after a window of markers. A unit below 256 is a
//! byte. Any other unit is a marker: it names the byte of the window that a match has copied. The
//! decoder copies markers like bytes and needs no extra code for them.

use crate::inflate::HISTORY;

/// The bit that is set in each marker. The other bits are its index in the window.
const MARKER: u16 = 1 << 15;
const _: () = assert!(HISTORY == MARKER as usize);

/// The window of markers.
pub(super) fn window() -> Vec<u16> {
    (0..MARKER).map(|at| MARKER | at).collect()
}

/// Converts `units` to bytes, if none of them is a marker.
pub(super) fn known(units: &[u16]) -> Option<Vec<u8>> {
    is_known(units).then(|| units.iter().map(|unit| *unit as u8).collect())
}

fn is_known(units: &[u16]) -> bool {
    units.iter().fold(0, |all, unit| all | unit) & MARKER == 0
}

/// Maps each unit to its byte, once the window is known.
pub(super) struct Key {
    /// The bytes, indexed by unit.
    bytes: Box<[u8; 1 << 16]>,
}

/// Number of units that are tested together: if none of them is a marker, no unit is looked up.
const BLOCK: usize = 64;

impl Key {
    /// Bytes of memory held.
    pub(super) const MEMORY: u64 = 1 << 16;

    /// The key for a window of 32 KiB.
    pub(super) fn new(window: &[u8]) -> Self {
        let mut bytes: Box<[u8; 1 << 16]> = vec![0; 1 << 16].try_into().expect("it is that long");
        for (at, byte) in bytes[..256].iter_mut().enumerate() {
            *byte = at as u8;
        }
        bytes[HISTORY..].copy_from_slice(window);
        Self { bytes }
    }

    /// The window that this key was made for.
    pub(super) fn window(&self) -> &[u8] {
        &self.bytes[HISTORY..]
    }

    /// Writes the bytes of `units` to `out`, which has the same length.
    pub(super) fn resolve(&self, units: &[u16], out: &mut [u8]) {
        for (units, out) in units.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
            if is_known(units) {
                for (out, unit) in out.iter_mut().zip(units) {
                    *out = *unit as u8;
                }
            } else {
                self.look_up(units, out);
            }
        }
    }

    /// Looks up eight units at a time and stores them at once: a quarter faster than one or four at
    /// a time (docs/engine-notes.md).
    fn look_up(&self, units: &[u16], out: &mut [u8]) {
        let (eights, rest) = units.as_chunks::<8>();
        let (out_eights, out_rest) = out.as_chunks_mut::<8>();
        for (eight, out) in eights.iter().zip(out_eights) {
            let byte = |at: usize| u64::from(self.bytes[usize::from(eight[at])]) << (8 * at);
            let low = byte(0) | byte(1) | byte(2) | byte(3);
            *out = (low | byte(4) | byte(5) | byte(6) | byte(7)).to_le_bytes();
        }
        for (unit, out) in rest.iter().zip(out_rest) {
            *out = self.bytes[usize::from(*unit)];
        }
    }
}
