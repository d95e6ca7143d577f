//! A container: a file that holds one member or many.
//!
//! Each [`Format`](super::Format) has a parser that turns a file into a [`Container`]. A container
//! of many members is shown as a directory, with the subdirectories that the members' names
//! require. A container of one member is shown as that member and has no directories.

use std::{
    io::{self, Write},
    sync::{Arc, OnceLock},
};

use super::{
    DecodedArchive, Dir, DirId, Entry, Error, Grow, Identity, Member, MemberId, Method, SourceFile,
    central::GROWS_BY,
    decode,
    decoded_archive::{DecodedLayout, MEMORY_PER_MEMBER},
    dir::Tree,
    lzma,
    zip::LocalHeaders,
};

/// The largest dictionary or window of a decoder, in bytes.
pub const MAX_DICTIONARY: u32 = lzma::MAX_DICTIONARY;

/// About how many bytes of memory a container of one member takes once it is parsed.
pub(super) const MEMORY_OF_ONE: u64 = 4 << 10;

/// A parsed container: its members, and the directories that show them.
#[derive(Debug)]
pub struct Container {
    source: Arc<SourceFile>,
    members: Box<[Member]>,
    /// Empty for a container of one member, which is shown in the place of the file.
    dirs: Box<[Dir]>,
    warning: Option<Box<str>>,
    identity: OnceLock<Identity>,
    /// The local headers of a zip, which determine where the members' bytes start; `None` for other
    /// formats.
    headers: Option<LocalHeaders>,
    /// The layout of the decoded archive, if `lay_out_decoded` has computed it.
    decoded: Option<DecodedLayout>,
}

impl Container {
    /// A container that is shown as the directories of `tree`.
    pub(super) fn of_many(
        source: Arc<SourceFile>,
        members: Vec<Member>,
        tree: Tree,
        headers: LocalHeaders,
    ) -> Self {
        Self {
            source,
            members: members.into(),
            dirs: tree.dirs.into(),
            warning: tree.warning.map(String::into_boxed_str),
            identity: OnceLock::new(),
            headers: Some(headers),
            decoded: None,
        }
    }

    /// A container of one member, whose encoded bytes start at its `header_offset`.
    pub(super) fn of_one(source: Arc<SourceFile>, member: Member) -> Self {
        Self {
            source,
            members: [member].into(),
            dirs: [].into(),
            warning: None,
            identity: OnceLock::new(),
            headers: None,
            decoded: None,
        }
    }

    /// The file of this container.
    pub fn source(&self) -> &Arc<SourceFile> {
        &self.source
    }

    /// Identifies the content of the file, independent of its path.
    ///
    /// # Errors
    /// When the bytes for the hash cannot be read.
    pub fn identity(&self) -> io::Result<Identity> {
        if let Some(identity) = self.identity.get() {
            return Ok(*identity);
        }
        let identity = match &self.headers {
            Some(headers) => Identity::by_directory(&self.source, headers.central.start)?,
            None => Identity::by_ends(&self.source)?,
        };
        Ok(*self.identity.get_or_init(|| identity))
    }

    /// Lays out the decoded archive of a zip, for which it reads the central directory again. Does
    /// nothing for another format.
    ///
    /// # Errors
    /// `Io`, `Corrupt` if the directory has changed since it was parsed, and errors of `grow`.
    pub fn lay_out_decoded(&mut self, grow: &mut Grow<'_>) -> Result<(), Error> {
        let Some(headers) = &self.headers else { return Ok(()) };
        let memory = self.members.len() as u64 * MEMORY_PER_MEMBER;
        if memory > GROWS_BY {
            grow(memory)?;
        }
        self.decoded = DecodedLayout::new(&self.source, &self.members, headers)?;
        Ok(())
    }

    /// The decoded archive. `None` if it was not laid out, or would be larger than a file can be.
    #[must_use]
    pub fn decoded(&self) -> Option<DecodedArchive<'_>> {
        DecodedArchive::of(self, self.decoded.as_ref())
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn local_headers(&self) -> Option<&LocalHeaders> {
        self.headers.as_ref()
    }

    /// The member with this `id`. Panics if `id` is out of range.
    pub fn member(&self, id: MemberId) -> &Member {
        &self.members[id.0 as usize]
    }

    /// The directory with this `id`. Panics if `id` is out of range.
    pub fn dir(&self, id: DirId) -> &Dir {
        &self.dirs[id.0 as usize]
    }

    /// The number of directories and the number of members.
    pub fn counts(&self) -> (u32, u32) {
        (self.dirs.len() as u32, self.members.len() as u32)
    }

    /// The path under which a member is shown, for messages. Searches all directories.
    ///
    /// For a member that is not shown, the result is a phrase with its number.
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

    /// A sentence about names that are not shown as they are in the archive, if there are any.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Where the encoded bytes of a member start, in bytes from the start of the file.
    ///
    /// # Errors
    /// `Encrypted`, `UnsupportedMethod`; in a zip `Corrupt` if the member's local header
    /// contradicts the central directory, and `Io`.
    pub fn data_offset(&self, id: MemberId) -> Result<u64, Error> {
        let member = self.member(id);
        if member.encrypted {
            return Err(Error::Encrypted);
        }
        if let Method::Other(method) = member.method {
            return Err(Error::UnsupportedMethod(method));
        }
        match &self.headers {
            Some(headers) => headers.data_offset(&self.source, id, member),
            None => Ok(member.header_offset),
        }
    }

    /// Decodes a member of any supported method into `out`. Checks its size and CRC-32.
    ///
    /// As in CPython's zipfile, decoded bytes after the declared size are ignored. Takes some 8 MiB
    /// of memory at most, plus a dictionary or window of at most [`MAX_DICTIONARY`] bytes.
    ///
    /// # Errors
    /// Those of `data_offset`, of the decoder, and of `out`. `Io` with `OutOfMemory` if an xz
    /// dictionary has more than `most` bytes and `most` is less than [`MAX_DICTIONARY`].
    pub fn decode(&self, id: MemberId, most: u32, out: &mut dyn Write) -> Result<(), Error> {
        let offset = self.data_offset(id)?;
        decode::decode(&self.source, self.member(id), offset, most, out)
    }

    /// The first `len` decoded bytes of a member, or all if it has fewer. They are not checked.
    ///
    /// # Errors
    /// Those of [`decode`](Self::decode).
    pub fn decode_start(&self, id: MemberId, len: u64) -> Result<Vec<u8>, Error> {
        decode::start(&self.source, self.member(id), self.data_offset(id)?, len)
    }

    /// Size in bytes of the dictionary or window that the decoder of a member needs, according to
    /// the start of its encoded bytes.
    ///
    /// # Errors
    /// Those of `data_offset`.
    pub fn dictionary(&self, id: MemberId) -> Result<u32, Error> {
        Ok(decode::dictionary(&self.source, self.member(id), self.data_offset(id)?)?)
    }

    /// About how many bytes of memory it takes to parse the file again. See
    /// [`Format::memory`](super::Format::memory).
    pub fn parsing_memory(&self) -> u64 {
        self.headers.as_ref().map_or(MEMORY_OF_ONE, LocalHeaders::parsing_memory)
    }

    /// About how many bytes of memory the container takes. Looks at all directories.
    pub fn memory(&self) -> u64 {
        let Some(headers) = &self.headers else { return MEMORY_OF_ONE };
        let tables = size_of::<Self>()
            + size_of_val(&*self.members)
            + headers.memory()
            + self.decoded.as_ref().map_or(0, DecodedLayout::memory)
            + self.warning.as_ref().map_or(0, |warning| warning.len());
        tables as u64 + self.dirs.iter().map(Dir::memory).sum::<u64>()
    }
}
