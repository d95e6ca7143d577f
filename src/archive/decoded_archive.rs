//! The decoded archive: a zip whose members are stored, which exists only while it is read.
//!
//! It has the members of an archive, in the order of its central directory, with the same names,
//! times, attributes, checksums and comments. Where each byte lies follows from the central
//! directory alone: nothing is decoded to know the size. A member that cannot be decoded, because
//! it is encrypted for example, keeps its encoded bytes.
//!
//! Nothing lies between the members: some readers (cnpy, Java's ZipInputStream) read a zip from its
//! start. The data of a small `.npy` starts at a multiple of 64 bytes. A large member shares no
//! page of the kernel's cache with other bytes: reading a header never waits until the member
//! before it is decoded, and damage of a member spreads to no other. So a large member ends where a
//! page ends, and if its size is a multiple of 64 bytes, so is the place where its data starts. A
//! large last member starts with a page instead. The directory starts with a page, too, so that
//! opening the archive decodes nothing.
//!
//! This module computes places and headers. It decodes nothing.

use std::ops::Range;

use seekable_deflate::ReadAt;

use super::{
    Container, Error, Member, MemberId,
    central::{Bytes, Entry},
    source::SourceFile,
    zip::{self, LocalHeaders},
    zip_headers::{self, Headers, LEAST_PADDING},
};

/// NumPy aligns the data of an array in its file to this many bytes, by padding the header.
const ALIGNMENT: u64 = 64;

/// A page of the kernel's cache, in bytes.
const PAGE: u64 = 4096;

/// A member of this size or more, decoded or encoded, shares no page. Bytes. Decoding a smaller one
/// takes a tenth of a millisecond at most, and the padding, up to 12 KiB, would add much to its
/// size.
const LARGE: u64 = 64 << 10;

/// Bytes of the central directory that are read at a time to lay an archive out.
const PIECE: u64 = 1 << 20;

/// Bytes of the central directory that are read at a time to write headers.
const SMALL_PIECE: u64 = 16 << 10;

/// Length of an end record without its comment, in bytes.
const END_LEN: u64 = 22;

/// The place of everything in a decoded archive. Offsets are bytes from its start.
#[derive(Debug)]
pub(super) struct DecodedLayout {
    /// Where the local header of each member starts.
    starts: Box<[u64]>,
    /// Length of each local header with its padding, in bytes.
    header_lens: Box<[u32]>,
    /// Where the entry of each member starts in the central directory, in bytes from `central`.
    central_starts: Box<[u32]>,
    /// Where the central directory starts.
    central: u64,
    /// Where the end records start.
    end: u64,
    end_records: Box<[u8]>,
}

/// A decoded archive, as a view of the archive that it is made from.
#[derive(Debug, Clone, Copy)]
pub struct DecodedArchive<'a> {
    source: &'a SourceFile,
    members: &'a [Member],
    headers: &'a LocalHeaders,
    layout: &'a DecodedLayout,
}

/// Bytes of a decoded archive that lie together and have the same origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Headers and gaps, which [`DecodedArchive::headers`] writes. The range is in bytes of the
    /// decoded archive.
    Headers(Range<u64>),
    /// Decoded bytes of a member. The range is in these bytes.
    Decoded(MemberId, Range<u64>),
    /// Encoded bytes of a member that cannot be decoded, as they are in the source. The range is in
    /// these bytes.
    Encoded(MemberId, Range<u64>),
}

impl Part {
    /// The first `len` bytes of this part, or all if there are fewer.
    #[must_use]
    pub fn first(self, len: u64) -> Self {
        let cut = |range: Range<u64>| range.start..range.end.min(range.start.saturating_add(len));
        match self {
            Self::Headers(range) => Self::Headers(cut(range)),
            Self::Decoded(id, range) => Self::Decoded(id, cut(range)),
            Self::Encoded(id, range) => Self::Encoded(id, cut(range)),
        }
    }

    /// How many bytes the part has.
    #[must_use]
    pub fn size(&self) -> u64 {
        let (Self::Headers(range) | Self::Decoded(_, range) | Self::Encoded(_, range)) = self;
        range.end - range.start
    }
}

/// Bytes of memory that the layout of an archive takes for each member.
pub(super) const MEMORY_PER_MEMBER: u64 = 16;

/// Whether the decoded archive has the decoded bytes of a member. A member whose sizes contradict
/// each other is left to the reader as it is, like one of an unknown method.
fn is_decoded(member: &Member) -> bool {
    zip::is_decodable(member) && zip::check_sizes(member).is_ok()
}

/// How many bytes a member has in the decoded archive.
fn data_len(member: &Member) -> u64 {
    if is_decoded(member) { member.size } else { member.encoded_size }
}

fn is_large(member: &Member) -> bool {
    data_len(member).max(member.encoded_size) >= LARGE
}

impl DecodedLayout {
    /// Lays out the members of an archive. `None` if the decoded archive would be larger than a
    /// file may be: the sizes in the archive cannot be right then.
    ///
    /// # Errors
    /// `Io`, and `Corrupt` if the directory has changed since it was parsed.
    pub(super) fn new(
        source: &SourceFile,
        members: &[Member],
        headers: &LocalHeaders,
    ) -> Result<Option<Self>, Error> {
        let mut entries = Entries::new(source, headers, PIECE);
        let mut starts = Vec::with_capacity(members.len());
        let mut header_lens = Vec::with_capacity(members.len());
        let mut central_starts = Vec::with_capacity(members.len());
        let (mut offset, mut central_len) = (0_u64, 0_u64);
        for (index, member) in members.iter().enumerate() {
            let made = Headers::new(entries.get(index)?, member, is_decoded(member));
            let is_last = index + 1 == members.len();
            let header_len = made.local_len() + padding(offset, &made, member, is_last);
            starts.push(offset);
            header_lens.push(header_len as u32);
            // This fits 32 bits: the directory of the source has at most 128 MiB, and each entry
            // gets 28 bytes more at most.
            central_starts.push(central_len as u32);
            central_len += made.central_len(offset);
            let end = offset
                .checked_add(header_len + made.descriptor_len())
                .and_then(|end| end.checked_add(data_len(member)))
                .filter(|end| *end <= MOST);
            let Some(end) = end else { return Ok(None) };
            offset = end;
        }
        let central = offset.next_multiple_of(PAGE);
        let comment = comment(source, headers)?;
        let count = members.len() as u64;
        let end_records = zip_headers::end_records(count, central_len, central, &comment);
        Ok(Some(Self {
            starts: starts.into(),
            header_lens: header_lens.into(),
            central_starts: central_starts.into(),
            central,
            end: central + central_len,
            end_records: end_records.into(),
        }))
    }

    /// Bytes of memory that the tables take.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.starts)
            + size_of_val(&*self.header_lens)
            + size_of_val(&*self.central_starts)
            + self.end_records.len()
    }
}

/// Most bytes before the central directory: the largest file has `i64::MAX`, and a directory takes
/// less than 8 GiB.
const MOST: u64 = i64::MAX as u64 - (1 << 33);

/// Bytes of padding for the local header at `start`.
fn padding(start: u64, made: &Headers<'_>, member: &Member, is_last: bool) -> u64 {
    let unpadded = start + made.local_len();
    let (data_start, step) = if is_large(member) {
        let after_page = unpadded.next_multiple_of(PAGE);
        let len = data_len(member).wrapping_add(made.descriptor_len());
        let to_end_with_page = if is_last { 0 } else { len.wrapping_neg() % PAGE };
        (after_page + to_end_with_page, PAGE)
    } else if is_decoded(member) && member.size > 0 && made.name().ends_with(b".npy") {
        (unpadded.next_multiple_of(ALIGNMENT), ALIGNMENT)
    } else {
        (unpadded, 0)
    };
    match data_start - unpadded {
        0 => 0,
        padding if padding < LEAST_PADDING => padding + step,
        padding => padding,
    }
}

/// The comment of the archive. A comment that holds the signature of an end record is left out: a
/// reader could take it for the end record.
fn comment(source: &SourceFile, headers: &LocalHeaders) -> Result<Vec<u8>, Error> {
    let len = (source.generation().size - headers.end_record).min(END_LEN + u64::from(u16::MAX));
    let mut record = vec![0; len as usize];
    source.read_exact_at(&mut record, headers.end_record)?;
    let (len, comment) = record[END_LEN as usize - 2..].split_at(2);
    let told = usize::from(u16::from_le_bytes([len[0], len[1]]));
    let comment = &comment[..told.min(comment.len())];
    // The signature may begin in the length of the comment, which is written before the comment.
    let written_len = (comment.len() as u16).to_le_bytes();
    let is_misleading =
        [&written_len, comment].concat().windows(4).any(|bytes| bytes == b"PK\x05\x06");
    Ok(if is_misleading { Vec::new() } else { comment.to_vec() })
}

impl<'a> DecodedArchive<'a> {
    /// The decoded archive of `container`, if it was laid out.
    pub(super) fn of(container: &'a Container, layout: Option<&'a DecodedLayout>) -> Option<Self> {
        Some(Self {
            source: container.source(),
            members: container.members(),
            headers: container.local_headers()?,
            layout: layout?,
        })
    }

    /// Size of the decoded archive in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layout.end + self.layout.end_records.len() as u64
    }

    /// The part that holds the byte at `offset`, from that byte to the end of the part. At the end
    /// of the archive the part is empty.
    #[must_use]
    pub fn part_at(&self, offset: u64) -> Part {
        let DecodedLayout { starts, header_lens, central, .. } = self.layout;
        if offset >= *central {
            return Part::Headers(offset.min(self.size())..self.size());
        }
        // The first local header starts at 0.
        let index = starts.partition_point(|start| *start <= offset) - 1;
        let data_start = starts[index] + u64::from(header_lens[index]);
        let data_len = data_len(&self.members[index]);
        let next = starts.get(index + 1).unwrap_or(central);
        match offset.checked_sub(data_start) {
            None => Part::Headers(offset..data_start),
            Some(at) if at < data_len => {
                let id = MemberId(index as u32);
                match is_decoded(&self.members[index]) {
                    true => Part::Decoded(id, at..data_len),
                    false => Part::Encoded(id, at..data_len),
                }
            }
            Some(_) => Part::Headers(offset..*next),
        }
    }

    /// Appends the bytes of `range`, which must be of [`Part::Headers`], to `out`.
    ///
    /// # Errors
    /// `Io`, and `Corrupt` if the directory of the source has changed since it was parsed.
    pub fn headers(&self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), Error> {
        let layout = self.layout;
        let mut entries = Entries::new(self.source, self.headers, SMALL_PIECE);
        let mut at = range.start;
        while at < range.end {
            let (start, bytes) = if at >= layout.end {
                (layout.end, layout.end_records.to_vec())
            } else if at >= layout.central {
                self.central_header(&mut entries, at)?
            } else {
                self.local_bytes(&mut entries, at)?
            };
            let bytes = bytes.get((at - start) as usize..).unwrap_or_default();
            let bytes = &bytes[..bytes.len().min((range.end - at) as usize)];
            if bytes.is_empty() {
                return Err(changed());
            }
            out.extend_from_slice(bytes);
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// The entry of the central directory that holds the byte at `at`, and where it starts.
    fn central_header(&self, entries: &mut Entries<'_>, at: u64) -> Result<(u64, Vec<u8>), Error> {
        let DecodedLayout { starts, central_starts, central, end, .. } = self.layout;
        let start_of = |index: usize| {
            central_starts.get(index).map_or(*end, |start| central + u64::from(*start))
        };
        let index = central_starts.partition_point(|start| central + u64::from(*start) <= at) - 1;
        let bytes = self.made(entries, index)?.central(starts[index]);
        if start_of(index) + bytes.len() as u64 != start_of(index + 1) {
            return Err(changed());
        }
        Ok((start_of(index), bytes))
    }

    /// The local header, data descriptor or gap that holds the byte at `at`, and where it starts.
    fn local_bytes(&self, entries: &mut Entries<'_>, at: u64) -> Result<(u64, Vec<u8>), Error> {
        let DecodedLayout { starts, header_lens, central, .. } = self.layout;
        let index = starts.partition_point(|start| *start <= at) - 1;
        let (start, len) = (starts[index], u64::from(header_lens[index]));
        let made = self.made(entries, index)?;
        if at < start + len {
            let padding = len.checked_sub(made.local_len()).ok_or_else(changed)?;
            let bytes = made.local(padding, start + len);
            return if bytes.len() as u64 == len { Ok((start, bytes)) } else { Err(changed()) };
        }
        let data_end = start + len + data_len(&self.members[index]);
        let next = starts.get(index + 1).unwrap_or(central);
        let mut bytes = made.descriptor();
        // Zeros up to the page with which the directory starts.
        bytes.resize((next - data_end) as usize, 0);
        Ok((data_end, bytes))
    }

    fn made<'e>(&self, entries: &'e mut Entries<'_>, index: usize) -> Result<Headers<'e>, Error> {
        let member = &self.members[index];
        Ok(Headers::new(entries.get(index)?, member, is_decoded(member)))
    }

    /// Reads encoded bytes of a member that is not decoded.
    ///
    /// # Errors
    /// `Corrupt` if the member's local header contradicts the central directory, or the member
    /// reaches into that; `Io`.
    pub fn encoded(&self, id: MemberId, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let member = &self.members[id.0 as usize];
        let start = self.headers.encoded_offset(self.source, id, member)?;
        Ok(self.source.read_exact_at(buf, start + offset)?)
    }
}

/// The error if the headers differ from those of the layout. `SourceFile` checks for changes too,
/// but does not notice every change that keeps size and times.
fn changed() -> Error {
    Error::Corrupt("the central directory has changed since it was parsed".into())
}

/// The entries of the central directory of the source, read again: most of their fields are not
/// kept.
struct Entries<'a> {
    bytes: Bytes<'a>,
    headers: &'a LocalHeaders,
}

impl<'a> Entries<'a> {
    /// Reads at least `piece` bytes at a time.
    fn new(source: &'a SourceFile, headers: &'a LocalHeaders, piece: u64) -> Self {
        Self { bytes: Bytes::of(source, piece), headers }
    }

    /// The entry of member number `index`.
    fn get(&mut self, index: usize) -> Result<Entry<'_>, Error> {
        let range = self.headers.entry(index);
        let bytes = self.bytes.get(range.start, range.end - range.start)?;
        Entry::parse(bytes).map_err(|_| changed())
    }
}

#[cfg(test)]
mod tests;
