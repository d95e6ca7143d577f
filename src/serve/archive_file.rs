//! One open decoded archive (`archive::DecodedArchive`): its headers, which are built when they are
//! read, and the bytes of its members.
//!
//! A member is opened at the first read of its bytes. It is compared with its CRC-32 before that
//! read if an open of its own file would do so. Opening the archive therefore decodes nothing, and
//! a damaged member fails only the reads that need its bytes. A read across several members holds
//! no thread while it waits for them. Knows nothing of inodes, except the numbers that it passes on
//! for an alarm.

use std::{num::NonZeroUsize, ops::Range, sync::Arc};

use lru::LruCache;
use seekable_deflate::Memory;

use super::{
    Asker, Content, Error, Failure, MemberOpening, OpenContainer, OpenFile, pattern::Pattern,
    with_buffer,
};
use crate::{
    archive::{DecodedArchive, MemberId, Part},
    sync::Mutex,
};

/// How many members a handle keeps open. A reader goes through them one after the other, and a few
/// threads may read different ones. After one read up to 16 are prepared (`PREPARED_AT_ONCE` /
/// `WORTH_PREPARING`), which must not close those that are being read.
const MOST_OPEN: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");

/// A read of more parts is left to another thread, since each member may have to be decoded. The
/// kernel's read-ahead of 128 KiB may hold a thousand tiny members.
const MOST_AT_ONCE: usize = 8;

/// Most comparisons of a member for one read. One is enough, unless the index of the member turns
/// out to be wrong meanwhile.
const MOST_TRIES: u32 = 3;

/// After a read, members are prepared until they have this many bytes together. The next read
/// prepares more. So other readers wait for a few milliseconds of decoding at most.
const PREPARED_AT_ONCE: u64 = 1 << 20;

/// Most parts of the archive that are searched for members to prepare, after one read.
const MOST_LOOKED_AT: usize = 64;

/// A member of fewer bytes is not prepared: decoding it takes no longer than waking a thread.
const WORTH_PREPARING: u64 = 64 << 10;

/// Most members of an archive that is read as a whole while its open waits. Each takes some 20 us.
const MOST_LITTLE: u32 = 16;

/// Called with an open member, or with the reason why it cannot be read.
type WithMember = Box<dyn FnOnce(Result<Arc<OpenFile>, Failure>) + Send>;

/// One handle of a decoded archive, with the members that it keeps open.
pub(crate) struct ArchiveFile {
    /// `open` has checked that this container has a decoded archive.
    container: Arc<OpenContainer>,
    /// The inode number of the decoded archive.
    inode: u64,
    /// The inode number of the first member's own file.
    first_member: u64,
    members: Mutex<LruCache<MemberId, Arc<OpenFile>>>,
    pattern: Mutex<Pattern>,
}

impl ArchiveFile {
    /// Opens the decoded archive of `container` as `inode`. The own files of its members have inode
    /// numbers from `first_member` on. `None` if the container has no decoded archive.
    pub(crate) fn open(
        container: Arc<OpenContainer>,
        inode: u64,
        first_member: u64,
    ) -> Option<Arc<Self>> {
        container.container().decoded()?;
        let members = Mutex::new(LruCache::new(MOST_OPEN));
        Some(Arc::new(Self { container, inode, first_member, members, pattern: Mutex::default() }))
    }

    /// The address of the container, which owns the descriptor.
    pub(crate) fn container_address(&self) -> usize {
        Arc::as_ptr(&self.container).addr()
    }

    /// Calls `reply` with the bytes from `offset`: `size` of them, or fewer at the end of the
    /// archive. `reply` is called before this returns if the bytes are available, else from another
    /// thread. `asker` is the thread that waits for the bytes.
    pub(crate) fn read(
        self: &Arc<Self>,
        asker: Asker,
        offset: u64,
        size: u32,
        reply: impl FnOnce(Result<&[u8], Failure>) + Send + 'static,
    ) {
        let archive = self.archive();
        let end = archive.size().min(offset.saturating_add(size.into()));
        if offset >= end {
            return reply(Ok(&[]));
        }
        let first = archive.part_at(offset).first(end - offset);
        if first.size() == end - offset {
            self.read_part(first, asker, reply);
        } else {
            self.read_parts(offset..end, asker, reply);
        }
        // This comes last, so that its tasks come after the read itself in the queue of the pool.
        self.prepare_next(offset, end - offset);
    }

    /// Whether all of the archive may be read while its open waits: it has at most `most` bytes and
    /// few members.
    pub(crate) fn is_little(&self, most: u64) -> bool {
        let (_, members) = self.container.container().counts();
        members <= MOST_LITTLE && self.archive().size() <= most
    }

    /// The bytes of the whole archive. `None` if a member is not little (`Content::is_little`), or
    /// cannot be read: its first read reports the reason.
    pub(crate) fn whole(&self, most: u64) -> Option<Vec<u8>> {
        let archive = self.archive();
        let mut bytes = Vec::with_capacity(archive.size() as usize);
        while (bytes.len() as u64) < archive.size() {
            match archive.part_at(bytes.len() as u64) {
                Part::Headers(range) => archive.headers(range, &mut bytes).ok()?,
                Part::Encoded(..) => return None,
                Part::Decoded(id, _) => bytes.extend(self.whole_member(id, most)?),
            }
        }
        Some(bytes)
    }

    fn whole_member(&self, id: MemberId, most: u64) -> Option<Vec<u8>> {
        let content = self.container.content(id).ok().filter(|content| content.is_little(most))?;
        self.watch(&content, id);
        // `must_be_verified` compares a member of this size before it returns.
        match content.must_be_verified() || content.damage().is_some() {
            true => None,
            false => content.head(content.size()).ok(),
        }
    }

    /// Notes both inodes under which the member is read: its own file, which a line in the log
    /// names, and the archive.
    fn watch(&self, content: &Content, id: MemberId) {
        content.watch(self.first_member + u64::from(id.0));
        content.watch(self.inode);
    }

    fn archive(&self) -> DecodedArchive<'_> {
        self.container.container().decoded().expect("`open` has checked that it is laid out")
    }

    fn read_parts(
        self: &Arc<Self>,
        range: Range<u64>,
        asker: Asker,
        reply: impl FnOnce(Result<&[u8], Failure>) + Send + 'static,
    ) {
        let archive = self.archive();
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let part = archive.part_at(at).first(range.end - at);
            let place = (at - range.start) as usize..(at - range.start + part.size()) as usize;
            at += part.size();
            parts.push((part, place));
        }
        let memory = self.container.shared().memory.clone();
        let size = (range.end - range.start) as usize;
        let gather = Gather::new(memory, size, parts.len(), Box::new(reply));
        let (this, is_long) = (self.clone(), parts.len() > MOST_AT_ONCE);
        let read = move || {
            for (part, place) in parts {
                let gather = gather.clone();
                this.read_part(part, asker, move |bytes| gather.take(place, bytes));
            }
        };
        if is_long { self.container.shared().decode.spawn(read) } else { read() }
    }

    fn read_part(
        self: &Arc<Self>,
        part: Part,
        asker: Asker,
        reply: impl FnOnce(Result<&[u8], Failure>) + Send + 'static,
    ) {
        match part {
            Part::Headers(range) => match self.headers(range) {
                Ok(bytes) => reply(Ok(&bytes)),
                Err(error) => reply(Err(self.container.failure(error))),
            },
            Part::Encoded(id, range) => {
                with_buffer((range.end - range.start) as usize, |buffer| {
                    let read = self.archive().encoded(id, buffer, range.start);
                    let failure = |error: crate::archive::Error| {
                        self.container.refusal("read", id, Error::from(error))
                    };
                    reply(read.map(|()| &*buffer).map_err(failure));
                });
            }
            Part::Decoded(id, range) => {
                // One read requests at most `u32::MAX` bytes.
                let size = (range.end - range.start) as u32;
                self.with_member(id, move |member| match member {
                    Ok(member) => member.read(asker, range.start, size, reply),
                    Err(failure) => reply(Err(failure)),
                });
            }
        }
    }

    fn headers(&self, range: Range<u64>) -> Result<Vec<u8>, Error> {
        // Some of these bytes come from memory. The file is checked even then: whether a read of
        // an overwritten file fails should not depend on which of its bytes are in memory.
        self.container.container().source().check()?;
        let mut bytes = Vec::new();
        self.archive().headers(range, &mut bytes)?;
        Ok(bytes)
    }

    /// Calls `then` with member `id`. Opens the member first if it is not open, and compares it if
    /// necessary.
    fn with_member(
        self: &Arc<Self>,
        id: MemberId,
        then: impl FnOnce(Result<Arc<OpenFile>, Failure>) + Send + 'static,
    ) {
        let known = self.members.lock().get(&id).cloned();
        match known {
            Some(member) => then(Ok(member)),
            None => self.open_member(id, MOST_TRIES, Error::Refuted, Box::new(then)),
        }
    }

    /// Opens a member, comparing it first at most `tries` times if it is unverified. If it is still
    /// unverified when no tries are left, fails with `last`, the error of the previous comparison.
    fn open_member(self: &Arc<Self>, id: MemberId, tries: u32, last: Error, then: WithMember) {
        let content = match self.container.content(id) {
            Ok(content) => content,
            Err(error) => return then(Err(self.container.refusal("read", id, error))),
        };
        self.watch(&content, id);
        match OpenFile::open(content, self.container.clone(), self.inode) {
            Ok(MemberOpening::Open(member, _)) => then(Ok(self.keep(id, member))),
            Ok(MemberOpening::Unverified(content)) if tries > 0 => {
                self.verify(content, id, tries, then);
            }
            Ok(MemberOpening::Unverified(content)) => {
                then(Err(content.failure("read", last)));
            }
            Err(failure) => then(Err(failure)),
        }
    }

    /// Compares a member, then tries again to open it. By then it is confirmed or condemned, unless
    /// its saved index was wrong or the archive was overwritten meanwhile.
    fn verify(self: &Arc<Self>, content: Arc<Content>, id: MemberId, tries: u32, then: WithMember) {
        let (this, verified) = (self.clone(), content.clone());
        content.verify(Box::new(move |result| match result {
            Ok(_) => this.open_member(id, tries - 1, Error::Refuted, then),
            Err(error @ (Error::Damaged(_) | Error::Refuted)) => {
                this.open_member(id, tries - 1, error, then);
            }
            Err(error) => then(Err(verified.failure("read", error))),
        }));
    }

    /// Keeps a member open for the next reads. Returns the one that another thread has opened
    /// meanwhile, if there is one.
    fn keep(&self, id: MemberId, member: OpenFile) -> Arc<OpenFile> {
        let mut members = self.members.lock();
        if let Some(first) = members.get(&id) {
            return first.clone();
        }
        let member = Arc::new(member);
        let least_used = members.push(id, member.clone());
        // Unlock first: this may close the least recently used member.
        drop(members);
        drop(least_used);
        member
    }

    /// If the archive is read in sequence, opens the members that come next, so that they are
    /// compared or decoded when the reader comes to them. Within a member, its `OpenFile` reads
    /// ahead.
    fn prepare_next(self: &Arc<Self>, offset: u64, size: u64) {
        let distance = self.container.shared().read_ahead;
        let prediction = self.pattern.lock().follow(offset, size, distance);
        let Some(range) = prediction.read_ahead else { return };
        let archive = self.archive();
        let (mut at, end) = (range.start, range.end.min(archive.size()));
        let (mut looked_at, mut prepared) = (0, 0);
        while at < end {
            if looked_at == MOST_LOOKED_AT || prepared >= PREPARED_AT_ONCE {
                return self.pattern.lock().shorten_read_ahead(at);
            }
            looked_at += 1;
            let part = archive.part_at(at);
            at += part.size();
            if let Part::Decoded(id, Range { start: 0, end: size }) = part
                && size >= WORTH_PREPARING
            {
                prepared += size;
                let this = Arc::downgrade(self);
                self.container.shared().decode.spawn(move || {
                    // The handle may have been closed since.
                    if let Some(this) = this.upgrade() {
                        this.prepare(id, distance);
                    }
                });
            }
        }
    }

    fn prepare(self: &Arc<Self>, id: MemberId, distance: u64) {
        // Damage is left to the first read of the member, which reports it.
        if self.container.content(id).is_ok_and(|content| content.damage().is_none()) {
            self.with_member(id, move |member| {
                if let Ok(member) = member {
                    member.read_ahead(0..distance);
                }
            });
        }
    }
}

/// The parts of one read that have come so far. If the parts are dropped before all have come, so
/// is the reply.
struct Gather(Mutex<Gathered>);

type Reply = Box<dyn FnOnce(Result<&[u8], Failure>) + Send>;

struct Gathered {
    /// Keeps the buffers of replies. Fresh buffers made two thirds of the server's page faults.
    memory: Arc<Memory>,
    bytes: Vec<u8>,
    /// How many parts have not come yet.
    missing: usize,
    failure: Option<Failure>,
    reply: Option<Reply>,
}

impl Gather {
    /// Waits for `parts` parts of `len` bytes in all.
    fn new(memory: Arc<Memory>, len: usize, parts: usize, reply: Reply) -> Arc<Self> {
        let bytes = memory.reply_buffer(len);
        Arc::new(Self(Mutex::new(Gathered {
            memory,
            bytes,
            missing: parts,
            failure: None,
            reply: Some(reply),
        })))
    }

    /// Adds the part that belongs at `place`. When no part is missing any more, answers the read.
    fn take(&self, place: Range<usize>, part: Result<&[u8], Failure>) {
        let mut gathered = self.0.lock();
        match part {
            // A read within a member returns all bytes that it requests.
            Ok(bytes) => put(&mut gathered.bytes, place, bytes),
            Err(failure) => {
                // The read reports one failure: if possible, one that is to be logged.
                if gathered.failure.is_none() || failure.repeats.is_some() {
                    gathered.failure = Some(failure);
                }
            }
        }
        gathered.missing -= 1;
        if gathered.missing > 0 {
            return;
        }
        let bytes = std::mem::take(&mut gathered.bytes);
        let (failure, reply) = (gathered.failure.take(), gathered.reply.take());
        let memory = gathered.memory.clone();
        // Unlock first: the reply writes to the kernel.
        drop(gathered);
        if let Some(reply) = reply {
            match failure {
                None => reply(Ok(&bytes)),
                Some(failure) => reply(Err(failure)),
            }
        }
        memory.keep_reply_buffer(bytes);
    }
}

/// Copies `part` to `place` in `bytes`, which grows if it ends before. Most parts come in order:
/// then no byte is written twice.
fn put(bytes: &mut Vec<u8>, place: Range<usize>, part: &[u8]) {
    if place.start == bytes.len() {
        return bytes.extend_from_slice(part);
    }
    if bytes.len() < place.end {
        bytes.resize(place.end, 0);
    }
    bytes[place].copy_from_slice(part);
}

#[cfg(test)]
mod tests;
