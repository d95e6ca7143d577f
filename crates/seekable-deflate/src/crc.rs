//! CRC-32 of decoded bytes, joined from the CRC-32 of pieces.

/// The CRC-32 of some bytes and the number of these bytes, which is needed to join two of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Crc {
    value: u32,
    len: u64,
}

impl Crc {
    /// The checksum of `len` bytes whose CRC-32 is `value`.
    pub(crate) fn new(value: u32, len: u64) -> Self {
        Self { value, len }
    }

    /// The checksum of the bytes of `self` followed by `bytes`.
    pub(crate) fn with(self, bytes: &[u8]) -> Self {
        let mut hasher = crc32fast::Hasher::new_with_initial_len(self.value, self.len);
        hasher.update(bytes);
        Self { value: hasher.finalize(), len: self.len + bytes.len() as u64 }
    }

    /// The checksum of the bytes of `self` followed by those of `next`. Costs a third of a
    /// microsecond.
    pub(crate) fn followed_by(self, next: Self) -> Self {
        if self == Self::default() {
            return next;
        }
        let mut joined = crc32fast::Hasher::new_with_initial_len(self.value, self.len);
        joined.combine(&crc32fast::Hasher::new_with_initial_len(next.value, next.len));
        Self { value: joined.finalize(), len: self.len + next.len }
    }

    pub(crate) fn value(self) -> u32 {
        self.value
    }

    pub(crate) fn len(self) -> u64 {
        self.len
    }
}

/// Checksums of the bytes before the frontier.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sums {
    /// Of the bytes from the start of the stream.
    pub(crate) whole: Crc,
    /// Of the bytes from the start of the current gzip member.
    pub(crate) member: Crc,
}

impl Sums {
    /// Appends a piece of decoded bytes to both checksums.
    pub(crate) fn add(&mut self, piece: Crc) {
        let is_first_member = self.member == self.whole;
        self.whole = self.whole.followed_by(piece);
        self.member = match is_first_member {
            true => self.whole,
            false => self.member.followed_by(piece),
        };
    }
}
