//! A zip archive: its members and the directories that their names make.

use std::{io::Write, sync::Arc};

use super::{Error, Member, MemberId, SourceFile};

/// Index of a directory inside an archive; 0 is the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirId(pub u32);

/// What a name inside an archive stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Dir(DirId),
    /// A member.
    Member(MemberId),
}

/// A directory inside an archive.
#[derive(Debug)]
pub struct Dir {}

impl Dir {
    /// What `name` stands for.
    pub fn get(&self, name: &[u8]) -> Option<Entry> {
        let _ = name;
        todo!()
    }

    /// All names in byte order, with what they stand for.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], Entry)> {
        std::iter::empty()
    }

    /// The directory this one lies in; the root is its own parent.
    pub fn parent(&self) -> DirId {
        todo!()
    }
}

/// A zip archive, parsed once.
#[derive(Debug)]
pub struct Archive {}

impl Archive {
    /// Parses the central directory.
    ///
    /// # Errors
    /// `Pending` without an end record, `Corrupt`, or `Io`.
    pub fn open(source: Arc<SourceFile>) -> Result<Self, Error> {
        let _ = source;
        todo!()
    }

    /// The file.
    pub fn source(&self) -> &Arc<SourceFile> {
        todo!()
    }

    /// A member; panics if `id` is of another archive.
    pub fn member(&self, id: MemberId) -> &Member {
        let _ = id;
        todo!()
    }

    /// A directory; panics if `id` is of another archive.
    pub fn dir(&self, id: DirId) -> &Dir {
        let _ = id;
        todo!()
    }

    /// Names that could not be shown as they are, one sentence for all; at most one.
    pub fn warning(&self) -> Option<&str> {
        todo!()
    }

    /// Where the encoded bytes of a member start, from its local file header (read once).
    ///
    /// # Errors
    /// `Encrypted`, `UnsupportedMethod`, `Corrupt` if header and directory disagree or the data
    /// would not lie before the central directory, `Io`.
    pub fn data_offset(&self, id: MemberId) -> Result<u64, Error> {
        let _ = id;
        todo!()
    }

    /// Decodes a member of any supported method into `out`, checking size and CRC-32.
    ///
    /// # Errors
    /// As `data_offset`, and what `out` says.
    pub fn decode(&self, id: MemberId, out: &mut dyn Write) -> Result<(), Error> {
        let _ = (id, out);
        todo!()
    }

    /// About how many bytes of memory this takes.
    pub fn memory(&self) -> u64 {
        todo!()
    }
}
