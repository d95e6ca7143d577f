//! A member that lies in the archive as it is.

use std::sync::Arc;

use seekable_deflate::ReadAt;

use super::Error;
use crate::archive::SourceFile;

/// A stored member: bytes of the archive file from `start`.
#[derive(Debug)]
pub struct Stored {
    pub source: Arc<SourceFile>,
    /// Offset in the archive file.
    pub start: u64,
}

impl Stored {
    /// Fills `buf` with the member's bytes from `offset`.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        Ok(self.source.read_exact_at(buf, self.start + offset)?)
    }
}
