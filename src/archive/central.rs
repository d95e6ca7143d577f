//! Reads the end records and the central directory of a zip (APPNOTE 4.3.12 to 4.3.16).
//!
//! Opens every file that CPython's zipfile, and so np.load, opens, and finds the same members in
//! it. The directory ends where its end record starts, and has the length that this record gives:
//! so bytes before the zip do no harm. Entry counts, disk numbers (but for that in a zip64
//! locator), dates, and sizes in local headers are ignored. If zipfile gives up because a comment
//! contains bytes like an end record, an earlier end record is tried.
//!
//! The `zip` crate is not used for this. For a repeated name it uses the position of the first
//! member in the list but the data of the last. It trusts entry counts, searches for the directory
//! by its signature, and keeps some 300 bytes a member.

use std::{io, ops::Range};

use super::{Error, Member, Method, SourceFile, cp437};
use seekable_deflate::ReadAt;

const END: [u8; 4] = *b"PK\x05\x06";
const END_LEN: usize = 22;
const LOCATOR64: [u8; 4] = *b"PK\x06\x07";
const LOCATOR64_LEN: u64 = 20;
const END64: [u8; 4] = *b"PK\x06\x06";
const END64_LEN: u64 = 56;
const HEADER: [u8; 4] = *b"PK\x01\x02";
pub(super) const HEADER_LEN: usize = 46;
const DIGITAL_SIGNATURE: [u8; 4] = *b"PK\x05\x05";

/// The central directory is read in pieces of this many bytes. An entry takes 192 KiB at most.
const PIECE: u64 = 1 << 20;
/// The largest central directory that is read, in bytes: over a million members with names of 60
/// bytes. Without a bound, a file decides how much memory we take.
const MAX_DIRECTORY: u64 = 128 << 20;
/// How many end records are tried. Each may require reading a whole directory.
const MAX_END_RECORDS: usize = 4;

/// Reserves the given number of bytes before they are allocated, or returns an error.
pub type Grow<'a> = dyn FnMut(u64) -> io::Result<()> + 'a;

/// Bytes that are reserved at a time. Smaller amounts are allocated without a reservation.
pub(super) const GROWS_BY: u64 = 4 << 20;

/// General purpose bits (APPNOTE 4.4.4).
const ENCRYPTED: u16 = 1 << 0;
const PATCHED: u16 = 1 << 5;
const STRONGLY_ENCRYPTED: u16 = 1 << 6;
const UTF8: u16 = 1 << 11;

/// The fields of a central directory that are needed.
#[derive(Debug, Default)]
pub(super) struct Central {
    /// Where the directory lies, in bytes from the start of the file.
    pub range: Range<u64>,
    /// The members, in the order of the directory.
    pub members: Vec<Member>,
    /// Where the entry of each member starts, in bytes from the start of `range`.
    pub positions: Vec<u32>,
    /// The names of all members, one after the other. In UTF-8, unless a name is wrongly marked as
    /// UTF-8.
    pub names: Vec<u8>,
    /// Where the name of each member ends in `names`.
    pub name_ends: Vec<u32>,
    /// Where the end record starts, in bytes from the start of the file.
    pub end_record: u64,
}

impl Central {
    /// Finds the end record in the `tail` of the file and reads the directory before it.
    ///
    /// # Errors
    /// `Pending` without an end record, `Corrupt` if none leads to a directory, `Io`, and errors of
    /// `grow`.
    pub(super) fn read(
        source: &SourceFile,
        tail: Vec<u8>,
        grow: &mut Grow<'_>,
    ) -> Result<Self, Error> {
        let size = source.generation().size;
        let tail_start = size - tail.len() as u64;
        let mut bytes =
            Bytes { source, size, least: PIECE, piece: tail.clone(), piece_start: tail_start };

        let mut first_error = None;
        let mut empty = None;
        for position in end_records(&tail).take(MAX_END_RECORDS) {
            let record = &tail[position..position + END_LEN];
            let end_record = tail_start + position as u64;
            let read = Extent::find(&mut bytes, record, end_record)
                .and_then(|extent| Self::read_extent(&mut bytes, extent, grow))
                .map(|central| Self { end_record, ..central });
            match read {
                // An end record without members may be a signature and zeros inside a comment: it
                // is used only if no other end record leads to members.
                Ok(central) if central.members.is_empty() => _ = empty.get_or_insert(central),
                Ok(central) => return Ok(central),
                Err(Error::Io(error)) => return Err(Error::Io(error)),
                Err(error) => _ = first_error.get_or_insert(error),
            }
        }
        match (empty, first_error) {
            (Some(central), _) => Ok(central),
            (None, Some(error)) => Err(error),
            (None, None) => Err(Error::Pending("no end of central directory record".into())),
        }
    }

    fn read_extent(
        bytes: &mut Bytes<'_>,
        extent: Extent,
        grow: &mut Grow<'_>,
    ) -> Result<Self, Error> {
        let mut asked = GROWS_BY;
        let mut central = Self { range: extent.start..extent.end, ..Self::default() };
        let mut at = extent.start;
        while at < extent.end {
            let longest = (HEADER_LEN + 3 * usize::from(u16::MAX)) as u64;
            let entry = bytes.get(at, longest.min(extent.end - at))?;
            if entry.starts_with(&DIGITAL_SIGNATURE) {
                break;
            }
            let at_in_directory = at - extent.start;
            let entry = Entry::parse(entry).map_err(|reason| {
                Error::Corrupt(format!(
                    "{reason} at byte {at_in_directory} of the central directory, member {}",
                    central.members.len()
                ))
            })?;
            if central.members.is_empty() {
                // Estimates the count from the first entry. If that has a long comment, the count
                // is too small, which does no harm.
                let count = (extent.end - extent.start) / entry.len as u64;
                central.reserve(count as usize, entry.name.len());
            }
            central.push(&entry, at_in_directory, extent.shift);
            if central.memory() > asked {
                grow(GROWS_BY)?;
                asked += GROWS_BY;
            }
            at += entry.len as u64;
        }
        Ok(central)
    }

    /// Bytes of memory in use.
    fn memory(&self) -> u64 {
        let member = size_of::<Member>() + 2 * size_of::<u32>();
        (self.members.len() * member + self.names.len()) as u64
    }

    fn reserve(&mut self, count: usize, name_len: usize) {
        self.members.reserve(count);
        self.positions.reserve(count);
        self.names.reserve(count * name_len);
        self.name_ends.reserve(count);
    }

    fn push(&mut self, entry: &Entry<'_>, position: u64, shift: i128) {
        let header_offset = i128::from(entry.header_offset) + shift;
        let method = Method::from_number(entry.method);
        self.members.push(Member {
            // Patched data is not a whole file, so it cannot be decoded (APPNOTE 4.4.4, bit 5).
            method: if entry.flags & PATCHED == 0 { method } else { Method::Other(entry.method) },
            encrypted: entry.flags & (ENCRYPTED | STRONGLY_ENCRYPTED) != 0,
            encoded_size: entry.encoded_size,
            size: entry.size.min(i64::MAX as u64),
            crc32: Some(entry.crc32),
            // An offset outside the file causes an error when the local header is read.
            header_offset: u64::try_from(header_offset).unwrap_or(u64::MAX),
        });
        // Positions and names fit in 32 bits: a directory has at most `MAX_DIRECTORY` bytes, and a
        // byte of cp437 becomes at most three bytes of UTF-8.
        self.positions.push(position as u32);
        match entry.unicode_name {
            Some(name) => self.names.extend_from_slice(name),
            None => decode_name(entry.name, entry.flags, &mut self.names),
        }
        self.name_ends.push(self.names.len() as u32);
    }

    /// The name of the `index`-th member.
    pub(super) fn name(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.name_ends[index - 1] as usize };
        &self.names[start..self.name_ends[index] as usize]
    }
}

/// Appends the name in UTF-8: decodes it from cp437 unless `flags` mark it as UTF-8.
pub(super) fn decode_name(name: &[u8], flags: u16, out: &mut Vec<u8>) {
    if flags & UTF8 == 0 {
        cp437::append_utf8(name, out);
    } else {
        out.extend_from_slice(name);
    }
}

/// Positions in the `tail` of a file where an end record may start, most credible first: the one
/// that zipfile takes, then those whose comment ends with the file, from the last to the first.
fn end_records(tail: &[u8]) -> impl Iterator<Item = usize> {
    let last = tail.len().saturating_sub(END_LEN);
    let comment_len = move |at: usize| usize::from(le16(&tail[at + 20..]));
    let is_record = move |at: usize| at + END_LEN <= tail.len() && tail[at..].starts_with(&END);
    let without_comment = Some(last).filter(|&at| is_record(at) && comment_len(at) == 0);
    let zipfile_takes = without_comment.or_else(|| {
        (0..tail.len()).rev().find(|&at| tail[at..].starts_with(&END)).filter(|&at| is_record(at))
    });
    let others = (0..=last)
        .rev()
        .filter(move |&at| is_record(at) && at + END_LEN + comment_len(at) == tail.len())
        .filter(move |&at| Some(at) != zipfile_takes);
    zipfile_takes.into_iter().chain(others)
}

/// The length in bytes of the longest central directory that [`Central::read`] may read for these
/// arguments.
pub(super) fn directory_len(source: &SourceFile, tail: &[u8]) -> u64 {
    let size = source.generation().size;
    let tail_start = size - tail.len() as u64;
    // A zip64 end record outside `tail`, which is rare, is read from the file.
    let mut bytes = Bytes::of(source, PIECE);
    let len = |position: usize| {
        let record = &tail[position..position + END_LEN];
        let locator = position.checked_sub(LOCATOR64_LEN as usize).map(|at| &tail[at..]);
        if locator.is_none_or(|locator| !locator.starts_with(&LOCATOR64)) {
            return u64::from(le32(&record[12..]));
        }
        let extent = Extent::find(&mut bytes, record, tail_start + position as u64);
        extent.map_or(0, |extent| extent.end - extent.start)
    };
    let longest = end_records(tail).take(MAX_END_RECORDS).map(len).max();
    longest.unwrap_or(0).min(MAX_DIRECTORY).min(size)
}

/// Where a central directory lies.
#[derive(Debug, Clone, Copy)]
struct Extent {
    /// First byte of the directory, in bytes from the start of the file.
    start: u64,
    end: u64,
    /// Add this to the offsets in the directory. It is the length of a prefix before the zip, or
    /// negative if the start of the zip was cut off.
    shift: i128,
}

impl Extent {
    /// Takes the extent from the zip64 end record, if there is one, else from the end record at
    /// `location`.
    fn find(bytes: &mut Bytes<'_>, record: &[u8], location: u64) -> Result<Self, Error> {
        let mut len = u64::from(le32(&record[12..]));
        let mut offset = u64::from(le32(&record[16..]));
        let mut end = location;
        if let Some(record64) = Record64::find(bytes, location)? {
            (len, offset, end) = (record64.len, record64.offset, record64.start);
        }
        let start = end.checked_sub(len).ok_or_else(|| {
            Error::Corrupt(format!(
                "a central directory of {len} bytes cannot end at offset {end} of the file"
            ))
        })?;
        if len > MAX_DIRECTORY {
            return Err(Error::Corrupt(format!(
                "the central directory has {len} bytes, more than {MAX_DIRECTORY}"
            )));
        }
        Ok(Self { start, end, shift: i128::from(start) - i128::from(offset) })
    }
}

/// A zip64 end of central directory record.
struct Record64 {
    /// Where the record starts, in bytes from the start of the file.
    start: u64,
    /// Length of the central directory in bytes.
    len: u64,
    /// Where the central directory starts, in bytes from the start of the zip, without any prefix.
    offset: u64,
}

impl Record64 {
    /// The record to which a locator just before the end record points. `None` without a locator or
    /// without a record: then only the end record counts.
    fn find(bytes: &mut Bytes<'_>, location: u64) -> Result<Option<Self>, Error> {
        let Some(locator_start) = location.checked_sub(LOCATOR64_LEN) else { return Ok(None) };
        let locator = bytes.get(locator_start, LOCATOR64_LEN)?;
        if !locator.starts_with(&LOCATOR64) {
            return Ok(None);
        }
        let (disk, told_start, disks) =
            (le32(&locator[4..]), le64(&locator[8..]), le32(&locator[16..]));
        if disk != 0 || disks > 1 {
            return Err(Error::Corrupt(format!("a part of an archive of {disks} files")));
        }
        // The record ends where its locator starts. Like zipfile, first try the position of a
        // record without extensible data: bytes before the zip, which shift `told_start`, do not
        // matter to it.
        if let Some(start) = locator_start.checked_sub(END64_LEN)
            && let Some(record) = Self::at(bytes, start)?
        {
            return Ok(Some(record));
        }
        if told_start.checked_add(END64_LEN).is_none_or(|end| end > locator_start) {
            return Ok(None);
        }
        let len = le64(bytes.get(told_start + 4, 8)?);
        if told_start.checked_add(12).and_then(|start| start.checked_add(len))
            != Some(locator_start)
        {
            return Ok(None);
        }
        Self::at(bytes, told_start)
    }

    /// The record at `start`, if there is one.
    fn at(bytes: &mut Bytes<'_>, start: u64) -> Result<Option<Self>, Error> {
        let record = bytes.get(start, END64_LEN)?;
        let (len, offset) = (le64(&record[40..]), le64(&record[48..]));
        Ok(record.starts_with(&END64).then_some(Self { start, len, offset }))
    }
}

/// An entry of the central directory (APPNOTE 4.3.12). The values of a zip64 extra field are in
/// place of those that do not fit in 32 bits.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// The version of the format that wrote the member, and the system of its attributes.
    pub made_by: u16,
    pub version_needed: u16,
    pub flags: u16,
    /// Number of the method.
    pub method: u16,
    /// DOS time and date.
    pub modified: u32,
    pub crc32: u32,
    pub encoded_size: u64,
    pub size: u64,
    pub internal_attributes: u16,
    pub external_attributes: u32,
    header_offset: u64,
    pub name: &'a [u8],
    /// The extra fields, one after the other.
    pub extra: &'a [u8],
    pub comment: &'a [u8],
    /// The name in UTF-8 from an Info-ZIP Unicode Path field, if there is one.
    unicode_name: Option<&'a [u8]>,
    /// Length of the whole entry in bytes.
    len: usize,
}

/// Tags of extra fields (APPNOTE 4.5.3 and 4.6.9).
pub(super) const ZIP64: u16 = 0x0001;
pub(super) const UNICODE_PATH: u16 = 0x7075;

impl<'a> Entry<'a> {
    /// Parses the entry at the start of `bytes`, which may contain more after the entry.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        if bytes.len() < HEADER_LEN {
            return Err("a header is cut short");
        }
        if !bytes.starts_with(&HEADER) {
            return Err("there is no header");
        }
        let name_len = usize::from(le16(&bytes[28..]));
        let extra_len = usize::from(le16(&bytes[30..]));
        let comment_len = usize::from(le16(&bytes[32..]));
        // As in zipfile, a field that the end of the directory cuts off is shorter or empty.
        let rest = &bytes[HEADER_LEN..];
        let (name, rest) = rest.split_at(name_len.min(rest.len()));
        let (extra, rest) = rest.split_at(extra_len.min(rest.len()));
        let mut entry = Entry {
            made_by: le16(&bytes[4..]),
            version_needed: le16(&bytes[6..]),
            flags: le16(&bytes[8..]),
            method: le16(&bytes[10..]),
            modified: le32(&bytes[12..]),
            crc32: le32(&bytes[16..]),
            encoded_size: u64::from(le32(&bytes[20..])),
            size: u64::from(le32(&bytes[24..])),
            internal_attributes: le16(&bytes[36..]),
            external_attributes: le32(&bytes[38..]),
            header_offset: u64::from(le32(&bytes[42..])),
            name,
            extra,
            comment: &rest[..comment_len.min(rest.len())],
            unicode_name: None,
            len: HEADER_LEN + name_len + extra_len + comment_len,
        };
        entry.apply_extra()?;
        Ok(entry)
    }

    /// Takes the values that do not fit in 32 bits from the zip64 extra field (APPNOTE 4.5.3), and
    /// the name from an Info-ZIP Unicode Path field (4.6.9). Other fields are skipped. After a
    /// field that is cut short, nothing more is read.
    fn apply_extra(&mut self) -> Result<(), &'static str> {
        for (tag, mut field) in extra_fields(self.extra) {
            if tag == UNICODE_PATH {
                self.unicode_name = unicode_name(field, self.name).or(self.unicode_name);
            }
            if tag == ZIP64 {
                for value in [&mut self.size, &mut self.encoded_size, &mut self.header_offset] {
                    if *value == u64::from(u32::MAX) {
                        let (bytes, rest) =
                            field.split_at_checked(8).ok_or("a zip64 field is cut short")?;
                        (*value, field) = (le64(bytes), rest);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The tag and the data of each extra field, up to a field that is cut short.
pub(super) fn extra_fields(mut extra: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (header, rest) = extra.split_at_checked(4)?;
        let (field, rest) = rest.split_at_checked(usize::from(le16(&header[2..])))?;
        extra = rest;
        Some((le16(header), field))
    })
}

/// The name in a Unicode Path field, for a member whose plain name is `name`. The name is used if
/// the field has version 1 and its CRC-32 is that of `name`, as in zipfile (Python 3.12), unzip and
/// bsdtar. A name that is empty or not UTF-8 is not used; zipfile refuses such an archive.
fn unicode_name<'a>(field: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (version, rest) = field.split_first()?;
    let (crc32, unicode) = rest.split_at_checked(4)?;
    let fits = *version == 1 && le32(crc32) == crc32fast::hash(name);
    (fits && !unicode.is_empty() && std::str::from_utf8(unicode).is_ok()).then_some(unicode)
}

/// Reads bytes of a file in large pieces, and keeps the last piece.
#[derive(Debug)]
pub(super) struct Bytes<'a> {
    source: &'a SourceFile,
    size: u64,
    /// Length of a piece in bytes, unless more are needed at once or the file ends.
    least: u64,
    piece: Vec<u8>,
    piece_start: u64,
}

impl<'a> Bytes<'a> {
    /// Reads at least `least` bytes of `source` at a time, or up to the end of the file.
    pub(super) fn of(source: &'a SourceFile, least: u64) -> Self {
        let size = source.generation().size;
        Self { source, size, least, piece: Vec::new(), piece_start: 0 }
    }

    /// `len` bytes at `offset`. The caller must know that the file has them.
    pub(super) fn get(&mut self, offset: u64, len: u64) -> Result<&[u8], Error> {
        let is_in_piece = offset >= self.piece_start
            && offset + len <= self.piece_start + self.piece.len() as u64;
        if !is_in_piece {
            let piece_len = len.max(self.least).min(self.size - offset);
            self.piece.resize(piece_len as usize, 0);
            self.piece_start = offset;
            if let Err(error) = self.source.read_exact_at(&mut self.piece, offset) {
                self.piece.clear();
                return Err(error.into());
            }
        }
        let start = (offset - self.piece_start) as usize;
        Ok(&self.piece[start..start + len as usize])
    }
}

pub(super) fn le16(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

pub(super) fn le32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn le64(bytes: &[u8]) -> u64 {
    u64::from(le32(bytes)) | u64::from(le32(&bytes[4..])) << 32
}

#[cfg(test)]
mod tests;
