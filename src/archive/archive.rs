//! A zip archive: its members and the directories that their names make.
//!
//! Sizes and CRC-32 come from the central directory, the place of the data from the local header.
//! Whatever can be told of a member without decoding it is told by `data_offset`, so that an open
//! can fail instead of a read. Two members may share their bytes.

use std::{
    io::{self, Write},
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use seekable_deflate::ReadAt;

use super::{
    Dir, DirId, Entry, Error, Identity, Member, MemberId, Method, SourceFile,
    central::{self, Central, GROWS_BY, Grow, le16, le32},
    decode, dir, lzma,
    source::TAIL_READ,
};

const LOCAL_HEADER: [u8; 4] = *b"PK\x03\x04";
const LOCAL_HEADER_LEN: usize = 30;
/// Where the length of the name stands in a local and in a central header.
const LOCAL_NAME_LEN: usize = 26;
const CENTRAL_NAME_LEN: usize = 28;
/// Read together with a header, so that a name of usual length costs no second read.
const USUAL_NAME_LEN: usize = 200;

/// The largest dictionary or window of a decoder, in bytes.
pub const MAX_DICTIONARY: u32 = lzma::MAX_DICTIONARY;

/// The most decoded bytes that DEFLATE makes of one byte: a length of 258 for a code of one bit
/// and a distance for another.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// A zip archive, parsed once.
#[derive(Debug)]
pub struct Archive {
    source: Arc<SourceFile>,
    /// Where the central directory lies, in bytes from the start of the file.
    central: Range<u64>,
    members: Box<[Member]>,
    /// Where the central directory entry of each member starts, in bytes from the start of `central`.
    positions: Box<[u32]>,
    /// Where the encoded bytes of each member start; 0 until its local header has been read.
    data_offsets: Box<[AtomicU64]>,
    dirs: Box<[Dir]>,
    warning: Option<Box<str>>,
    identity: OnceLock<Identity>,
}

impl Archive {
    /// Parses the central directory.
    ///
    /// # Errors
    /// `Pending` without an end record, `Corrupt`, or `Io`.
    pub fn open(source: Arc<SourceFile>) -> Result<Self, Error> {
        let size = source.generation().size;
        let mut tail = vec![0; size.min(TAIL_READ) as usize];
        let start = size - tail.len() as u64;
        source.read_exact_at(&mut tail, start)?;
        Self::parse(source, tail, &mut |_| Ok(()))
    }

    /// As `open`, where `tail` has been read with the source ([`SourceFile::with_tail`]). `grow` is
    /// asked before more than a few MiB are taken, of which half go when it is done.
    ///
    /// # Errors
    /// As `open`, and `Io` with what `grow` says.
    pub fn parse(
        source: Arc<SourceFile>,
        tail: Vec<u8>,
        grow: &mut Grow<'_>,
    ) -> Result<Self, Error> {
        let central = Central::read(&source, tail, grow)?;
        let more = dir::build_memory(central.members.len(), &central.names);
        if more > GROWS_BY {
            grow(more)?;
        }
        let tree = dir::build(central.members.len(), |index| central.name(index));
        Ok(Self {
            source,
            central: central.range,
            data_offsets: central.members.iter().map(|_| AtomicU64::new(0)).collect(),
            members: central.members.into(),
            positions: central.positions.into(),
            dirs: tree.dirs.into(),
            warning: tree.warning.map(String::into_boxed_str),
            identity: OnceLock::new(),
        })
    }

    /// Bytes of the longest central directory that [`Archive::parse`] may read for these arguments.
    pub fn directory_len(source: &SourceFile, tail: &[u8]) -> u64 {
        central::directory_len(source, tail)
    }

    /// The file.
    pub fn source(&self) -> &Arc<SourceFile> {
        &self.source
    }

    /// What the archive is, wherever it lies.
    ///
    /// # Errors
    /// When the central directory cannot be read again.
    pub fn identity(&self) -> io::Result<Identity> {
        if let Some(identity) = self.identity.get() {
            return Ok(*identity);
        }
        let directory = self.central.start..self.source.generation().size;
        let identity = Identity::of(&self.source, std::iter::once(directory))?;
        Ok(*self.identity.get_or_init(|| identity))
    }

    /// A member; panics if `id` is of another archive.
    pub fn member(&self, id: MemberId) -> &Member {
        &self.members[id.0 as usize]
    }

    /// A directory; panics if `id` is of another archive.
    pub fn dir(&self, id: DirId) -> &Dir {
        &self.dirs[id.0 as usize]
    }

    /// How many directories and members there are.
    pub fn counts(&self) -> (u32, u32) {
        (self.dirs.len() as u32, self.members.len() as u32)
    }

    /// The path under which a member is shown, for messages; searches all directories.
    ///
    /// A member that is not shown has no path: its number is returned in words.
    pub fn path_of(&self, id: MemberId) -> Vec<u8> {
        let Some((mut dir, name)) = self.place_of(Entry::Member(id)) else {
            return format!("(member {}, not shown)", id.0).into_bytes();
        };
        let mut path = vec![name];
        while dir != DirId::ROOT {
            let parent = self.dir(dir).parent();
            let here = self.dir(parent).entries().find(|&(_, entry)| entry == Entry::Dir(dir));
            path.extend(here.map(|(name, _)| name));
            dir = parent;
        }
        path.reverse();
        path.join(&b'/')
    }

    fn place_of(&self, wanted: Entry) -> Option<(DirId, &[u8])> {
        (0..).map(DirId).zip(&self.dirs).find_map(|(id, dir)| {
            let (name, _) = dir.entries().find(|&(_, entry)| entry == wanted)?;
            Some((id, name))
        })
    }

    /// Names that could not be shown as they are, one sentence for all; at most one.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Where the encoded bytes of a member start, from its local file header (read once).
    ///
    /// # Errors
    /// `Encrypted`, `UnsupportedMethod`, `Corrupt` if header and directory disagree or the data
    /// would not lie before the central directory, `Io`.
    pub fn data_offset(&self, id: MemberId) -> Result<u64, Error> {
        let member = self.member(id);
        if member.encrypted {
            return Err(Error::Encrypted);
        }
        if let Method::Other(method) = member.method {
            return Err(Error::UnsupportedMethod(method));
        }
        // A lost race reads the header twice and stores the same offset.
        let known = &self.data_offsets[id.0 as usize];
        match known.load(Ordering::Relaxed) {
            0 => {
                let offset = self.read_data_offset(id)?;
                known.store(offset, Ordering::Relaxed);
                Ok(offset)
            }
            offset => Ok(offset),
        }
    }

    fn read_data_offset(&self, id: MemberId) -> Result<u64, Error> {
        let member = self.member(id);
        check_sizes(member)?;
        let header = self.local_header(member)?;
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
        if decoded(name, flags) != self.central_name(id)? {
            return Err(Error::Corrupt(format!(
                "the local header at offset {} names another member: \"{}\"",
                member.header_offset,
                super::name::escaped(name)
            )));
        }
        Ok(data_offset)
    }

    /// The local header and the name after it, and whatever more was read.
    fn local_header(&self, member: &Member) -> Result<Vec<u8>, Error> {
        let offset = member.header_offset;
        if self.central.start.saturating_sub(offset) < LOCAL_HEADER_LEN as u64 {
            return Err(Error::Corrupt(format!(
                "its local header at offset {offset} would not lie before the central directory \
                 at {}",
                self.central.start
            )));
        }
        let header =
            self.read_with_name(offset..self.central.start, LOCAL_HEADER_LEN, LOCAL_NAME_LEN)?;
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
    fn central_name(&self, id: MemberId) -> Result<Vec<u8>, Error> {
        let start = self.central.start + u64::from(self.positions[id.0 as usize]);
        let range = start..self.central.end;
        let entry = self.read_with_name(range, central::HEADER_LEN, CENTRAL_NAME_LEN)?;
        let (header, rest) = entry.split_at(central::HEADER_LEN);
        let name_len = usize::from(le16(&header[CENTRAL_NAME_LEN..]));
        Ok(decoded(&rest[..name_len.min(rest.len())], le16(&header[8..])))
    }

    /// A header of `header_len` bytes at the start of `range` and the name after it, as far as
    /// `range` goes; the length of the name stands at `name_len_at` in the header.
    fn read_with_name(
        &self,
        range: Range<u64>,
        header_len: usize,
        name_len_at: usize,
    ) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; fitting(header_len + USUAL_NAME_LEN, &range)];
        self.source.read_exact_at(&mut bytes, range.start)?;
        let name_len = usize::from(le16(&bytes[name_len_at..]));
        if header_len + name_len > bytes.len() {
            let read = bytes.len();
            bytes.resize(fitting(header_len + name_len, &range), 0);
            self.source.read_exact_at(&mut bytes[read..], range.start + read as u64)?;
        }
        Ok(bytes)
    }

    /// Decodes a member of any supported method into `out`, checking size and CRC-32.
    ///
    /// As in CPython's zipfile, whatever a decoder has beyond the declared size is ignored.
    /// Takes at most some 8 MiB, and a dictionary or window, at most [`MAX_DICTIONARY`].
    ///
    /// # Errors
    /// As `data_offset`, and what `out` says. `Io` with `OutOfMemory` if an xz dictionary has more than
    /// `most` bytes, which is less than that.
    pub fn decode(&self, id: MemberId, most: u32, out: &mut dyn Write) -> Result<(), Error> {
        let offset = self.data_offset(id)?;
        decode::decode(&self.source, self.member(id), offset, most, out)
    }

    /// The dictionary or window in bytes that decoding a member takes, as far as its start tells.
    ///
    /// # Errors
    /// As `data_offset`.
    pub fn dictionary(&self, id: MemberId) -> Result<u32, Error> {
        Ok(decode::dictionary(&self.source, self.member(id), self.data_offset(id)?)?)
    }

    /// About how many bytes of memory this takes.
    pub fn memory(&self) -> u64 {
        let tables = size_of::<Self>()
            + size_of_val(&*self.members)
            + size_of_val(&*self.positions)
            + size_of_val(&*self.data_offsets)
            + self.warning.as_ref().map_or(0, |warning| warning.len());
        tables as u64 + self.dirs.iter().map(Dir::memory).sum::<u64>()
    }
}

/// What can be told of a member without reading any of it.
fn check_sizes(member: &Member) -> Result<(), Error> {
    let &Member { method, encoded_size, size, crc32, .. } = member;
    // What a writer leaves that counts in 32 bits and had more to write.
    if size == 0 && crc32 != 0 {
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
