//! The index of a stream as bytes, which a later reader goes on from.
//!
//! docs/index-format.md specifies them. Their checksums protect from damage, not from forgery: who
//! writes an index says what the stream decodes to.

mod adopt;
mod error;
mod layout;
mod table;
mod write;

use std::{fmt, ops::Range, sync::Arc};

pub(crate) use adopt::Adopted;
pub use error::IndexError;
use layout::{Header, Lies, Record};

use crate::window;

/// Bytes that stay what they are: a file mapped into memory, say.
type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The saved index of one stream: header and table checked, windows read where they lie.
///
/// Cheap to clone. What its bytes take does not count as memory of a reader.
#[derive(Clone)]
pub struct SavedIndex {
    inner: Arc<Inner>,
}

struct Inner {
    bytes: Bytes,
    range: Range<usize>,
    header: Header,
}

impl SavedIndex {
    /// Checks header and table of the index that `range` of `bytes` holds. Windows are left alone
    /// until they are used; one that is damaged then costs a longer decode.
    ///
    /// # Errors
    /// `Foreign`, `Version` or `Corrupt`.
    pub fn new(bytes: Bytes, range: Range<usize>) -> Result<Self, IndexError> {
        let index = (*bytes).as_ref().get(range.clone()).ok_or(IndexError::Corrupt("cut off"))?;
        let header = Header::of(index)?;
        if crc32fast::hash(&index[header.table()]) != header.table_crc32 {
            return Err(IndexError::Corrupt("checksum of the table"));
        }
        table::check(&header, &index[header.table()])?;
        Ok(Self { inner: Arc::new(Inner { bytes, range, header }) })
    }

    /// How far the stream was decoded, in decoded bytes.
    #[must_use]
    pub fn frontier(&self) -> u64 {
        self.inner.header.sums.whole.len()
    }

    /// Whether that is the end of the stream.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.inner.header.complete
    }
}

impl Inner {
    /// All bytes of the index, as far as they are still there.
    fn index(&self) -> &[u8] {
        (*self.bytes).as_ref().get(self.range.clone()).unwrap_or_default()
    }

    fn table(&self) -> &[u8] {
        self.index().get(self.header.table()).unwrap_or_default()
    }

    /// The packed bytes of a window.
    fn packed(&self, lies: Lies) -> Option<&[u8]> {
        let start = usize::try_from(lies.at).ok()?;
        let windows = self.index().get(self.header.table().end..)?;
        windows.get(start..start.checked_add(lies.packed_len as usize)?)
    }
}

impl fmt::Debug for SavedIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedIndex")
            .field("range", &self.inner.range)
            .field("frontier", &self.frontier())
            .field("complete", &self.is_complete())
            .finish_non_exhaustive()
    }
}

/// A window of a saved index.
#[derive(Clone)]
pub(crate) struct SavedWindow {
    saved: Arc<Inner>,
    /// The number of its checkpoint.
    number: usize,
}

impl SavedWindow {
    /// The bytes of the window; `None` if they are damaged.
    pub(crate) fn unpack(&self) -> Option<Vec<u8>> {
        let (lies, packed) = self.packed()?;
        let intact = crc32fast::hash(packed) == lies.crc32;
        intact.then(|| window::inflate(packed, lies.len.into())).flatten()
    }

    /// Its packed bytes as they are, and what is said of them.
    fn packed(&self) -> Option<(Lies, &[u8])> {
        let (records, _) = self.saved.table().as_chunks::<{ Record::LEN }>();
        let lies = Record::of(records.get(self.number)?).ok()?.window?;
        Some((lies, self.saved.packed(lies)?))
    }
}

impl fmt::Debug for SavedWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SavedWindow").field(&self.number).finish()
    }
}
