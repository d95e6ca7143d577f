//! The unit of the output: an integer that stands for one byte.

/// A unit of the output. It is a byte or, if the history is not known, a wider integer whose value
/// is a byte or refers to a byte of that history. The loops write literals as units whose value is
/// a byte; a match copies units of both kinds.
///
/// # Safety
/// The type must be an integer of one or two bytes.
pub(crate) unsafe trait Unit: Copy + From<u8> {}

// SAFETY: `u8` is an integer of one byte.
unsafe impl Unit for u8 {}
// SAFETY: `u16` is an integer of two bytes.
unsafe impl Unit for u16 {}
