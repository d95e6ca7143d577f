//! The parser of zip archives.
//!
//! Sizes and CRC-32 come from the central directory, the place of a member's bytes from its local
//! header, which is read when the member is first opened. A header that contradicts the directory
//! makes that open fail. Two members may share their bytes.

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
/// Where the length of the name stands in a local and in a central header.
const LOCAL_NAME_LEN: usize = 26;
const CENTRAL_NAME_LEN: usize = 28;
/// Read together with a header, so that a name of usual length costs no second read.
const USUAL_NAME_LEN: usize = 200;

/// Parses the central directory.
///
/// # Errors
/// `Pending` without an end record, `Corrupt`, `Io`, and what `grow` says.
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
        positions: central.positions.into(),
    };
    Ok(Container::of_many(source, central.members, tree, headers))
}

/// About how many bytes of memory [`parse`] takes for these arguments, and keeps.
pub(super) fn memory(source: &SourceFile, tail: &[u8]) -> u64 {
    // A header has 46 bytes and a name; what is kept of them takes about half as much again.
    central::directory_len(source, tail).saturating_mul(3) / 2
}

/// The local headers of a zip, as far as they have been read.
#[derive(Debug)]
pub(super) struct LocalHeaders {
    /// Where the central directory lies, in bytes from the start of the file.
    pub central: Range<u64>,
    /// Where the central directory entry of each member starts, in bytes from the start of `central`.
    positions: Box<[u32]>,
    /// Where the encoded bytes of each member start; 0 until its local header has been read.
    data_offsets: Box<[AtomicU64]>,
}

impl LocalHeaders {
    /// Where the encoded bytes of `member` start, from its local header (read once).
    ///
    /// # Errors
    /// `Corrupt` if header and directory disagree, or the bytes would not lie before the central
    /// directory; `Io`.
    pub fn data_offset(
        &self,
        source: &SourceFile,
        id: MemberId,
        member: &Member,
    ) -> Result<u64, Error> {
        // A lost race reads the header twice and stores the same offset.
        let known = &self.data_offsets[id.0 as usize];
        match known.load(Ordering::Relaxed) {
            0 => {
                let offset = self.read_data_offset(source, id, member)?;
                known.store(offset, Ordering::Relaxed);
                Ok(offset)
            }
            offset => Ok(offset),
        }
    }

    /// Bytes of memory that the tables take.
    pub fn memory(&self) -> usize {
        size_of_val(&*self.positions) + size_of_val(&*self.data_offsets)
    }

    fn read_data_offset(
        &self,
        source: &SourceFile,
        id: MemberId,
        member: &Member,
    ) -> Result<u64, Error> {
        check_sizes(member)?;
        let header = self.local_header(source, member)?;
        let method = Method::from_number(le16(&header[8..]));
        if method != member.method {
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
        // The range check above has shown that the whole header is in the file.
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

    /// The local header and the name after it, and whatever more was read.
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

    /// The name in the central directory, decoded; read again, since it need not be kept for
    /// anything else.
    fn central_name(&self, source: &SourceFile, id: MemberId) -> Result<Vec<u8>, Error> {
        let start = self.central.start + u64::from(self.positions[id.0 as usize]);
        let range = start..self.central.end;
        let entry = read_with_name(source, range, central::HEADER_LEN, CENTRAL_NAME_LEN)?;
        let (header, rest) = entry.split_at(central::HEADER_LEN);
        let name_len = usize::from(le16(&header[CENTRAL_NAME_LEN..]));
        Ok(decoded(&rest[..name_len.min(rest.len())], le16(&header[8..])))
    }
}

/// A header of `header_len` bytes at the start of `range` and the name after it, as far as
/// `range` goes; the length of the name stands at `name_len_at` in the header.
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

/// Checks a member by the central directory alone.
fn check_sizes(member: &Member) -> Result<(), Error> {
    let &Member { method, encoded_size, size, crc32, .. } = member;
    // What a writer leaves that counts in 32 bits and had more to write.
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

/// `len`, or the length of `range` if that is less.
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
