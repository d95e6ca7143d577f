//! Operations of the fast loops that have a faster form on some processors.

use super::{copy, fused};

/// The operations that depend on the processor.
pub(super) trait Processor {
    /// Calls `f` in a separate function that is compiled for the processor. In a function that
    /// contains only one loop, the compiler assigns registers better.
    ///
    /// # Safety
    /// The processor must have all features that the implementation uses.
    unsafe fn apart<R>(f: impl FnOnce() -> R) -> R;

    /// Copies 32 bytes.
    ///
    /// # Safety
    /// 32 bytes must be readable at `from` and writable at `to`. They may overlap: all bytes are
    /// read before any is written.
    unsafe fn copy_32(from: *const u8, to: *mut u8);

    /// Writes a match at `out`: `len` bytes, each equal to the byte `distance` before it.
    ///
    /// # Safety
    /// The bytes from `out - distance` to `out + len + OVERRUN` must be writable; `distance`
    /// must be 1 or more.
    unsafe fn copy_match(out: *mut u8, distance: usize, len: usize);

    /// Writes `LONG` bytes at `out` in blocks of 32. Block `n` is a copy of the 32 bytes at
    /// `from + n * step`, each combined with `byte` by OR.
    ///
    /// # Safety
    /// All these bytes must be readable, and `LONG` bytes at `out` writable. The source of a block
    /// may overlap the blocks written before it.
    unsafe fn copy_long(from: *const u8, step: usize, byte: u8, out: *mut u8);

    /// Fills the entries of a fused table from `parts`.
    ///
    /// # Safety
    /// The processor must have all features that the implementation uses.
    unsafe fn fill(entries: &mut fused::Entries, parts: &fused::Parts);
}

/// Uses only instructions that every processor has.
pub(super) struct Any;

impl Processor for Any {
    #[inline(never)]
    unsafe fn apart<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    #[inline(always)]
    unsafe fn copy_32(from: *const u8, to: *mut u8) {
        // SAFETY: the caller's promise. Both halves are read before one is written.
        unsafe {
            let halves = from.cast::<[u128; 2]>().read_unaligned();
            to.cast::<[u128; 2]>().write_unaligned(halves);
        }
    }

    #[inline(always)]
    unsafe fn copy_match(out: *mut u8, distance: usize, len: usize) {
        // SAFETY: the caller promises the same.
        unsafe { copy_match(out, distance, len) };
    }

    #[inline(always)]
    unsafe fn copy_long(from: *const u8, step: usize, byte: u8, out: *mut u8) {
        let bytes = u128::from_ne_bytes([byte; 16]);
        for at in 0..copy::LONG / 32 {
            let (from, out) = (from.wrapping_add(at * step), out.wrapping_add(at * 32));
            // SAFETY: the caller's promise.
            unsafe {
                let [low, high] = from.cast::<[u128; 2]>().read_unaligned();
                out.cast::<[u128; 2]>().write_unaligned([low | bytes, high | bytes]);
            }
        }
    }

    #[inline(always)]
    unsafe fn fill(entries: &mut fused::Entries, parts: &fused::Parts) {
        fused::fill(entries, parts);
    }
}

/// See `Processor::copy_match`.
///
/// # Safety
/// As for `Processor::copy_match`.
#[inline(never)]
unsafe fn copy_match(out: *mut u8, distance: usize, len: usize) {
    if distance >= 32 {
        // SAFETY: the caller promises the same.
        return unsafe { copy::copy_apart::<Any>(out, distance, len) };
    }
    if distance == 1 {
        // SAFETY: the caller promises that the byte before `out` is readable.
        let byte = unsafe { *out.wrapping_sub(1) };
        let bytes = u128::from_ne_bytes([byte; 16]);
        for at in (0..len).step_by(16) {
            // SAFETY: 16 bytes that start before the end of the match; `OVERRUN` has room for them.
            unsafe { out.wrapping_add(at).cast::<u128>().write_unaligned(bytes) };
        }
        return;
    }
    let from = out.wrapping_sub(distance);
    // Doubles a short period until it has at least the 8 bytes of a word.
    let mut at = 0;
    let mut period = distance;
    while period < 8 {
        // SAFETY: 8 bytes that start less than 8 bytes after `out`; `OVERRUN` has room for them.
        unsafe { copy::copy_8(from, out.wrapping_add(at)) };
        at += period;
        period *= 2;
    }
    // `out + at` is now `period` bytes after `from`, and the bytes between are whole periods.
    while at < len {
        // SAFETY: 8 bytes that start before the end of the match; `OVERRUN` has room for them. The
        // source starts `period` bytes before, which is 8 or more.
        unsafe { copy::copy_8(out.wrapping_add(at).wrapping_sub(period), out.wrapping_add(at)) };
        at += 8;
    }
}
