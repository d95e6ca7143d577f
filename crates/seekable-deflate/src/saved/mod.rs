//! The format of a saved index (docs/index-format.md).
//!
//! The checksums protect from damage, not from forgery: a forged index can pretend anything about
//! bytes of the stream that the reader has not decoded itself.

mod error;
mod layout;
mod table;

use std::{fmt, io, ops::Range, sync::Arc};

pub use error::IndexError;
pub(crate) use layout::{Header, Record, WindowRecord};

use crate::{ReadAt, inflate::HISTORY};

/// The saved index of one stream. Header and table have been checked. A window is read and checked
/// when it is used.
///
/// Cheap to clone.
#[derive(Clone)]
pub struct SavedIndex {
    inner: Arc<Inner>,
    /// The records of the table, needed only to adopt the index.
    records: Arc<[Record]>,
    /// The checksums of all ends of blocks, needed only to adopt the index.
    block_crcs: Arc<[u32]>,
}

struct Inner {
    bytes: Arc<dyn ReadAt>,
    /// Offset in `bytes` at which the index begins.
    start: u64,
    header: Header,
}

impl SavedIndex {
    /// Checks header and table of the index that `range` of `bytes` holds. Windows are read when
    /// they are used; a window that is damaged or cannot be read then costs a longer decode.
    ///
    /// # Errors
    /// `Foreign`, `Version`, `Corrupt` or `Unreadable`.
    pub fn new(bytes: Arc<dyn ReadAt>, range: Range<u64>) -> Result<Self, IndexError> {
        let header = header(&*bytes, &range)?;
        let inner = Inner { bytes, start: range.start, header };
        let (records, block_crcs) = table::parse(&inner.header, &inner.table()?)?;
        let (records, block_crcs) = (records.into(), block_crcs.into());
        Ok(Self { inner: Arc::new(inner), records, block_crcs })
    }

    /// The [`frontier`](Self::frontier) of the index that `range` of `bytes` holds. Reads only the
    /// header: the table may still turn out to be damaged.
    ///
    /// # Errors
    /// The same as for [`new`](Self::new).
    pub fn frontier_in(bytes: &dyn ReadAt, range: Range<u64>) -> Result<u64, IndexError> {
        Ok(header(bytes, &range)?.sums.whole.len())
    }

    pub(crate) fn header(&self) -> &Header {
        &self.inner.header
    }

    /// The checkpoints, each with its window if the index has one for it.
    pub(crate) fn records(&self) -> impl ExactSizeIterator<Item = (&Record, Option<SavedWindow>)> {
        self.records.iter().enumerate().map(|(number, record)| {
            let window = || SavedWindow { saved: self.inner.clone(), number };
            (record, record.window.map(|_| window()))
        })
    }

    /// The CRC-32 of each span up to each end of a block within it, one span after the other.
    pub(crate) fn block_crcs(&self) -> &[u32] {
        &self.block_crcs
    }

    /// Decoded offset up to which the stream was decoded.
    #[must_use]
    pub fn frontier(&self) -> u64 {
        self.inner.header.sums.whole.len()
    }

    /// Whether the [`frontier`](Self::frontier) is at the end of the stream.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.inner.header.complete
    }
}

/// The header of the index that `range` of `bytes` holds.
fn header(bytes: &dyn ReadAt, range: &Range<u64>) -> Result<Header, IndexError> {
    let mut header = [0; Header::LEN];
    bytes.read_exact_at(&mut header, range.start)?;
    Header::of(&header, range.end.saturating_sub(range.start))
}

impl Inner {
    /// Reads the table and compares its checksum.
    fn table(&self) -> Result<Vec<u8>, IndexError> {
        // Checks that the last byte exists before memory for the whole table is allocated.
        let len = self.header.table_len();
        if let Some(last) = len.checked_sub(1) {
            self.read(last, &mut [0])?;
        }
        let mut table = vec![0; usize::try_from(len).map_err(|_| IndexError::Corrupt("length"))?];
        self.read(0, &mut table)?;
        if crc32fast::hash(&table) != self.header.table_crc32 {
            return Err(IndexError::Corrupt("checksum of the table"));
        }
        Ok(table)
    }

    /// Reads bytes from `offset` on, which counts from the start of the table.
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let at = self.start.checked_add(Header::LEN as u64 + offset);
        self.bytes.read_exact_at(buf, at.ok_or(io::ErrorKind::UnexpectedEof)?)
    }

    /// The record of the window of checkpoint `number`. `None` if there is none or it cannot be
    /// read.
    fn window_record(&self, number: usize) -> Option<WindowRecord> {
        let mut record = [0; Record::LEN];
        self.read((number * Record::LEN) as u64, &mut record).ok()?;
        Record::of(&record).ok()?.window
    }

    /// The packed bytes of a window. `None` if they are damaged or cannot be read.
    fn packed(&self, record: WindowRecord) -> Option<Vec<u8>> {
        // No window packs to more bytes. The limit bounds the memory that a damaged length can
        // cost.
        if record.packed_len as usize > 2 * HISTORY {
            return None;
        }
        let mut packed = vec![0; record.packed_len as usize];
        self.read(self.header.table_len().checked_add(record.at)?, &mut packed).ok()?;
        (crc32fast::hash(&packed) == record.crc32).then_some(packed)
    }
}

impl fmt::Debug for SavedIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SavedIndex")
            .field("start", &self.inner.start)
            .field("frontier", &self.frontier())
            .field("complete", &self.is_complete())
            .finish_non_exhaustive()
    }
}

/// A window of a saved index.
#[derive(Clone)]
pub(crate) struct SavedWindow {
    saved: Arc<Inner>,
    /// The number of the window's checkpoint.
    number: usize,
}

impl SavedWindow {
    /// The record of the window and its packed bytes. `None` if they are damaged or cannot be read.
    pub(crate) fn packed(&self) -> Option<(WindowRecord, Vec<u8>)> {
        let record = self.saved.window_record(self.number)?;
        Some((record, self.saved.packed(record)?))
    }
}

impl fmt::Debug for SavedWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SavedWindow").field(&self.number).finish()
    }
}
