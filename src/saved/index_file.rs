//! The saved indexes of one archive, in one file: a header, a table of streams, then their
//! indexes, each as `seekable-deflate` writes it. docs/index-format.md specifies it byte by byte.
//!
//! Opening one looks at header and table alone.

use std::{
    fmt,
    fs::File,
    io::{self, BufWriter, Seek, SeekFrom, Write},
    ops::Range,
    sync::Arc,
};

use seekable_deflate::SavedIndex;

use super::{Error, Map};
use crate::archive::Identity;

const MAGIC: [u8; 8] = *b"NPZFSIDX";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 64;
const ENTRY_LEN: usize = 32;

/// Names a stream of an archive: where its local file header is, and how many encoded bytes it
/// has. A `.npy.gz` is one stream, at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    /// In bytes from the start of the file.
    pub header_offset: u64,
    /// In bytes.
    pub encoded_size: u64,
}

/// An index file, open.
pub struct IndexFile {
    map: Arc<Map>,
    /// Sorted.
    streams: Vec<(StreamKey, Range<usize>)>,
}

impl fmt::Debug for IndexFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexFile").field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}

impl IndexFile {
    /// Looks at a file that should be of the archive `identity`.
    ///
    /// # Errors
    /// `Unfit`, and in which way.
    pub fn parse(map: Arc<Map>, identity: &Identity) -> Result<Self, Error> {
        let streams = parse((*map).as_ref(), identity).map_err(Error::Unfit)?;
        Ok(Self { map, streams })
    }

    /// Which streams have an index, in order.
    pub fn streams(&self) -> impl Iterator<Item = StreamKey> {
        self.streams.iter().map(|(key, _)| *key)
    }

    /// The index of a stream, if it has one.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn index(&self, key: StreamKey) -> Result<Option<SavedIndex>, Error> {
        let Some(range) = self.range(key) else { return Ok(None) };
        let map: Arc<dyn AsRef<[u8]> + Send + Sync> = self.map.clone();
        Ok(Some(SavedIndex::new(map, range)?))
    }

    /// The bytes of a stream's index, as they are.
    pub fn bytes(&self, key: StreamKey) -> Option<&[u8]> {
        self.range(key).map(|range| &(*self.map).as_ref()[range])
    }

    /// Writes the bytes of a stream's index, as they are, into another file.
    pub fn copy(&self, key: StreamKey) -> WriteIndex<'_> {
        Box::new(move |out| {
            let bytes = self.bytes(key);
            out.write_all(bytes.unwrap_or_default())?;
            Ok(bytes.is_some())
        })
    }

    fn range(&self, key: StreamKey) -> Option<Range<usize>> {
        let at = self.streams.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(self.streams[at].1.clone())
    }
}

fn parse(
    bytes: &[u8],
    identity: &Identity,
) -> Result<Vec<(StreamKey, Range<usize>)>, &'static str> {
    let header = bytes.get(..HEADER_LEN).ok_or("it is shorter than a header")?;
    if !header.starts_with(&MAGIC) {
        return Err("it is no index file");
    }
    if u32_at(header, 60) != crc32fast::hash(&header[..60]) {
        return Err("its header is damaged");
    }
    if u32_at(header, 8) != VERSION {
        return Err("it is of another version");
    }
    if header[16..48] != identity.0 {
        return Err("it is of another archive");
    }
    if u64_at(header, 48) != bytes.len() as u64 {
        return Err("it is cut short");
    }
    let count = u32_at(header, 12) as usize;
    let table_len = count.checked_mul(ENTRY_LEN).ok_or("its table is too long")?;
    let table = bytes.get(HEADER_LEN..).and_then(|rest| rest.get(..table_len));
    let table = table.ok_or("its table is cut short")?;
    if u32_at(header, 56) != crc32fast::hash(table) {
        return Err("its table is damaged");
    }
    let mut streams = Vec::with_capacity(count);
    for entry in table.chunks_exact(ENTRY_LEN) {
        let key = StreamKey { header_offset: u64_at(entry, 0), encoded_size: u64_at(entry, 8) };
        let (start, len) = (u64_at(entry, 16), u64_at(entry, 24));
        let end = start.checked_add(len).filter(|end| *end <= bytes.len() as u64);
        let end = end.ok_or("an index lies outside of it")?;
        if streams.last().is_some_and(|(last, _)| *last >= key) {
            return Err("its table is not in order");
        }
        // Both are within the file, which is in memory.
        streams.push((key, start as usize..end as usize));
    }
    Ok(streams)
}

/// Writes the bytes of a stream's index; `false` if there is nothing to write.
pub type WriteIndex<'a> = Box<dyn FnOnce(&mut dyn Write) -> Result<bool, Error> + 'a>;

/// Writes a file of the archive `identity`: these streams, which must be in order. Says how many
/// have an index.
pub(super) fn write(
    file: &File,
    identity: &Identity,
    streams: Vec<(StreamKey, WriteIndex)>,
) -> Result<usize, Error> {
    debug_assert!(streams.is_sorted_by(|(one, _), (other, _)| one < other));
    let mut out = BufWriter::with_capacity(256 << 10, Counted { file, at: 0 });
    // The place of the table, which is known last.
    let first = HEADER_LEN + streams.len() * ENTRY_LEN;
    out.write_all(&vec![0; first])?;
    let mut at = first as u64;
    let mut table = Vec::new();
    for (key, write_index) in streams {
        let written = write_index(&mut out)?;
        let end = out.get_ref().at + out.buffer().len() as u64;
        if written {
            for number in [key.header_offset, key.encoded_size, at, end - at] {
                table.extend_from_slice(&number.to_le_bytes());
            }
        }
        at = end;
    }
    out.flush()?;
    drop(out);

    let count = table.len() / ENTRY_LEN;
    let mut header = Vec::with_capacity(HEADER_LEN);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&u32::try_from(count).map_err(io::Error::other)?.to_le_bytes());
    header.extend_from_slice(&identity.0);
    header.extend_from_slice(&at.to_le_bytes());
    header.extend_from_slice(&crc32fast::hash(&table).to_le_bytes());
    header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
    let mut file = file;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header)?;
    file.write_all(&table)?;
    Ok(count)
}

/// Counts what is written, so that asking where a file stands costs no system call.
struct Counted<'a> {
    file: &'a File,
    at: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut file = self.file;
        let written = file.write(buf)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
