//! Copies matches in blocks. The last block may write beyond the end of the match.

use std::hint::select_unpredictable;

use super::processor::Processor;
use crate::inflate::MAX_MATCH;

/// The most bytes that a copy writes after the end of the match.
pub(super) const OVERRUN: usize = 31;
const _: () = assert!(MAX_MATCH + OVERRUN <= LONG + 1);

/// Copies `len` bytes to `out`, from `distance` bytes before `out`.
///
/// # Safety
/// As for `Processor::copy_match`. `distance` must be 32 or more.
#[inline(always)]
pub(super) unsafe fn copy_apart<P: Processor>(out: *mut u8, distance: usize, len: usize) {
    let from = out.wrapping_sub(distance);
    let mut at = 0;
    loop {
        // SAFETY: the 32 bytes start before the end of the match, so at most `OVERRUN` of them are
        // after it. The source starts 32 bytes or more before them.
        unsafe { P::copy_32(from.wrapping_add(at), out.wrapping_add(at)) };
        at += 32;
        if at >= len {
            return;
        }
    }
}

/// Bytes that `Processor::copy_long` writes, whatever the length of the match.
pub(super) const LONG: usize = 288;
const _: () = assert!(LONG >= MAX_MATCH && LONG.is_multiple_of(32));

/// Writes a match at `out`: `len` bytes, each equal to the byte `distance` before it. If `distance`
/// is 1, or 32 or more, writes `LONG` bytes whatever `len` is: then no branch depends on `len`, or
/// on whether the match is a run of one byte.
///
/// # Safety
/// The bytes from `out - distance` to `out + LONG` must be writable; `distance` must be 1 or
/// more, `len` 258 or less.
#[inline(always)]
pub(super) unsafe fn copy_long<P: Processor>(out: *mut u8, distance: usize, len: usize) {
    const ZEROS: [u8; 32] = [0; 32];
    let is_run = distance == 1;
    if distance < 32 && !is_run {
        // SAFETY: the caller's promises. `LONG` includes room for `OVERRUN`.
        return unsafe { P::copy_match(out, distance, len) };
    }
    let from = out.cast_const().wrapping_sub(distance);
    // SAFETY: this is the first byte of the source. Only one byte is read: a wider read that
    // overlaps a block just written would have to wait until that block is in the cache.
    let byte = unsafe { *from };
    let byte = select_unpredictable(is_run, byte, 0);
    let from = select_unpredictable(is_run, ZEROS.as_ptr(), from);
    // Read from memory: if the step is computed from the comparison, the compiler emits nine
    // multiplications instead of two.
    static STEPS: [usize; 2] = [32, 0];
    let step = STEPS[usize::from(is_run)];
    // SAFETY: the source of each block is the same 32 zeros, or starts 32 bytes or more before the
    // block. The caller promises the room.
    unsafe { P::copy_long(from, step, byte, out) };
}

/// Copies 16 bytes.
///
/// # Safety
/// 16 bytes must be readable at `from` and writable at `to`. They may overlap: all bytes are read
/// before any is written.
#[inline(always)]
pub(super) unsafe fn copy_16(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { to.cast::<u128>().write_unaligned(from.cast::<u128>().read_unaligned()) };
}

/// Copies 8 bytes.
///
/// # Safety
/// As for `copy_16`, with 8 bytes.
#[inline(always)]
pub(super) unsafe fn copy_8(from: *const u8, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { to.cast::<u64>().write_unaligned(from.cast::<u64>().read_unaligned()) };
}
