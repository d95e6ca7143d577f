//! A gzipped `.npy`.

use std::sync::Arc;

use super::{Error, SourceFile, npy};

/// A `.npy.gz` whose header has been read.
#[derive(Debug)]
pub struct NpyGz {}

impl NpyGz {
    /// Inflates the first bytes and reads the `.npy` header.
    ///
    /// # Errors
    /// `Corrupt` when it is no gzipped `.npy` with a size that can be known, `Io`.
    pub fn open(source: Arc<SourceFile>) -> Result<Self, Error> {
        let _ = source;
        todo!()
    }

    /// The file.
    pub fn source(&self) -> &Arc<SourceFile> {
        todo!()
    }

    /// What the header says.
    pub fn header(&self) -> &npy::Header {
        todo!()
    }

    /// Size of the decoded file in bytes, by its header.
    pub fn size(&self) -> u64 {
        todo!()
    }
}
