//! The saved indexes of one archive, in one file: a header, a table of streams, and the indexes of
//! these streams in the format of `seekable-deflate`. docs/index-format.md specifies each byte.
//!
//! Opening an index file reads only its header and table.

use std::{
    fmt,
    fs::File,
    io::{self, BufWriter, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::FileExt,
    sync::Arc,
};

use seekable_deflate::SavedIndex;

use super::Error;
use crate::archive::{Identity, SameFile};

const MAGIC: [u8; 8] = *b"NPZFSIDX";
const VERSION: u32 = 3;
const HEADER_LEN: usize = 72;
const ENTRY_LEN: usize = 56;

/// Flags of an entry in the table.
const CONFIRMED: u32 = 1;
const OF_ONE_FILE: u32 = 2;

/// Bytes that are read at a time when an index is copied.
const PIECE: u64 = 256 << 10;

/// Identifies a stream of an archive by the offset of its local file header and its encoded size. A
/// `.npy.gz` is one stream, at offset 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    /// Offset of the local file header, in bytes from the start of the archive.
    pub header_offset: u64,
    /// Encoded size of the stream in bytes.
    pub encoded_size: u64,
}

/// How far an entry of an index file can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// Whether all bytes of the stream have been compared with its checksum, and matched it.
    pub confirmed: bool,
    /// The file from which the entry was made, if the entry is valid only for that file. Bytes of a
    /// stored member, and bytes that no checksum has confirmed, could otherwise change unnoticed.
    pub file: Option<SameFile>,
}

impl Trust {
    /// Whether the entry is valid for `file`.
    pub fn holds_for(&self, file: Option<SameFile>) -> bool {
        self.file.is_none() || self.file == file
    }
}

/// The entry of one stream in an index file.
#[derive(Debug, Clone)]
struct StreamEntry {
    key: StreamKey,
    trust: Trust,
    /// Offsets of the index in the file. Empty if the entry only records that the member is
    /// confirmed.
    range: Range<u64>,
}

/// An open index file.
pub struct IndexFile {
    file: Arc<File>,
    /// Sorted by key.
    streams: Vec<StreamEntry>,
}

impl fmt::Debug for IndexFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexFile").field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}

impl IndexFile {
    /// Reads the header and table of `file`, which should belong to the archive `identity`.
    ///
    /// # Errors
    /// `Unfit` with the reason, or `Io`.
    pub fn parse(file: File, identity: &Identity) -> Result<Self, Error> {
        let streams = parse(&file, identity)?;
        Ok(Self { file: Arc::new(file), streams })
    }

    /// The streams that have an entry, sorted by key, and how far each entry can be trusted.
    pub fn streams(&self) -> impl Iterator<Item = (StreamKey, Trust)> {
        self.streams.iter().map(|entry| (entry.key, entry.trust))
    }

    /// How far the entry of a stream can be trusted, if there is one.
    pub fn trust(&self, key: StreamKey) -> Option<Trust> {
        self.entry(key).map(|entry| entry.trust)
    }

    /// The index of a stream, if the file has one.
    ///
    /// # Errors
    /// When the index is damaged.
    pub fn index(&self, key: StreamKey) -> Result<Option<SavedIndex>, Error> {
        let Some(entry) = self.entry(key).filter(|entry| !entry.range.is_empty()) else {
            return Ok(None);
        };
        Ok(Some(SavedIndex::new(self.file.clone(), entry.range.clone())?))
    }

    /// The sum of the frontiers of all indexes, in decoded bytes. Reads only the headers of the
    /// indexes.
    pub fn frontiers(&self) -> u64 {
        let frontier = |range: &Range<u64>| SavedIndex::frontier_in(&*self.file, range.clone());
        let with_index = self.streams.iter().filter(|entry| !entry.range.is_empty());
        let frontiers = with_index.filter_map(|entry| frontier(&entry.range).ok());
        frontiers.fold(0, u64::saturating_add)
    }

    /// Returns a function that copies the bytes of a stream's index unchanged to another file.
    pub fn copy(&self, key: StreamKey) -> WriteIndex<'_> {
        Box::new(move |out| {
            let Some(StreamEntry { range, .. }) = self.entry(key) else { return Ok(false) };
            let mut piece = vec![0; PIECE.min(range.end - range.start) as usize];
            for at in range.clone().step_by(PIECE as usize) {
                let piece = &mut piece[..PIECE.min(range.end - at) as usize];
                // An index that cannot be read is lost, but the other indexes are still written.
                if self.file.read_exact_at(piece, at).is_err() {
                    return Ok(false);
                }
                out.write_all(piece)?;
            }
            Ok(true)
        })
    }

    fn entry(&self, key: StreamKey) -> Option<&StreamEntry> {
        let at = self.streams.binary_search_by_key(&key, |entry| entry.key).ok()?;
        self.streams.get(at)
    }
}

fn parse(file: &File, identity: &Identity) -> Result<Vec<StreamEntry>, Error> {
    let file_len = file.metadata()?.len();
    let mut header = [0; HEADER_LEN];
    read(file, &mut header, 0, "it is shorter than a header")?;
    let header = &header[..];
    if !header.starts_with(&MAGIC) {
        return Err(Error::Unfit("it is no index file"));
    }
    if u32_at(header, 8) != VERSION {
        return Err(Error::Unfit("it is of another version"));
    }
    if (u32_at(header, 64), u32_at(header, 68)) != (crc32fast::hash(&header[..64]), 0) {
        return Err(Error::Unfit("its header is damaged"));
    }
    if header[16..48] != identity.hash || !identity.has_fraction(u32_at(header, 60)) {
        return Err(Error::Unfit("it is of another archive"));
    }
    if u64_at(header, 48) != file_len {
        return Err(Error::Unfit("it is cut short"));
    }
    let count = u32_at(header, 12) as usize;
    // A damaged count must not allocate more memory than the file has bytes.
    if (count * ENTRY_LEN) as u64 > file_len {
        return Err(Error::Unfit("its table is cut short"));
    }
    let mut table = vec![0; count * ENTRY_LEN];
    read(file, &mut table, HEADER_LEN as u64, "its table is cut short")?;
    if u32_at(header, 56) != crc32fast::hash(&table) {
        return Err(Error::Unfit("its table is damaged"));
    }
    let mut streams = Vec::with_capacity(count);
    for entry in table.chunks_exact(ENTRY_LEN) {
        let key = StreamKey { header_offset: u64_at(entry, 0), encoded_size: u64_at(entry, 8) };
        let (start, len) = (u64_at(entry, 16), u64_at(entry, 24));
        let end = start.checked_add(len).filter(|end| *end <= file_len);
        let end = end.ok_or(Error::Unfit("an index lies outside of it"))?;
        if streams.last().is_some_and(|last: &StreamEntry| last.key >= key) {
            return Err(Error::Unfit("its table is not in order"));
        }
        let flags = u32_at(entry, 32);
        let of = entry[40..].first_chunk().filter(|_| flags & OF_ONE_FILE != 0);
        let trust = Trust { confirmed: flags & CONFIRMED != 0, file: of.copied().map(SameFile) };
        if !trust.confirmed && trust.file.is_none() {
            return Err(Error::Unfit("it does not say which file an index is of"));
        }
        streams.push(StreamEntry { key, trust, range: start..end });
    }
    Ok(streams)
}

/// Fills `buf` with the bytes at `offset`. The error is `Unfit(short)` if the file ends too early.
fn read(file: &File, buf: &mut [u8], offset: u64, short: &'static str) -> Result<(), Error> {
    file.read_exact_at(buf, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Unfit(short),
        _ => Error::Io(error),
    })
}

/// Writes the bytes of a stream's index. Returns `false` if there is nothing to write.
pub type WriteIndex<'a> = Box<dyn FnOnce(&mut dyn Write) -> Result<bool, Error> + 'a>;

/// Writes an index file of the archive `identity` with `streams`, which must be sorted by key.
/// Returns how many streams have an entry: those that have an index or are confirmed.
pub(super) fn write(
    file: &File,
    identity: &Identity,
    streams: Vec<(StreamKey, Trust, WriteIndex)>,
) -> Result<usize, Error> {
    debug_assert!(streams.is_sorted_by(|(one, ..), (other, ..)| one < other));
    let mut out = BufWriter::with_capacity(256 << 10, Counted { file, at: 0 });
    // Leaves room for the header and the table, which are written last.
    let first = HEADER_LEN + streams.len() * ENTRY_LEN;
    out.write_all(&vec![0; first])?;
    let mut at = first as u64;
    let mut table = Vec::new();
    for (key, trust, write_index) in streams {
        let written = write_index(&mut out)?;
        let end = out.get_ref().at + out.buffer().len() as u64;
        if written || trust.confirmed {
            let len = if written { end - at } else { 0 };
            for number in [key.header_offset, key.encoded_size, at, len] {
                table.extend_from_slice(&number.to_le_bytes());
            }
            let flags = if trust.confirmed { CONFIRMED } else { 0 }
                | if trust.file.is_some() { OF_ONE_FILE } else { 0 };
            table.extend_from_slice(&u64::from(flags).to_le_bytes());
            table.extend_from_slice(&trust.file.unwrap_or(SameFile([0; 16])).0);
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
    header.extend_from_slice(&identity.hash);
    header.extend_from_slice(&at.to_le_bytes());
    header.extend_from_slice(&crc32fast::hash(&table).to_le_bytes());
    header.extend_from_slice(&identity.fraction.to_le_bytes());
    header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    let mut file = file;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header)?;
    file.write_all(&table)?;
    Ok(count)
}

/// A writer that counts the bytes it writes. Asking the file for its position would take a system
/// call.
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
