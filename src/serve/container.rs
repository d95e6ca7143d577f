//! Open archives, with the contents of their members as they are asked for.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use seekable_deflate::{DeflateReader, Format, Options, spacing_for};

use super::{
    Content, Error, Server, Shared,
    content::Encoding,
    copy::MemberCopy,
    deflated::Deflated,
    index::{self, ArchiveIndex},
    stored::Stored,
    whole::Whole,
};
use crate::{
    archive::{Archive, Generation, Member, MemberId, Method, NpyGz, SourceFile},
    saved::{CopyKey, StreamKey},
};

/// An open archive. Contents, and the indexes in them, live as long as it does.
#[derive(Debug)]
pub struct OpenArchive {
    archive: Arc<Archive>,
    shared: Shared,
    /// `None` if nothing is saved.
    index: Option<Arc<ArchiveIndex>>,
    contents: Mutex<HashMap<MemberId, Arc<Content>>>,
    /// Members whose refusal is in the log.
    refused: Mutex<HashSet<MemberId>>,
}

/// Somebody may come back to it.
impl Drop for OpenArchive {
    fn drop(&mut self) {
        if let Some(index) = self.index.take() {
            index.save_later();
        }
    }
}

impl OpenArchive {
    /// An archive to be served by `server`.
    #[must_use]
    pub fn new(archive: Archive, server: &Server) -> Self {
        let shared = server.shared.clone();
        let archive = Arc::new(archive);
        let identified = archive.clone();
        Self {
            index: shared.index(move || identified.identity()),
            archive,
            shared,
            contents: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// What the archive's directory says.
    #[must_use]
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The content of a member.
    ///
    /// # Errors
    /// When the member cannot be read at all: encrypted, unknown method, bad local file header.
    pub fn content(&self, id: MemberId) -> Result<Arc<Content>, Error> {
        if let Some(content) = self.contents().get(&id) {
            return Ok(content.clone());
        }
        // Not under the lock: this reads the local file header. Should two threads come here at
        // once, the first to insert wins.
        let content = Arc::new(self.new_content(id)?);
        match self.contents().entry(id) {
            Entry::Occupied(first) => return Ok(first.get().clone()),
            Entry::Vacant(place) => place.insert(content.clone()),
        };
        content.save_index();
        Ok(content)
    }

    /// Saves what has been learnt of members that are not decoded to their ends.
    pub fn save_indexes(&self) {
        if let Some(index) = &self.index {
            index.save();
        }
    }

    /// Whether this is the first time that somebody wants to log the refusal of a member.
    #[must_use]
    pub fn first_refusal(&self, id: MemberId) -> bool {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).insert(id)
    }

    // Nothing that can panic runs under this lock; a poisoned one is still whole.
    fn contents(&self) -> std::sync::MutexGuard<'_, HashMap<MemberId, Arc<Content>>> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_content(&self, id: MemberId) -> Result<Content, Error> {
        let start = self.archive.data_offset(id)?;
        let member = self.archive.member(id);
        let source = self.archive.source().clone();
        let key =
            StreamKey { header_offset: member.header_offset, encoded_size: member.encoded_size };
        let copy = match member.method {
            Method::Stored => None,
            _ => self.copy(id, key),
        };
        let whole = |name| {
            let (archive, shared) = (self.archive.clone(), self.shared.clone());
            Encoding::Whole(Whole::new(archive, id, shared, copy.clone()), name)
        };
        let bytes = match member.method {
            Method::Stored => Encoding::Stored(Stored { source, start }),
            Method::Deflated => {
                let options = Options {
                    format: Format::Deflate,
                    spacing: spacing_for(member.encoded_size, member.size),
                    decoded_len: Some(member.size),
                    crc32: Some(member.crc32),
                };
                let encoded = start..start + member.encoded_size;
                deflated(source, encoded, options, &self.shared, key, self.index.as_ref())
            }
            Method::Deflate64 => whole("deflate64"),
            Method::Bzip2 => whole("bzip2"),
            Method::Lzma => whole("lzma"),
            Method::Xz => whole("xz"),
            Method::Zstd => whole("zstd"),
            Method::Other(number) => return Err(Error::UnsupportedMethod(number)),
        };
        let source = self.archive.source().clone();
        Ok(Content::new(source, member.size, bytes, self.shared.read_ahead, copy))
    }

    fn copy(&self, id: MemberId, stream: StreamKey) -> Option<Arc<MemberCopy>> {
        let archive = self.archive.clone();
        let &Member { size, crc32, .. } = archive.member(id);
        let mtime = archive.source().generation().mtime.0;
        self.shared.copy(size, Some(crc32), move || {
            // The central directory has the CRC-32 of every member.
            Ok(CopyKey { identity: archive.identity()?, stream, size, mtime, ctime: None })
        })
    }
}

/// An open `.npy.gz`.
#[derive(Debug)]
pub struct OpenNpyGz {
    npy: Arc<NpyGz>,
    content: Arc<Content>,
    index: Option<Arc<ArchiveIndex>>,
}

impl Drop for OpenNpyGz {
    fn drop(&mut self) {
        if let Some(index) = self.index.take() {
            index.save_later();
        }
    }
}

impl OpenNpyGz {
    /// A gzipped `.npy` to be served by `server`.
    #[must_use]
    pub fn new(npy: NpyGz, server: &Server) -> Self {
        let encoded = 0..npy.source().generation().size;
        let options = Options {
            format: Format::Gzip,
            spacing: spacing_for(encoded.end, npy.size()),
            decoded_len: Some(npy.size()),
            crc32: None,
        };
        let npy = Arc::new(npy);
        let identified = npy.clone();
        let index = server.shared.index(move || identified.identity());
        let source = npy.source().clone();
        let key = StreamKey { header_offset: 0, encoded_size: encoded.end };
        let bytes = deflated(source.clone(), encoded, options, &server.shared, key, index.as_ref());
        let size = npy.size();
        let Generation { mtime, ctime, .. } = source.generation();
        let identified = npy.clone();
        let copy = server.shared.copy(size, None, move || {
            // Of several gzip members, or of bytes that no CRC-32 covers, the identity tells little.
            let identity = identified.identity()?;
            Ok(CopyKey { identity, stream: key, size, mtime: mtime.0, ctime: Some(ctime) })
        });
        let content = Content::new(source, size, bytes, server.shared.read_ahead, copy);
        content.save_index();
        let content = Arc::new(content);
        Self { npy, content, index }
    }

    /// Saves what has been learnt of it.
    pub fn save_indexes(&self) {
        if let Some(index) = &self.index {
            index.save();
        }
    }

    /// What its header says.
    #[must_use]
    pub fn npy(&self) -> &NpyGz {
        &self.npy
    }

    /// Its bytes.
    #[must_use]
    pub fn content(&self) -> &Arc<Content> {
        &self.content
    }
}

fn deflated(
    source: Arc<SourceFile>,
    encoded: std::ops::Range<u64>,
    options: Options,
    shared: &Shared,
    key: StreamKey,
    index: Option<&Arc<ArchiveIndex>>,
) -> Encoding {
    let (spacing, size) = (options.spacing, options.decoded_len.unwrap_or(u64::MAX));
    let index = index.filter(|_| key.encoded_size >= index::LEAST_ENCODED);
    let index = index.map(|index| (key, index.clone()));
    let encoded_size = encoded.end - encoded.start;
    let reader = DeflateReader::new(source, encoded, options, shared.memory.clone());
    let shared = shared.clone();
    Encoding::Deflated(Deflated::new(reader, encoded_size, size, spacing, shared, index))
}
