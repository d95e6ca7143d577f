//! What stands for a byte in the output.

/// Stands for a byte: itself, or, where the history is not known, something wider that can be a
/// byte or name one. The loops put out what bytes are, and copy either.
///
/// # Safety
/// Only for integers of one or two bytes.
pub(crate) unsafe trait Unit: Copy + From<u8> {}

// SAFETY: it is one of one byte.
unsafe impl Unit for u8 {}
// SAFETY: it is one of two bytes.
unsafe impl Unit for u16 {}
