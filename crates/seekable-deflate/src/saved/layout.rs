//! The bytes of the header and the table of a saved index. All numbers are little-endian.

use super::IndexError;
use crate::{
    BitOffset, Format, Options,
    crc::{Crc, Sums},
    inflate::Place,
};

/// The first bytes of every index.
const MAGIC: [u8; 8] = *b"SEEKDEFL";
const VERSION: u32 = 2;

const GZIP: u32 = 1 << 0;
const COMPLETE: u32 = 1 << 1;
const HAS_DECODED_LEN: u32 = 1 << 2;
const HAS_CRC32: u32 = 1 << 3;

#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) options: Options,
    /// Length of the encoded stream in bytes.
    pub(crate) encoded_len: u64,
    /// Checksums of all bytes up to the frontier.
    pub(crate) sums: Sums,
    /// Whether the frontier is at the end of the stream.
    pub(crate) complete: bool,
    pub(crate) checkpoints: u64,
    /// Number of checksums in the table: one for each end of a block within a span.
    pub(crate) block_crcs: u32,
    /// CRC-32 of the table.
    pub(crate) table_crc32: u32,
    /// Length of all windows together, in bytes.
    pub(crate) windows_len: u64,
}

impl Header {
    pub(crate) const LEN: usize = 96;

    pub(crate) fn to_bytes(&self) -> [u8; Self::LEN] {
        let Options { format, spacing, decoded_len, crc32 } = self.options;
        let flags = [
            (GZIP, format == Format::Gzip),
            (COMPLETE, self.complete),
            (HAS_DECODED_LEN, decoded_len.is_some()),
            (HAS_CRC32, crc32.is_some()),
        ];
        let flags = flags.iter().filter(|(_, set)| *set).fold(0, |flags, (flag, _)| flags | flag);
        let Sums { whole, member } = self.sums;
        let mut bytes = [0; Self::LEN];
        let mut fields = Fields(&mut bytes);
        fields.put(MAGIC);
        fields.put(VERSION.to_le_bytes());
        fields.put(flags.to_le_bytes());
        fields.put(self.encoded_len.to_le_bytes());
        fields.put(decoded_len.unwrap_or(0).to_le_bytes());
        fields.put(spacing.to_le_bytes());
        fields.put(whole.len().to_le_bytes());
        fields.put(member.len().to_le_bytes());
        fields.put(self.checkpoints.to_le_bytes());
        fields.put(self.windows_len.to_le_bytes());
        fields.put(crc32.unwrap_or(0).to_le_bytes());
        fields.put(whole.value().to_le_bytes());
        fields.put(member.value().to_le_bytes());
        fields.put(self.table_crc32.to_le_bytes());
        fields.put(self.block_crcs.to_le_bytes());
        let crc32 = crc32fast::hash(&bytes[..Self::LEN - 4]);
        bytes[Self::LEN - 4..].copy_from_slice(&crc32.to_le_bytes());
        bytes
    }

    /// Parses the header of an index of `len` bytes, and checks that the lengths in the header add
    /// up to `len`.
    pub(crate) fn of(header: &[u8; Self::LEN], len: u64) -> Result<Self, IndexError> {
        if !header.starts_with(&MAGIC) {
            return Err(IndexError::Foreign);
        }
        let version = u32_at(header, 8);
        if version != VERSION {
            return Err(IndexError::Version(version));
        }
        if u32_at(header, Self::LEN - 4) != crc32fast::hash(&header[..Self::LEN - 4]) {
            return Err(IndexError::Corrupt("checksum of the header"));
        }
        let flags = u32_at(header, 12);
        if flags >> 4 != 0 {
            return Err(IndexError::Corrupt("flags"));
        }
        let format = if flags & GZIP != 0 { Format::Gzip } else { Format::Deflate };
        let options = Options {
            format,
            spacing: u64_at(header, 32),
            decoded_len: (flags & HAS_DECODED_LEN != 0).then(|| u64_at(header, 24)),
            crc32: (flags & HAS_CRC32 != 0).then(|| u32_at(header, 72)),
        };
        let sums = Sums {
            whole: Crc::new(u32_at(header, 76), u64_at(header, 40)),
            member: Crc::new(u32_at(header, 80), u64_at(header, 48)),
        };
        let header = Self {
            options,
            encoded_len: u64_at(header, 16),
            sums,
            complete: flags & COMPLETE != 0,
            checkpoints: u64_at(header, 56),
            block_crcs: u32_at(header, 88),
            table_crc32: u32_at(header, 84),
            windows_len: u64_at(header, 64),
        };
        header.check(len)?;
        Ok(header)
    }

    /// Compares the fields with each other and with the length of the index in bytes.
    fn check(&self, len: u64) -> Result<(), IndexError> {
        let records = self.checkpoints.checked_mul(Record::LEN as u64);
        let end = records
            .and_then(|records| records.checked_add(4 * u64::from(self.block_crcs)))
            .and_then(|table| table.checked_add(self.windows_len))
            .and_then(|end| end.checked_add(Self::LEN as u64));
        if end != Some(len) {
            return Err(IndexError::Corrupt("length"));
        }
        if self.checkpoints == 0 {
            return Err(IndexError::Corrupt("no checkpoint"));
        }
        if self.encoded_len > 1 << 60 || self.sums.member.len() > self.sums.whole.len() {
            return Err(IndexError::Corrupt("lengths of the stream"));
        }
        Ok(())
    }

    /// Length of the table in bytes.
    pub(crate) fn table_len(&self) -> u64 {
        // Does not overflow: `check` has compared it with the length of the index.
        self.checkpoints * Record::LEN as u64 + 4 * u64::from(self.block_crcs)
    }
}

/// A checkpoint in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) encoded: BitOffset,
    pub(crate) decoded: u64,
    /// `None` at the start of the stream.
    pub(crate) place: Option<Place>,
    /// CRC-32 of the span that starts here. 0 at the frontier.
    pub(crate) crc32: u32,
    /// `None` if the index has no window for this checkpoint.
    pub(crate) window: Option<WindowRecord>,
}

/// Place, lengths and checksum of a packed window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WindowRecord {
    /// Offset of the packed bytes from the start of the first window, in bytes.
    pub(crate) at: u64,
    /// Length of the packed bytes.
    pub(crate) packed_len: u32,
    /// Length of the unpacked window in bytes: 32 KiB at most.
    pub(crate) len: u16,
    /// CRC-32 of the packed bytes.
    pub(crate) crc32: u32,
}

/// Values of the byte that encodes the place of a checkpoint.
const AT_START: u8 = 0;
const AT_BLOCK: u8 = 1;
const IN_CODED: u8 = 2;
const IN_STORED: u8 = 3;
const IN_LAST_STORED: u8 = 4;

impl Record {
    pub(crate) const LEN: usize = 48;

    pub(crate) fn to_bytes(self) -> [u8; Self::LEN] {
        let (place, of_place) = match self.place {
            None => (AT_START, 0),
            Some(Place::BlockHeader) => (AT_BLOCK, 0),
            Some(Place::Coded { header }) => (IN_CODED, header.0),
            Some(Place::Stored { left, last: false }) => (IN_STORED, left.into()),
            Some(Place::Stored { left, last: true }) => (IN_LAST_STORED, left.into()),
        };
        let WindowRecord { at, packed_len, len, crc32 } =
            self.window.unwrap_or(WindowRecord { at: 0, packed_len: 0, len: 0, crc32: 0 });
        let mut bytes = [0; Self::LEN];
        let mut fields = Fields(&mut bytes);
        fields.put(self.encoded.0.to_le_bytes());
        fields.put(self.decoded.to_le_bytes());
        fields.put(of_place.to_le_bytes());
        fields.put(at.to_le_bytes());
        fields.put(self.crc32.to_le_bytes());
        fields.put(crc32.to_le_bytes());
        fields.put(packed_len.to_le_bytes());
        fields.put(len.to_le_bytes());
        fields.put([place]);
        fields.put([u8::from(self.window.is_some())]);
        bytes
    }

    pub(crate) fn of(bytes: &[u8; Self::LEN]) -> Result<Self, IndexError> {
        let of_place = u64_at(bytes, 16);
        let left = u16::try_from(of_place).map_err(|_| IndexError::Corrupt("stored block"));
        let place = match bytes[46] {
            AT_START => None,
            AT_BLOCK => Some(Place::BlockHeader),
            IN_CODED => Some(Place::Coded { header: BitOffset(of_place) }),
            IN_STORED => Some(Place::Stored { left: left?, last: false }),
            IN_LAST_STORED => Some(Place::Stored { left: left?, last: true }),
            _ => return Err(IndexError::Corrupt("place of a checkpoint")),
        };
        let window = WindowRecord {
            at: u64_at(bytes, 24),
            packed_len: u32_at(bytes, 40),
            len: u16::from_le_bytes([bytes[44], bytes[45]]),
            crc32: u32_at(bytes, 36),
        };
        Ok(Self {
            encoded: BitOffset(u64_at(bytes, 0)),
            decoded: u64_at(bytes, 8),
            place,
            crc32: u32_at(bytes, 32),
            window: (bytes[47] != 0).then_some(window),
        })
    }
}

/// Writes fields into bytes, one after the other.
struct Fields<'a>(&'a mut [u8]);

impl Fields<'_> {
    fn put<const N: usize>(&mut self, field: [u8; N]) {
        let (now, rest) = std::mem::take(&mut self.0).split_at_mut(N);
        now.copy_from_slice(&field);
        self.0 = rest;
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("a field of the layout"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("a field of the layout"))
}
