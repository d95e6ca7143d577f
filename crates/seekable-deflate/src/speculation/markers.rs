//! Bytes that are not known yet, because they come from a window that is not.
//!
//! A chunk is decoded into units of two bytes, behind a window of markers: a unit below 256 is a
//! byte, a marker names the byte of the window that a chain of matches has brought there. So the
//! decoder itself needs to know nothing of this.

use crate::inflate::HISTORY;

/// A unit that has this bit is a marker; the others are its place in the window.
const MARKER: u16 = 1 << 15;
const _: () = assert!(HISTORY == MARKER as usize);

/// A window of which nothing is known.
pub(super) fn window() -> Vec<u16> {
    (0..MARKER).map(|at| MARKER | at).collect()
}

/// The bytes of units that are all known.
pub(super) fn known(units: &[u16]) -> Option<Vec<u8>> {
    is_known(units).then(|| units.iter().map(|unit| *unit as u8).collect())
}

fn is_known(units: &[u16]) -> bool {
    units.iter().fold(0, |all, unit| all | unit) & MARKER == 0
}

/// What units stand for, once the window is known.
pub(super) struct Key {
    /// Indexed by the unit.
    bytes: Box<[u8; 1 << 16]>,
}

/// Units that are looked at together: where all are known, nothing is looked up.
const BLOCK: usize = 64;

impl Key {
    /// Bytes that it takes.
    pub(super) const MEMORY: u64 = 1 << 16;

    /// The key for a window, which must be as long as there is.
    pub(super) fn new(window: &[u8]) -> Self {
        let mut bytes: Box<[u8; 1 << 16]> = vec![0; 1 << 16].try_into().expect("it is that long");
        for (at, byte) in bytes[..256].iter_mut().enumerate() {
            *byte = at as u8;
        }
        bytes[HISTORY..].copy_from_slice(window);
        Self { bytes }
    }

    /// The window.
    pub(super) fn window(&self) -> &[u8] {
        &self.bytes[HISTORY..]
    }

    /// Writes what `units` stand for; both are of the same length.
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

    /// Eight at a time, put together in a register and stored at once: a quarter faster than one
    /// by one or four at a time (3.9 GB/s where two in five are markers). To narrow all of them and
    /// look up markers alone is twice as fast at one in six, and slower at two in five.
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
