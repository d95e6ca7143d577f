//! Writes the headers of a member, and the end records, of a decoded archive (APPNOTE 4.3).
//!
//! Everything comes from the member's entry in the central directory of the source, so a reader
//! finds the same names, times, attributes, comments and checksums. A decoded member has method 0,
//! no data descriptor, and no flag but the one for UTF-8.

use super::{
    Member,
    central::{Entry, UNICODE_PATH, ZIP64, extra_fields},
};

const LOCAL_HEADER_LEN: usize = 30;
const CENTRAL_HEADER_LEN: usize = 46;

/// General purpose bits (APPNOTE 4.4.4).
const DATA_DESCRIPTOR: u16 = 1 << 3;
const UTF8: u16 = 1 << 11;

/// The 32-bit value in place of one that is in the zip64 extra field.
const IN_ZIP64: u64 = u32::MAX as u64;
/// The version that a reader needs for the zip64 extra field (APPNOTE 4.4.3.2).
const VERSION_ZIP64: u16 = 45;
/// The version that a reader needs for directories and stored members.
const VERSION_PLAIN: u16 = 20;

/// The extra field by which zipalign (Android) moves data to an aligned offset.
const PADDING: u16 = 0xd935;
/// Length in bytes of the shortest such field: tag, length, and the alignment.
pub(super) const LEAST_PADDING: u64 = 6;

/// Extra fields that readers need with the local header too: the name in UTF-8, and the parameters
/// of an encrypted member (APPNOTE 4.5.12, and that of WinZip's AES). The local forms of other
/// fields, such as times, differ from their central forms.
const IN_LOCAL_HEADERS: [u16; 3] = [UNICODE_PATH, 0x0017, 0x9901];

/// Most bytes of extra fields that are kept of a member. All extra fields of a header have at most
/// 65,535 bytes; the rest is for the zip64 field and for padding.
const MOST_KEPT: usize = 50_000;

/// The headers of one member in a decoded archive.
#[derive(Debug)]
pub(super) struct Headers<'a> {
    entry: Entry<'a>,
    /// Whether the decoded bytes follow the local header, and not the encoded bytes of the source.
    is_decoded: bool,
    encoded_size: u64,
    size: u64,
}

impl<'a> Headers<'a> {
    /// The headers of `member`, whose entry in the central directory of the source is `entry`.
    pub(super) fn new(entry: Entry<'a>, member: &Member, is_decoded: bool) -> Self {
        let (encoded_size, size) = match is_decoded {
            true => (member.size, member.size),
            false => (entry.encoded_size, entry.size),
        };
        Self { entry, is_decoded, encoded_size, size }
    }

    pub(super) fn name(&self) -> &'a [u8] {
        self.entry.name
    }

    /// Length of the local header in bytes, without padding.
    pub(super) fn local_len(&self) -> u64 {
        let zip64 = if self.has_zip64_sizes() { 4 + 16 } else { 0 };
        let kept: usize = self.kept(is_in_local).map(|(_, field)| 4 + field.len()).sum();
        (LOCAL_HEADER_LEN + self.entry.name.len() + zip64 + kept) as u64
    }

    /// The local header with `padding` bytes of padding, which is 0 or at least `LEAST_PADDING`.
    /// The member's bytes then start at `data_start`.
    pub(super) fn local(&self, padding: u64, data_start: u64) -> Vec<u8> {
        // The true values come after the data, if there is a data descriptor.
        let told = if self.has_descriptor() { 0 } else { u64::MAX };
        let (encoded_size, size) = (self.encoded_size & told, self.size & told);
        let mut extra = Vec::new();
        let is_zip64 = self.has_zip64_sizes();
        if is_zip64 {
            put_field(&mut extra, ZIP64, &zip64(&[size, encoded_size]));
        }
        self.kept(is_in_local).for_each(|(tag, field)| put_field(&mut extra, tag, field));
        if padding >= LEAST_PADDING {
            let mut field = vec![0; padding as usize - 4];
            let alignment = 1_u16 << data_start.trailing_zeros().min(12);
            field[..2].copy_from_slice(&alignment.to_le_bytes());
            put_field(&mut extra, PADDING, &field);
        }
        let or_zip64 = |size| if is_zip64 { u32::MAX } else { size as u32 };
        let mut out = b"PK\x03\x04".to_vec();
        put16(&mut out, &[self.version_needed(is_zip64), self.flags(), self.method()]);
        put32(&mut out, &[self.entry.modified, self.entry.crc32 & told as u32]);
        put32(&mut out, &[or_zip64(encoded_size), or_zip64(size)]);
        put16(&mut out, &[self.entry.name.len() as u16, extra.len() as u16]);
        out.extend_from_slice(self.entry.name);
        out.extend_from_slice(&extra);
        out
    }

    /// Length in bytes of the data descriptor after the member's bytes; 0 if there is none.
    pub(super) fn descriptor_len(&self) -> u64 {
        match (self.has_descriptor(), self.has_zip64_sizes()) {
            (false, _) => 0,
            (true, false) => 16,
            (true, true) => 24,
        }
    }

    /// The data descriptor after the member's bytes (APPNOTE 4.3.9); empty if there is none.
    pub(super) fn descriptor(&self) -> Vec<u8> {
        if !self.has_descriptor() {
            return Vec::new();
        }
        let mut out = b"PK\x07\x08".to_vec();
        put32(&mut out, &[self.entry.crc32]);
        match self.has_zip64_sizes() {
            true => out.extend_from_slice(&zip64(&[self.encoded_size, self.size])),
            false => put32(&mut out, &[self.encoded_size as u32, self.size as u32]),
        }
        out
    }

    /// Length in bytes of the entry in the central directory, for a local header at `start`.
    pub(super) fn central_len(&self, start: u64) -> u64 {
        let zip64 = match self.central_zip64(start).count() {
            0 => 0,
            values => 4 + 8 * values,
        };
        let kept: usize = self.kept(is_in_central).map(|(_, field)| 4 + field.len()).sum();
        let Entry { name, comment, .. } = self.entry;
        (CENTRAL_HEADER_LEN + name.len() + zip64 + kept + comment.len()) as u64
    }

    /// The entry in the central directory, for a local header at `start`.
    pub(super) fn central(&self, start: u64) -> Vec<u8> {
        let mut extra = Vec::new();
        let values: Vec<u64> = self.central_zip64(start).collect();
        if !values.is_empty() {
            put_field(&mut extra, ZIP64, &zip64(&values));
        }
        self.kept(is_in_central).for_each(|(tag, field)| put_field(&mut extra, tag, field));
        let Entry { name, comment, .. } = self.entry;
        let mut out = b"PK\x01\x02".to_vec();
        put16(&mut out, &[self.entry.made_by, self.version_needed(!values.is_empty())]);
        put16(&mut out, &[self.flags(), self.method()]);
        put32(&mut out, &[self.entry.modified, self.entry.crc32]);
        put32(&mut out, &[self.encoded_size, self.size].map(capped));
        put16(&mut out, &[name.len(), extra.len(), comment.len()].map(|len| len as u16));
        // Everything is in one file, number 0.
        put16(&mut out, &[0, self.entry.internal_attributes]);
        put32(&mut out, &[self.entry.external_attributes, capped(start)]);
        for part in [name, &extra, comment] {
            out.extend_from_slice(part);
        }
        out
    }

    /// The values that must be in the zip64 field of the entry.
    fn central_zip64(&self, start: u64) -> impl Iterator<Item = u64> {
        [self.size, self.encoded_size, start].into_iter().filter(|value| *value >= IN_ZIP64)
    }

    /// Whether the local header has a zip64 field, which then has both sizes.
    fn has_zip64_sizes(&self) -> bool {
        self.size.max(self.encoded_size) >= IN_ZIP64
    }

    fn has_descriptor(&self) -> bool {
        !self.is_decoded && self.entry.flags & DATA_DESCRIPTOR != 0
    }

    fn flags(&self) -> u16 {
        if self.is_decoded { self.entry.flags & UTF8 } else { self.entry.flags }
    }

    fn method(&self) -> u16 {
        if self.is_decoded { 0 } else { self.entry.method }
    }

    fn version_needed(&self, is_zip64: bool) -> u16 {
        let version = if self.is_decoded { VERSION_PLAIN } else { self.entry.version_needed };
        if is_zip64 { version.max(VERSION_ZIP64) } else { version }
    }

    /// The extra fields whose tag `is_kept`, as far as `MOST_KEPT` allows.
    fn kept(&self, is_kept: fn(u16) -> bool) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut room = MOST_KEPT;
        extra_fields(self.entry.extra).filter(move |(tag, field)| {
            let left = room.checked_sub(4 + field.len()).filter(|_| is_kept(*tag));
            room = left.unwrap_or(room);
            left.is_some()
        })
    }
}

fn is_in_local(tag: u16) -> bool {
    IN_LOCAL_HEADERS.contains(&tag)
}

fn is_in_central(tag: u16) -> bool {
    ![ZIP64, PADDING].contains(&tag)
}

/// The records after the entries of a central directory (APPNOTE 4.3.14 to 4.3.16), for `count`
/// entries of `len` bytes in all that begin at `start`.
pub(super) fn end_records(count: u64, len: u64, start: u64, comment: &[u8]) -> Vec<u8> {
    const MOST_ENTRIES: u64 = u16::MAX as u64;
    let mut out = Vec::new();
    if count >= MOST_ENTRIES || len >= IN_ZIP64 || start >= IN_ZIP64 {
        out.extend_from_slice(b"PK\x06\x06");
        out.extend_from_slice(&zip64(&[44]));
        put16(&mut out, &[VERSION_ZIP64; 2]);
        put32(&mut out, &[0, 0]);
        out.extend_from_slice(&zip64(&[count, count, len, start]));
        out.extend_from_slice(b"PK\x06\x07\0\0\0\0");
        out.extend_from_slice(&zip64(&[start + len]));
        put32(&mut out, &[1]);
    }
    let count = count.min(MOST_ENTRIES) as u16;
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    put16(&mut out, &[count, count]);
    put32(&mut out, &[len, start].map(capped));
    put16(&mut out, &[comment.len() as u16]);
    out.extend_from_slice(comment);
    out
}

fn put16(out: &mut Vec<u8>, values: &[u16]) {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

fn put32(out: &mut Vec<u8>, values: &[u32]) {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

fn zip64(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn put_field(out: &mut Vec<u8>, tag: u16, field: &[u8]) {
    put16(out, &[tag, field.len() as u16]);
    out.extend_from_slice(field);
}

fn capped(value: u64) -> u32 {
    value.min(IN_ZIP64) as u32
}
