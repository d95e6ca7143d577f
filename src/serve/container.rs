//! Open archives, with the contents of their members as they are asked for.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use seekable_deflate::{DeflateReader, Format, Options, spacing_for};

use super::{
    Content, Error, Failure, Reports, Server, Shared,
    content::Encoding,
    copy::MemberCopy,
    deflated::Deflated,
    index::{self, ArchiveIndex},
    stored::Stored,
    verify::{Confirmed, Subject, Verdict},
    whole::Whole,
};
use crate::{
    archive::{Archive, Member, MemberId, Method, NpyGz, SourceFile},
    saved::{CopyKey, StreamKey},
    sync::Mutex,
};

/// An open archive. Contents, and the indexes in them, live as long as it does.
#[derive(Debug)]
pub struct OpenArchive {
    archive: Arc<Archive>,
    shared: Arc<Shared>,
    /// `None` if nothing is saved.
    index: Option<Arc<ArchiveIndex>>,
    contents: Mutex<HashMap<MemberId, Arc<Content>>>,
    confirmed: Arc<Confirmed>,
    reports: Arc<Reports>,
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
            index: shared.index(archive.source().clone(), move || identified.identity()),
            confirmed: Confirmed::new(archive.counts().1),
            reports: Arc::default(),
            archive,
            shared,
            contents: Mutex::default(),
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
        if let Some(content) = self.contents.lock().get(&id)
            && !content.is_superseded()
        {
            return Ok(content.clone());
        }
        // Not under the lock: this reads the local file header. Should two threads come here at
        // once, the first to insert wins.
        let content = Arc::new(self.new_content(id)?);
        match self.contents.lock().entry(id) {
            Entry::Occupied(first) if !first.get().is_superseded() => {
                return Ok(first.get().clone());
            }
            Entry::Occupied(mut superseded) => drop(superseded.insert(content.clone())),
            Entry::Vacant(place) => drop(place.insert(content.clone())),
        }
        content.save_index();
        Ok(content)
    }

    /// A handle of `content`, one of its members, was closed.
    pub fn closed(self: &Arc<Self>, content: &Content) {
        self.shared.resting.closed(&Arc::downgrade(self), MemberId(content.number()));
    }

    /// Drops the content of a member, unless somebody has it or it is worth keeping.
    pub(super) fn drop_content(&self, id: MemberId) {
        let mut contents = self.contents.lock();
        let is_idle =
            |content: &Arc<Content>| Arc::strong_count(content) == 1 && !content.is_worth_keeping();
        let dropped =
            if contents.get(&id).is_some_and(is_idle) { contents.remove(&id) } else { None };
        if contents.len() < contents.capacity() / 4 {
            contents.shrink_to_fit();
        }
        drop(contents);
        // Outside of the lock: it may be much.
        drop(dropped);
    }

    /// Saves what has been learnt of members that are not decoded to their ends.
    pub fn save_indexes(&self) {
        if let Some(index) = &self.index {
            index.save();
        }
    }

    /// The failure to open a member with `error`, and whether the log has it already.
    #[must_use]
    pub fn refusal(&self, id: MemberId, error: Error) -> Failure {
        self.reports.failure("open", id.0, error)
    }

    /// Which members have been compared with their CRC-32, and are right.
    #[cfg(test)]
    pub(super) fn confirmed_members(&self) -> &Confirmed {
        &self.confirmed
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
        let subject = Subject {
            source: source.clone(),
            number: id.0,
            is_stored: member.method == Method::Stored,
            size: member.size,
            encoded_size: member.encoded_size,
        };
        let index = self.index.as_ref();
        let verdict =
            self.shared.verdict(subject, self.confirmed.clone(), self.reports.clone(), key, index);
        let bytes = match member.method {
            Method::Stored => {
                let (size, threads) = (member.size, self.shared.decode.clone());
                let verdict = verdict.clone();
                Encoding::Stored(Stored::new(source, start, size, member.crc32, verdict, threads))
            }
            Method::Deflated => {
                let options = Options {
                    format: Format::Deflate,
                    spacing: spacing_for(member.encoded_size, member.size),
                    decoded_len: Some(member.size),
                    crc32: Some(member.crc32),
                };
                let encoded = start..start + member.encoded_size;
                deflated(source, encoded, options, &self.shared, verdict.clone(), key, index)
            }
            Method::Deflate64 => whole("deflate64"),
            Method::Bzip2 => whole("bzip2"),
            Method::Lzma => whole("lzma"),
            Method::Xz => whole("xz"),
            Method::Zstd => whole("zstd"),
            Method::Other(number) => return Err(Error::UnsupportedMethod(number)),
        };
        let source = self.archive.source().clone();
        Ok(Content::new(source, member.size, bytes, &self.shared, copy, verdict))
    }

    fn copy(&self, id: MemberId, stream: StreamKey) -> Option<Arc<MemberCopy>> {
        let archive = self.archive.clone();
        let &Member { size, crc32, .. } = archive.member(id);
        let mtime = archive.source().generation().mtime.0;
        self.shared.copy(size, Some(crc32), move || {
            // The central directory has the CRC-32 of every member. Where others may write the file,
            // that keeps nobody from making another of the same.
            let source = archive.source();
            let file = if source.is_its_owners()? { None } else { Some(source.same_file()?) };
            Ok(CopyKey { identity: archive.identity()?, stream, size, mtime, file })
        })
    }
}

/// An open `.npy.gz`.
#[derive(Debug)]
pub struct OpenNpyGz {
    npy: Arc<NpyGz>,
    shared: Arc<Shared>,
    /// Once somebody has asked for it: most that are listed are never opened.
    content: Mutex<Option<Arc<Content>>>,
    confirmed: Arc<Confirmed>,
    reports: Arc<Reports>,
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
        let npy = Arc::new(npy);
        let identified = npy.clone();
        let shared = server.shared.clone();
        let index = shared.index(npy.source().clone(), move || identified.identity());
        let confirmed = Confirmed::new(1);
        Self { npy, shared, content: Mutex::default(), confirmed, reports: Arc::default(), index }
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
    pub fn content(&self) -> Arc<Content> {
        let mut content = self.content.lock();
        if let Some(content) = content.as_ref().filter(|content| !content.is_superseded()) {
            return content.clone();
        }
        let new = new_content(
            &self.npy,
            &self.shared,
            &self.confirmed,
            &self.reports,
            self.index.as_ref(),
        );
        content.insert(new).clone()
    }
}

fn new_content(
    npy: &Arc<NpyGz>,
    shared: &Arc<Shared>,
    confirmed: &Arc<Confirmed>,
    reports: &Arc<Reports>,
    index: Option<&Arc<ArchiveIndex>>,
) -> Arc<Content> {
    let (source, size) = (npy.source().clone(), npy.size());
    let encoded = 0..source.generation().size;
    let options = Options {
        format: Format::Gzip,
        spacing: spacing_for(encoded.end, size),
        decoded_len: Some(size),
        crc32: None,
    };
    let key = StreamKey { header_offset: 0, encoded_size: encoded.end };
    let subject = Subject {
        source: source.clone(),
        number: 0,
        is_stored: false,
        size,
        encoded_size: encoded.end,
    };
    let verdict = shared.verdict(subject, confirmed.clone(), reports.clone(), key, index);
    let bytes = deflated(source.clone(), encoded, options, shared, verdict.clone(), key, index);
    let mtime = source.generation().mtime.0;
    let identified = npy.clone();
    let copy = shared.copy(size, None, move || {
        // Of several gzip members, or of bytes that no CRC-32 covers, the identity tells little.
        let (identity, file) = (identified.identity()?, identified.source().same_file()?);
        Ok(CopyKey { identity, stream: key, size, mtime, file: Some(file) })
    });
    let content = Arc::new(Content::new(source, size, bytes, shared, copy, verdict));
    content.save_index();
    content
}

fn deflated(
    source: Arc<SourceFile>,
    encoded: std::ops::Range<u64>,
    options: Options,
    shared: &Arc<Shared>,
    verdict: Arc<Verdict>,
    key: StreamKey,
    index: Option<&Arc<ArchiveIndex>>,
) -> Encoding {
    let (spacing, size) = (options.spacing, options.decoded_len.unwrap_or(u64::MAX));
    let index = index.filter(|_| key.encoded_size >= index::LEAST_ENCODED);
    let index = index.map(|index| (key, index.clone()));
    let encoded_size = encoded.end - encoded.start;
    let reader = DeflateReader::new(source, encoded, options, shared.memory.clone());
    let shared = shared.clone();
    let new = Deflated::new(reader, encoded_size, size, spacing, shared, verdict, index);
    Encoding::Deflated(new)
}

#[cfg(test)]
mod tests;
