//! The decoded bytes of one member, for any method of compression.
//!
//! A read is answered from the decoded copy of the member, from cached spans, or by the decoder of
//! its method. Every read of a condemned member fails. Knows nothing of handles.

use std::{
    cell::RefCell,
    fmt,
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    Asker, Error, Failure, Reply, Shared,
    background::Background,
    copy::{CopyHandle, MemberCopy},
    deflated::Deflated,
    index::LEAST_ENCODED,
    stored::Stored,
    verify::{self, Verdict},
    whole::Whole,
};
use crate::archive::SourceFile;

/// The decoded bytes of one member, shared by all its handles.
pub(crate) struct Content {
    source: Arc<SourceFile>,
    size: u64,
    pub(super) bytes: Encoding,
    /// The distance of read-ahead, in decoded bytes.
    pub(super) read_ahead: u64,
    /// The decoded copy, if the member may have one.
    copy: Option<Arc<MemberCopy>>,
    verdict: Arc<Verdict>,
    /// Queue of the passes that compare members with their CRC-32.
    background: Arc<Background>,
    /// Whether the pass was queued in `background`.
    is_queued: AtomicBool,
}

pub(super) enum Encoding {
    Stored(Arc<Stored>),
    Deflated(Arc<Deflated>),
    Whole(Arc<Whole>, &'static str),
}

/// How a content can be read. Its `Display` text is for users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Any byte can be read at once.
    Ready,
    /// Not all bytes have been compared with the CRC-32. An open or a read starts the comparison.
    Unverified {
        /// Decoded bytes that have been compared.
        done: u64,
        /// Decoded bytes in all.
        size: u64,
    },
    /// The first pass is not complete, and `--verify never` lets nothing finish it.
    Indexing {
        /// Decoded bytes so far.
        done: u64,
        /// Decoded bytes in all.
        size: u64,
    },
    /// The member is decoded whole on first use. Holds the name of the method.
    Slow(&'static str),
    /// The member cannot be read. Holds the reason.
    Corrupt(String),
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Unverified { done, size } => write!(f, "unverified: {done} of {size} bytes"),
            Self::Indexing { done, size } => write!(f, "indexing: {done} of {size} bytes decoded"),
            Self::Slow(method) => {
                write!(f, "slow: {method} members are decoded whole on first use")
            }
            Self::Corrupt(why) => write!(f, "corrupt: {why}"),
        }
    }
}

thread_local! {
    /// The bytes of a reply to the kernel. A fresh buffer for each read would cost page faults.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends `len` bytes of the buffer of this thread. Their content is arbitrary. A nested call in
/// `work` gets a fresh buffer.
pub(crate) fn with_buffer<T>(len: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    let lend = |buffer: &mut Vec<u8>| {
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        work(&mut buffer[..len])
    };
    BUFFER.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => lend(&mut buffer),
        Err(_) => lend(&mut Vec::new()),
    })
}

/// Reads `range` of `file`, which must have all these bytes, and gives them to `reply`.
pub(super) fn read_file(file: &File, range: &Range<u64>, reply: impl FnOnce(Result<&[u8], Error>)) {
    with_buffer((range.end - range.start) as usize, |buffer| {
        let read = file.read_exact_at(buffer, range.start);
        reply(read.map(|()| &*buffer).map_err(Error::from));
    });
}

impl Content {
    pub(super) fn new(
        source: Arc<SourceFile>,
        size: u64,
        bytes: Encoding,
        shared: &Shared,
        copy: Option<Arc<MemberCopy>>,
        verdict: Arc<Verdict>,
    ) -> Self {
        let (read_ahead, background) = (shared.read_ahead, shared.background.clone());
        Self {
            source,
            size,
            bytes,
            read_ahead,
            copy,
            verdict,
            background,
            is_queued: AtomicBool::default(),
        }
    }

    /// Size of the member in decoded bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether the member is small enough to be decoded while its open waits: it has at most `most`
    /// bytes, encoded and decoded, and a method with seek points.
    pub(crate) fn is_little(&self, most: u64) -> bool {
        let encoded = match &self.bytes {
            Encoding::Stored(_) => self.size,
            Encoding::Deflated(deflated) => deflated.encoded_size(),
            Encoding::Whole(..) => return false,
        };
        self.size.max(encoded) <= most
    }

    /// Whether the member must be compared with its CRC-32 by [`verify`](Self::verify) before it is
    /// opened. This call itself compares a member of at most `AT_ONCE` bytes.
    pub(super) fn must_be_verified(&self) -> bool {
        // The decoder compares such a member before the first byte is read.
        if matches!(self.bytes, Encoding::Whole(..)) {
            return false;
        }
        if self.verdict.must_come_first() && self.is_little(verify::AT_ONCE) {
            match &self.bytes {
                Encoding::Stored(stored) => stored.compare_at_once(),
                Encoding::Deflated(deflated) => deflated.compare_at_once(),
                Encoding::Whole(..) => {}
            }
        }
        self.verdict.must_come_first()
    }

    /// Compares the whole member with its CRC-32 in another thread. Then calls `reply` with no
    /// bytes.
    pub(crate) fn verify(&self, reply: Reply) {
        self.pass_to(self.size, self.is_little(verify::SMALL_DEFLATED), reply);
    }

    /// Compares one more part of the member, then calls `reply` with no bytes.
    pub(super) fn verify_part(&self, reply: Reply) {
        self.pass_to(self.verified().saturating_add(1), false, reply);
    }

    fn pass_to(&self, target: u64, keep: bool, reply: Reply) {
        match &self.bytes {
            Encoding::Stored(stored) => stored.pass_to(target, reply),
            Encoding::Deflated(deflated) => deflated.pass_to(target, keep, reply),
            Encoding::Whole(whole, _) => {
                whole.read_later(
                    0..1,
                    Asker::unknown(),
                    Box::new(|read| reply(read.map(|_| &[][..]))),
                );
            }
        }
    }

    /// Decoded bytes that have been compared.
    pub(crate) fn verified(&self) -> u64 {
        match &self.bytes {
            _ if self.verdict.is_confirmed() => self.size,
            Encoding::Stored(stored) => stored.passed(),
            Encoding::Deflated(deflated) => deflated.frontier(),
            Encoding::Whole(..) => 0,
        }
    }

    /// The number of the member in its archive.
    pub(super) fn number(&self) -> u32 {
        self.verdict.number()
    }

    /// Whether this content is worth keeping: dropping it would end a comparison, forget known
    /// damage, or cost more than a few milliseconds of decoding.
    pub(super) fn is_worth_keeping(&self) -> bool {
        let is_known_wrong = self.damage().is_some();
        let is_being_compared = self.is_queued.load(Ordering::Relaxed) && !self.is_settled();
        let is_large = match &self.bytes {
            Encoding::Stored(_) => false,
            Encoding::Deflated(deflated) => deflated.encoded_size() >= LEAST_ENCODED,
            Encoding::Whole(..) => true,
        };
        is_known_wrong || is_being_compared || is_large
    }

    /// Whether the comparison is over: the member is confirmed or condemned.
    pub(super) fn is_settled(&self) -> bool {
        self.verdict.is_settled()
    }

    /// Whether open handles may have read wrong bytes because of a wrong saved index. Their next
    /// reads fail, and the next open gets a new content.
    pub(super) fn is_superseded(&self) -> bool {
        matches!(self.verdict.error(), Some(Error::Refuted))
    }

    /// Notes that the member is opened as `inode`. Check for [`damage`](Self::damage) after this
    /// call.
    pub(super) fn watch(&self, inode: u64) {
        self.verdict.watch(inode);
    }

    /// Queues the comparison with the CRC-32 in the background, before the first read of a member
    /// that has not been compared.
    fn begin_verifying(self: &Arc<Self>) {
        let is_whole = matches!(self.bytes, Encoding::Whole(..));
        if !is_whole && self.verdict.is_open() && !self.is_queued.swap(true, Ordering::Relaxed) {
            self.background.finish(self);
        }
    }

    /// Notes that the comparison failed, or made no progress. The next read queues it again.
    pub(super) fn gave_up_verifying(&self) {
        self.is_queued.store(false, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn is_queued(&self) -> bool {
        self.is_queued.load(Ordering::Relaxed)
    }

    /// Registers the member, if it is large enough, so that its index will be saved.
    pub(super) fn save_index(&self) {
        if let Encoding::Deflated(deflated) = &self.bytes {
            deflated.save_index();
        }
    }

    /// Whether the member may have a decoded copy, now or later.
    pub(super) fn may_be_copied(&self) -> bool {
        self.copy.is_some()
    }

    /// The decoded copy, if it exists, for a handle that is being opened.
    pub(super) fn open_copy(&self, handle: &CopyHandle) -> Option<Arc<File>> {
        self.copy.as_ref()?.open(handle)
    }

    /// The decoded copy, if it exists by now, for a read of an open handle.
    pub(super) fn copy<'a>(&self, handle: &'a CopyHandle) -> Option<&'a File> {
        self.copy.as_ref()?.of(handle)
    }

    /// The failure of `operation` with `error`, and how to log it.
    pub(crate) fn failure(&self, operation: &'static str, error: Error) -> Failure {
        self.verdict.failure(operation, self.cause(error))
    }

    /// `error`, or `Overwritten` if the archive was overwritten: bytes that are being overwritten
    /// may look damaged.
    fn cause(&self, error: Error) -> Error {
        let is_damage = matches!(error, Error::Damaged(_));
        if is_damage && self.source.check().is_err() { Error::Overwritten } else { error }
    }

    /// Calls `reply` with the bytes from `offset`: `size` of them, or fewer at the end of the
    /// member. If there is a `copy` or the bytes are available, `reply` is called before this
    /// returns, else from another thread. `asker` is the thread that waits for the bytes.
    pub(super) fn read(
        self: &Arc<Self>,
        copy: Option<&File>,
        asker: Asker,
        offset: u64,
        size: u32,
        reply: impl FnOnce(Result<&[u8], Error>) + Send + 'static,
    ) {
        let range = offset..self.size.min(offset.saturating_add(size.into()));
        if range.is_empty() {
            return reply(Ok(&[]));
        }
        if let Some(error) = self.verdict.error() {
            return reply(Err(error.clone()));
        }
        self.background.note_read();
        self.begin_verifying();
        // The member may be condemned while the read is under way.
        let verdict = self.verdict.clone();
        let reply = move |result: Result<&[u8], Error>| reply(verdict.judge(result));
        // Cached bytes of an overwritten file are still right. But whether a read finds its bytes
        // in the cache is chance, and errors should not depend on chance. The check costs one
        // fstat(2).
        if !matches!(self.bytes, Encoding::Stored(_))
            && let Err(error) = self.source.check()
        {
            return reply(Err(error.into()));
        }
        let reply = match copy {
            None => reply,
            Some(file) => match read_copy(file, &range, reply) {
                None => return,
                // The copy cannot be read. Read the archive instead.
                Some(reply) => reply,
            },
        };
        match &self.bytes {
            Encoding::Stored(stored) => {
                with_buffer((range.end - range.start) as usize, |buffer| {
                    reply(stored.read(buffer, range.start).map(|()| &*buffer));
                });
            }
            Encoding::Deflated(deflated) => {
                if let Some(copy) = &self.copy
                    && copy.note_read(range.end - range.start)
                {
                    copy.make(deflated);
                }
                deflated.read(range, reply);
            }
            Encoding::Whole(whole, _) => match whole.decoded() {
                Some(file) => read_file(&file, &range, reply),
                None => whole.read_later(range, asker, Box::new(reply) as Reply),
            },
        }
    }

    /// Notes that a handle of the member was closed. Drops speculatively decoded spans that may not
    /// be needed any more.
    pub(super) fn closed(&self) {
        if let Encoding::Deflated(deflated) = &self.bytes {
            deflated.rest();
        }
    }

    /// The first `len` bytes of the member, or all if there are fewer. Waits for decoding.
    ///
    /// # Errors
    /// Those of a read.
    pub(crate) fn head(self: &Arc<Self>, len: u64) -> Result<Vec<u8>, Error> {
        self.begin_verifying();
        let len = len.min(self.size);
        let head = match &self.bytes {
            _ if len == 0 => Ok(Vec::new()),
            Encoding::Stored(stored) => {
                let mut head = vec![0; len as usize];
                stored.read(&mut head, 0).map(|()| head)
            }
            Encoding::Deflated(deflated) => deflated.read_here(0..len).0,
            Encoding::Whole(whole, _) => whole.head(len),
        };
        self.verdict.judge(head)
    }

    /// Why no byte of the member is served; `None` if nothing wrong is known.
    pub(super) fn damage(&self) -> Option<Error> {
        match (self.verdict.error(), &self.bytes) {
            (Some(error), _) => Some(error.clone()),
            (None, Encoding::Stored(_) | Encoding::Deflated(_)) => None,
            (None, Encoding::Whole(whole, _)) => whole.failure(),
        }
    }

    /// The state of the member, which `user.npzfs.state` shows.
    pub(crate) fn readiness(&self) -> Readiness {
        let size = self.size;
        match (self.damage(), &self.bytes) {
            (Some(damage), _) => Readiness::Corrupt(damage.to_string()),
            (None, Encoding::Whole(whole, method)) => match whole.decoded() {
                Some(_) => Readiness::Ready,
                None => Readiness::Slow(method),
            },
            (None, _) if self.verdict.is_open() => {
                Readiness::Unverified { done: self.verified(), size }
            }
            (None, Encoding::Stored(_)) => Readiness::Ready,
            (None, Encoding::Deflated(deflated)) => match deflated.stream_verdict().stopped() {
                Some(error) => Readiness::Corrupt(Error::from(error.clone()).to_string()),
                None => match deflated.frontier() {
                    done if done >= size => Readiness::Ready,
                    done => Readiness::Indexing { done, size },
                },
            },
        }
    }
}

/// Answers a read from a copy. Returns `reply` if the copy cannot be read.
fn read_copy<F: FnOnce(Result<&[u8], Error>)>(
    file: &File,
    range: &Range<u64>,
    reply: F,
) -> Option<F> {
    with_buffer((range.end - range.start) as usize, |buffer| {
        match file.read_exact_at(buffer, range.start) {
            Ok(()) => {
                reply(Ok(buffer));
                None
            }
            Err(error) => {
                log::debug!("a decoded copy cannot be read at {}: {error}", range.start);
                Some(reply)
            }
        }
    })
}

#[cfg(test)]
pub(super) mod tests;
