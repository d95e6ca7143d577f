//! The byte budget that readers share.

use std::sync::Arc;

/// Bytes that the decoded spans and the windows of all its readers may take together.
///
/// Decoded spans are dropped least recently used first; windows are counted first.
#[derive(Debug)]
pub struct Memory {}

impl Memory {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        let _ = limit;
        todo!()
    }

    /// Bytes in use now, cached spans and windows.
    #[must_use]
    pub fn used(&self) -> u64 {
        todo!()
    }

    /// Drops all cached spans.
    pub fn clear(&self) {
        todo!()
    }
}
