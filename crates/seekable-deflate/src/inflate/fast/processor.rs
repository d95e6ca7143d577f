//! What the fast loops can use of a processor beyond what every one has.

use super::{copy, fused};

/// The few things that are done differently.
pub(super) trait Processor {
    /// Calls `f`, compiled for the processor, as a function of its own: the registers of a loop
    /// are shared out better there.
    ///
    /// # Safety
    /// The processor must be one that this is for.
    unsafe fn apart<R>(f: impl FnOnce() -> R) -> R;

    /// Copies 32 bytes.
    ///
    /// # Safety
    /// Both must be there. They may overlap: all is read before anything is written.
    unsafe fn copy_32(from: *const u8, to: *mut u8);

    /// Repeats `len` bytes from `distance` before `out` at `out`.
    ///
    /// # Safety
    /// The bytes from `out - distance` to `out + len + OVERRUN` must be writable; `distance`
    /// must be 1 or more.
    unsafe fn copy_match(out: *mut u8, distance: usize, len: usize);

    /// Copies `LONG` bytes to `out`, 32 from `from` and each time from `step` after that, with
    /// `byte` combined into each by OR.
    ///
    /// # Safety
    /// They must be there; those of a block may have been written with the blocks before.
    unsafe fn copy_long(from: *const u8, step: usize, byte: u8, out: *mut u8);

    /// Fills a fused table.
    ///
    /// # Safety
    /// The processor must be one that this is for.
    unsafe fn fill(entries: &mut fused::Entries, parts: &fused::Parts);
}

/// Any processor.
pub(super) struct Any;

impl Processor for Any {
    #[inline(never)]
    unsafe fn apart<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    #[inline(always)]
    unsafe fn copy_32(from: *const u8, to: *mut u8) {
        // SAFETY: the caller's promise. Both halves are read first.
        unsafe {
            let halves = from.cast::<[u128; 2]>().read_unaligned();
            to.cast::<[u128; 2]>().write_unaligned(halves);
        }
    }

    #[inline(always)]
    unsafe fn copy_match(out: *mut u8, distance: usize, len: usize) {
        // SAFETY: the caller's promises are the same.
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
/// As there.
#[inline(never)]
unsafe fn copy_match(out: *mut u8, distance: usize, len: usize) {
    if distance >= 32 {
        // SAFETY: the caller's promises are the same.
        return unsafe { copy::copy_apart::<Any>(out, distance, len) };
    }
    if distance == 1 {
        // SAFETY: the byte before `out` is there, the caller promises.
        let byte = unsafe { *out.wrapping_sub(1) };
        let bytes = u128::from_ne_bytes([byte; 16]);
        for at in (0..len).step_by(16) {
            // SAFETY: 16 bytes from a place before the end of the match.
            unsafe { out.wrapping_add(at).cast::<u128>().write_unaligned(bytes) };
        }
        return;
    }
    let from = out.wrapping_sub(distance);
    // A short period is doubled until it is as long as a word.
    let mut at = 0;
    let mut period = distance;
    while period < 8 {
        // SAFETY: 8 bytes from less than 8 after `out` on, which `OVERRUN` allows for.
        unsafe { copy::copy_8(from, out.wrapping_add(at)) };
        at += period;
        period *= 2;
    }
    // `at` is now `period` after `from`.
    while at < len {
        // SAFETY: 8 bytes from a place before the end of the match, and 8 or more before it.
        unsafe { copy::copy_8(out.wrapping_add(at).wrapping_sub(period), out.wrapping_add(at)) };
        at += 8;
    }
}
