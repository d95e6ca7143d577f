//! Open containers, with the contents of those members that have been requested.

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
    archive::{Container, Member, MemberId, Method},
    saved::{CopyKey, StreamKey},
    sync::Mutex,
};

/// An open container. Its saved indexes live as long as the container, and the contents of its
/// members at most as long.
pub(crate) struct OpenContainer {
    container: Arc<Container>,
    shared: Arc<Shared>,
    /// `None` if indexes are not saved.
    index: Option<Arc<ArchiveIndex>>,
    contents: Mutex<HashMap<MemberId, Arc<Content>>>,
    confirmed: Arc<Confirmed>,
    reports: Arc<Reports>,
}

/// Saves the indexes when the container is closed: it may be opened again later.
impl Drop for OpenContainer {
    fn drop(&mut self) {
        if let Some(index) = self.index.take() {
            index.save_later();
        }
    }
}

impl OpenContainer {
    /// Opens a container whose contents `server` serves.
    pub(crate) fn new(container: Container, server: &Server) -> Arc<Self> {
        let shared = server.shared.clone();
        let container = Arc::new(container);
        let identified = container.clone();
        Arc::new(Self {
            index: shared.indexes.clone().map(|store| {
                let (saver, source) = (shared.saver.clone(), container.source().clone());
                ArchiveIndex::new(store, saver, source, Box::new(move || identified.identity()))
            }),
            confirmed: Confirmed::new(container.counts().1),
            reports: Arc::default(),
            container,
            shared,
            contents: Mutex::default(),
        })
    }

    /// The parsed archive: its entries and its file.
    pub(crate) fn container(&self) -> &Container {
        &self.container
    }

    /// The content of a member. The first call builds it. A content that no handle has open may be
    /// dropped after a while ([`rest`](Self::rest)).
    ///
    /// # Errors
    /// When the member cannot be read at all: encrypted, unknown method, bad local file header.
    pub(crate) fn content(self: &Arc<Self>, id: MemberId) -> Result<Arc<Content>, Error> {
        if let Some(content) = self.contents.lock().get(&id)
            && !content.is_superseded()
        {
            return Ok(content.clone());
        }
        // Without the lock, because this reads the local file header. If two threads come here at
        // once, the first to insert its content wins.
        let content = Arc::new(self.new_content(id)?);
        match self.contents.lock().entry(id) {
            Entry::Occupied(first) if !first.get().is_superseded() => {
                return Ok(first.get().clone());
            }
            Entry::Occupied(mut superseded) => drop(superseded.insert(content.clone())),
            Entry::Vacant(place) => drop(place.insert(content.clone())),
        }
        content.save_index();
        // The caller may read an attribute and open no file.
        self.rest(id.0);
        Ok(content)
    }

    /// Notes that the content of a member was built, or that an open file of it was closed.
    pub(super) fn rest(self: &Arc<Self>, member: u32) {
        self.shared.resting.note(&Arc::downgrade(self), MemberId(member));
    }

    /// How many contents are kept.
    #[cfg(test)]
    pub(crate) fn count_contents(&self) -> usize {
        self.contents.lock().len()
    }

    /// Drops the content of a member, unless the content is in use or worth keeping.
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
        // Drop the content without the lock: it may be large.
        drop(dropped);
    }

    /// Saves the indexes that have grown, also those of members that are not decoded to their end.
    pub(crate) fn save_indexes(&self) {
        if let Some(index) = &self.index {
            index.save();
        }
    }

    /// The failure of `operation` on member `id`, which has no content, with `error`, and how to
    /// log it.
    pub(crate) fn refusal(&self, operation: &'static str, id: MemberId, error: Error) -> Failure {
        self.reports.failure(operation, id.0, error)
    }

    /// The failure of a read of the archive itself, not of a member.
    pub(super) fn failure(&self, error: Error) -> Failure {
        let repeats = self.reports.repeats("read", error.reason());
        Failure { error, repeats, member: None }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The members that have been compared with their CRC-32 and are right.
    #[cfg(test)]
    pub(super) fn confirmed_members(&self) -> &Confirmed {
        &self.confirmed
    }

    fn new_content(&self, id: MemberId) -> Result<Content, Error> {
        let start = self.container.data_offset(id)?;
        let member = self.container.member(id);
        let source = self.container.source().clone();
        let key =
            StreamKey { header_offset: member.header_offset, encoded_size: member.encoded_size };
        let copy = match member.method {
            Method::Stored => None,
            _ => self.copy(id, key),
        };
        let whole = |name| {
            let (container, shared) = (self.container.clone(), self.shared.clone());
            Encoding::Whole(Whole::new(container, id, shared, copy.clone()), name)
        };
        let subject = Subject {
            source: source.clone(),
            number: id.0,
            is_stored: member.method == Method::Stored,
            size: member.size,
            encoded_size: member.encoded_size,
        };
        let index = self.index.clone().map(|index| (key, index));
        let verdict = Verdict::new(
            subject,
            self.shared.verify,
            self.shared.cache_size,
            self.confirmed.clone(),
            self.reports.clone(),
            index.clone(),
            self.shared.alarm.clone(),
        );
        let bytes = match member.method {
            Method::Stored => {
                let (size, threads) = (member.size, self.shared.decode.clone());
                let verdict = verdict.clone();
                Encoding::Stored(Stored::new(source, start, size, member.crc32, verdict, threads))
            }
            Method::Deflated => self.deflated(Format::Deflate, member, start, index, &verdict),
            Method::Gzip => self.deflated(Format::Gzip, member, start, index, &verdict),
            Method::Deflate64 => whole("deflate64"),
            Method::Bzip2 => whole("bzip2"),
            Method::Lzma => whole("lzma"),
            Method::Xz => whole("xz"),
            Method::Zstd => whole("zstd"),
            Method::Other(number) => return Err(Error::UnsupportedMethod(number)),
        };
        let source = self.container.source().clone();
        Ok(Content::new(source, member.size, bytes, &self.shared, copy, verdict))
    }

    fn deflated(
        &self,
        format: Format,
        &Member { encoded_size, size, crc32, .. }: &Member,
        start: u64,
        index: Option<(StreamKey, Arc<ArchiveIndex>)>,
        verdict: &Arc<Verdict>,
    ) -> Encoding {
        let spacing = spacing_for(encoded_size, size);
        let options = Options { format, spacing, decoded_len: Some(size), crc32 };
        let source = self.container.source().clone();
        let (encoded, memory) = (start..start + encoded_size, self.shared.memory.clone());
        let reader = DeflateReader::new(source, encoded, options, memory);
        let index = index.filter(|_| encoded_size >= index::LEAST_ENCODED);
        let (shared, verdict) = (self.shared.clone(), verdict.clone());
        Encoding::Deflated(Deflated::new(reader, encoded_size, size, shared, verdict, index))
    }

    fn copy(&self, id: MemberId, stream: StreamKey) -> Option<Arc<MemberCopy>> {
        let container = self.container.clone();
        let &Member { size, crc32, .. } = container.member(id);
        let mtime = container.source().generation().mtime.seconds;
        self.shared.copy(size, crc32, move || {
            // The identity of a zip covers the CRC-32 of every member. But if other users may write
            // the file, they could make one with the same CRC-32s and other bytes. The identity of
            // a `.npy.gz` does not cover the middle of the file. In both cases the copy is used for
            // this very file only.
            let source = container.source();
            let is_told_by_identity = crc32.is_some() && source.is_its_owners()?;
            let file = if is_told_by_identity { None } else { Some(source.same_file()?) };
            Ok(CopyKey { identity: container.identity()?, stream, size, mtime, file })
        })
    }
}

#[cfg(test)]
mod tests;
