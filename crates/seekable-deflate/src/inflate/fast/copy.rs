//! Copies of matches, in blocks that may go over their end.

use std::hint::select_unpredictable;

use super::processor::Processor;
use crate::inflate::MAX_MATCH;

/// Bytes that a copy may write after its end.
pub(super) const OVERRUN: usize = 31;
const _: () = assert!(MAX_MATCH + OVERRUN <= LONG + 1);

/// Copies `len` bytes from `distance` before `out` to `out`; `distance` is 32 or more.
///
/// # Safety
/// As for `Processor::copy_match`.
#[inline(always)]
pub(super) unsafe fn copy_apart<P: Processor>(out: *mut u8, distance: usize, len: usize) {
    let from = out.wrapping_sub(distance);
    let mut at = 0;
    loop {
        // SAFETY: 32 bytes from a place before the end of the match, so `OVERRUN` after it at
        // most; the source is 32 bytes or more before that.
        unsafe { P::copy_32(from.wrapping_add(at), out.wrapping_add(at)) };
        at += 32;
        if at >= len {
            return;
        }
    }
}

/// Bytes that `copy_long` writes, whatever the length.
pub(super) const LONG: usize = 288;
const _: () = assert!(LONG >= MAX_MATCH && LONG.is_multiple_of(32));

/// Repeats `len` bytes from `distance` before `out` at `out`; it copies `LONG` bytes whatever `len`
/// is, and tells runs of a byte from other matches without a branch.
///
/// # Safety
/// The bytes from `out - distance` to `out + LONG` must be writable; `distance` must be 1 or
/// more, `len` 258 or less.
#[inline(always)]
pub(super) unsafe fn copy_long<P: Processor>(out: *mut u8, distance: usize, len: usize) {
    const ZEROS: [u8; 32] = [0; 32];
    let is_run = distance == 1;
    if distance < 32 && !is_run {
        // SAFETY: the caller's promises; `LONG` has room for what is written after the end.
        return unsafe { P::copy_match(out, distance, len) };
    }
    let from = out.cast_const().wrapping_sub(distance);
    // SAFETY: the first byte of the match. No more than that is read: what overlaps the end of
    // a block which has just been written has to wait until that is in the cache.
    let byte = unsafe { *from };
    let byte = select_unpredictable(is_run, byte, 0);
    let from = select_unpredictable(is_run, ZEROS.as_ptr(), from);
    // From memory: made of the comparison, there would be nine products instead of two.
    static STEPS: [usize; 2] = [32, 0];
    let step = STEPS[usize::from(is_run)];
    // SAFETY: 32 zeros again and again, or blocks from at least 32 before those that are written;
    // the room is the caller's promise.
    unsafe { P::copy_long(from, step, byte, out) };
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
