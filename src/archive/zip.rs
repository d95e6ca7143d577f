//! The parser of zip archives.
//!
//! Sizes and CRC-32 come from the central directory. The place of a member's bytes comes from its
//! local header, which is read when the member is first opened. If that header contradicts the
//! central directory, the open fails. Two members may share their bytes.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use seekable_deflate::ReadAt;

use super::{
    Container, Error, Member, MemberId, Method, SourceFile,
    central::{self, Central, GROWS_BY, Grow, le16, le32},
    dir,
    member::MAX_DEFLATE_RATIO,
};

const LOCAL_HEADER: [u8; 4] = *b"PK\x03\x04";
const LOCAL_HEADER_LEN: usize = 30;
/// Byte offset of the name's length in a local header and in a central header.
const LOCAL_NAME_LEN: usize = 26;
const CENTRAL_NAME_LEN: usize = 28;
/// Bytes of the name that are read together with a header, so that most names need no second read.
const USUAL_NAME_LEN: usize = 200;

/// Parses the central directory.
///
/// # Errors
/// `Pending` without an end record, `Corrupt`, `Io`, and errors of `grow`.
pub(super) fn parse(
    source: Arc<SourceFile>,
    tail: Vec<u8>,
    grow: &mut Grow<'_>,
) -> Result<Container, Error> {
    let central = Central::read(&source, tail, grow)?;
    let more = dir::build_memory(central.members.len(), &central.names);
    if more > GROWS_BY {
        grow(more)?;
    }
    let tree = dir::build(central.members.len(), |index| central.name(index));
    let headers = LocalHeaders {
        data_offsets: central.members.iter().map(|_| AtomicU64::new(0)).collect(),
        central: central.range,
        end_record: central.end_record,
        positions: central.positions.into(),
    };
    Ok(Container::of_many(source, central.members, tree, headers))
}

/// About how many bytes of memory [`parse`] takes for these arguments. The container keeps that
/// much.
pub(super) fn memory(source: &SourceFile, tail: &[u8]) -> u64 {
    memory_of(central::directory_len(source, tail))
}

/// About how many bytes of memory it takes to parse a central directory of `len` bytes. An entry
/// has 46 bytes and its name. The data kept for an entry takes about one and a half times as much.
fn memory_of(len: u64) -> u64 {
    len.saturating_mul(3) / 2
}

/// Finds the local headers of a zip, and remembers where the bytes of each opened member start.
#[derive(Debug)]
pub(super) struct LocalHeaders {
    /// Range of the central directory, in bytes from the start of the file.
    pub central: Range<u64>,
    /// Where the end record starts, in bytes from the start of the file.
    pub end_record: u64,
    /// Where the central directory entry of each member starts, in bytes from `central.start`.
    positions: Box<[u32]>,
    /// Where the encoded bytes of each member start, in bytes from the start of the file; 0 until
    /// its local header has been read.
    data_offsets: Box<[AtomicU64]>,
}

impl LocalHeaders {
    /// Where the encoded bytes of `member` start, in bytes from the start of the file. The local
    /// header is read at the first call only.
    ///
    /// # Errors
    /// `Corrupt` if the header contradicts the central directory, or the encoded bytes do not lie
    /// before the central directory; `Io`.
    pub(super) fn data_offset(
        &self,
        source: &SourceFile,
        id: MemberId,
        member: &Member,
    ) -> Result<u64, Error> {
        // Two threads may read the header at the same time. Both store the same offset.
        let known = &self.data_offsets[id.0 as usize];
        match known.load(Ordering::Relaxed) {
            0 => {
                check_sizes(member)?;
                let offset = self.encoded_offset(source, id, member)?;
                known.store(offset, Ordering::Relaxed);
                Ok(offset)
            }
            offset => Ok(offset),
        }
    }

    /// About how many bytes of memory it takes to parse the central directory again.
    pub(super) fn parsing_memory(&self) -> u64 {
        memory_of(self.central.end - self.central.start)
    }

    /// Where the central directory entry of a member lies, in bytes from the start of the file. The
    /// range may hold more bytes after the entry.
    pub(super) fn entry(&self, index: usize) -> Range<u64> {
        let start = |position: &u32| self.central.start + u64::from(*position);
        let end = self.positions.get(index + 1).map_or(self.central.end, start);
        start(&self.positions[index])..end
    }

    /// Bytes of memory that the tables take.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.positions) + size_of_val(&*self.data_offsets)
    }

    /// As `data_offset`, for a member of any method and any sizes. Reads the local header each
    /// time.
    pub(super) fn encoded_offset(
        &self,
        source: &SourceFile,
        id: MemberId,
        member: &Member,
    ) -> Result<u64, Error> {
        let header = self.local_header(source, member)?;
        let method = Method::from_number(le16(&header[8..]));
        let expected = match member.method {
            // Members that are marked as patched data have the method `Other`, even if their number
            // is known. The local header does not say so.
            Method::Other(number) => Method::from_number(number),
            method => method,
        };
        if method != expected {
            return Err(Error::Corrupt(format!(
                "the local header says {method}, the central directory {}",
                member.method
            )));
        }
        let (flags, name_len) = (le16(&header[6..]), le16(&header[LOCAL_NAME_LEN..]));
        let data_offset = member.header_offset
            + LOCAL_HEADER_LEN as u64
            + u64::from(name_len)
            + u64::from(le16(&header[28..]));
        if data_offset
            .checked_add(member.encoded_size)
            .is_none_or(|data_end| data_end > self.central.start)
        {
            return Err(Error::Corrupt(format!(
                "{} bytes at offset {data_offset} reach into the central directory at {}",
                member.encoded_size, self.central.start
            )));
        }
        // In range: by the check above, the whole header lies before the central directory, so it
        // was read.
        let name = &header[LOCAL_HEADER_LEN..][..usize::from(name_len)];
        if decoded(name, flags) != self.central_name(source, id)? {
            return Err(Error::Corrupt(format!(
                "the local header at offset {} names another member: \"{}\"",
                member.header_offset,
                super::name::escaped(name)
            )));
        }
        Ok(data_offset)
    }

    /// Reads the local header and the name after it. The result may contain more bytes after the
    /// name.
    fn local_header(&self, source: &SourceFile, member: &Member) -> Result<Vec<u8>, Error> {
        let offset = member.header_offset;
        if self.central.start.saturating_sub(offset) < LOCAL_HEADER_LEN as u64 {
            return Err(Error::Corrupt(format!(
                "its local header at offset {offset} would not lie before the central directory \
                 at {}",
                self.central.start
            )));
        }
        let header =
            read_with_name(source, offset..self.central.start, LOCAL_HEADER_LEN, LOCAL_NAME_LEN)?;
        if !header.starts_with(&LOCAL_HEADER) {
            return Err(Error::Corrupt(format!(
                "there is no local header at offset {offset}, but {:#010x}",
                le32(&header)
            )));
        }
        Ok(header)
    }

    /// The decoded name in the central directory. It is read from the file again, because names are
    /// not kept: nothing else needs them.
    fn central_name(&self, source: &SourceFile, id: MemberId) -> Result<Vec<u8>, Error> {
        let range = self.entry(id.0 as usize).start..self.central.end;
        let entry = read_with_name(source, range, central::HEADER_LEN, CENTRAL_NAME_LEN)?;
        let (header, rest) = entry.split_at(central::HEADER_LEN);
        let name_len = usize::from(le16(&header[CENTRAL_NAME_LEN..]));
        Ok(decoded(&rest[..name_len.min(rest.len())], le16(&header[8..])))
    }
}

/// Reads a header of `header_len` bytes at the start of `range`, and the name after it, up to the
/// end of `range`. The length of the name is at byte `name_len_at` of the header.
fn read_with_name(
    source: &SourceFile,
    range: Range<u64>,
    header_len: usize,
    name_len_at: usize,
) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; fitting(header_len + USUAL_NAME_LEN, &range)];
    source.read_exact_at(&mut bytes, range.start)?;
    let name_len = usize::from(le16(&bytes[name_len_at..]));
    if header_len + name_len > bytes.len() {
        let read = bytes.len();
        bytes.resize(fitting(header_len + name_len, &range), 0);
        source.read_exact_at(&mut bytes[read..], range.start + read as u64)?;
    }
    Ok(bytes)
}

/// Whether a member can be decoded, by its method and flags.
pub(super) fn is_decodable(member: &Member) -> bool {
    !member.encrypted && !matches!(member.method, Method::Other(_))
}

/// Checks whether the sizes of a member in the central directory are possible.
pub(super) fn check_sizes(member: &Member) -> Result<(), Error> {
    let &Member { method, encoded_size, size, crc32, .. } = member;
    // Some writers count in 32 bits: for a member of 4 GiB they store size 0 and a CRC-32.
    if let (0, Some(crc32 @ 1..)) = (size, crc32) {
        return Err(Error::Corrupt(format!("CRC-32 of no bytes is 0, not {crc32:08x}")));
    }
    let possible = match method {
        Method::Stored => size == encoded_size,
        Method::Deflated => size <= encoded_size.saturating_mul(MAX_DEFLATE_RATIO),
        _ => size < i64::MAX as u64,
    };
    if possible {
        return Ok(());
    }
    Err(Error::Corrupt(format!("{encoded_size} bytes, {method}, cannot decode to {size}")))
}

/// Limits `len` to the bytes of `range`, so that a read stays inside it.
fn fitting(len: usize, range: &Range<u64>) -> usize {
    (len as u64).min(range.end - range.start) as usize
}

fn decoded(name: &[u8], flags: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    central::decode_name(name, flags, &mut out);
    out
}

#[cfg(test)]
mod tests;
