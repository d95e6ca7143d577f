//! Copies of matches, in blocks that may go over their end.

use super::processor::Processor;

/// Bytes that a copy may write behind its end.
pub(super) const OVERRUN: usize = 31;

/// Copies `len` bytes from `distance` before `out` to `out`; `distance` is 32 or more.
///
/// # Safety
/// As for `Processor::copy_match`.
#[inline(always)]
pub(super) unsafe fn copy_apart<P: Processor>(out: *mut u8, distance: usize, len: usize) {
    let from = out.wrapping_sub(distance);
    let mut at = 0;
    loop {
        // SAFETY: 32 bytes from a place before the end of the match, so `OVERRUN` behind it at
        // most; the source is 32 bytes or more before that.
        unsafe { P::copy_32(from.wrapping_add(at), out.wrapping_add(at)) };
        at += 32;
        if at >= len {
            return;
        }
    }
}

/// Copies 16 bytes.
///
/// # Safety
/// Both must be there. They may overlap: all is read before anything is written.
#[inline(always)]
pub(super) unsafe fn copy_16(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { to.cast::<u128>().write_unaligned(from.cast::<u128>().read_unaligned()) };
}

/// Copies 8 bytes.
///
/// # Safety
/// As for `copy_16`.
#[inline(always)]
pub(super) unsafe fn copy_8(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { to.cast::<u64>().write_unaligned(from.cast::<u64>().read_unaligned()) };
}
