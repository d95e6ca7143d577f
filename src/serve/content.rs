//! The decoded bytes of one member, however it is encoded.

use std::{cell::RefCell, fmt, fs::File, ops::Range, os::unix::fs::FileExt, sync::Arc};

use super::{
    Asker, Error, Failure, Once, Reply, Shared,
    background::Background,
    copy::{CopyHandle, MemberCopy},
    deflated::Deflated,
    index::LEAST_ENCODED,
    stored::Stored,
    verify::{self, Verdict},
    whole::Whole,
};
use crate::archive::SourceFile;

/// The decoded bytes of one member, for all its handles.
#[derive(Debug)]
pub struct Content {
    /// The file it lies in.
    source: Arc<SourceFile>,
    size: u64,
    pub(super) bytes: Encoding,
    /// The distance of read-ahead, in decoded bytes.
    pub(super) read_ahead: u64,
    /// Its decoded copy, if it may have one.
    copy: Option<Arc<MemberCopy>>,
    verdict: Arc<Verdict>,
    /// Finishes the pass over it.
    background: Arc<Background>,
    /// Whether it has been given to that.
    begun: Once,
}

#[derive(Debug)]
pub(super) enum Encoding {
    Stored(Arc<Stored>),
    Deflated(Arc<Deflated>),
    Whole(Arc<Whole>, &'static str),
}

/// How a content is to be read, in words for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Any byte can be had at once.
    Ready,
    /// Not compared with its CRC-32 yet, but about to be, when it is opened or read: how much of it is,
    /// and how much there is, in decoded bytes.
    Unverified {
        /// So far.
        done: u64,
        /// In all.
        size: u64,
    },
    /// The first pass is not complete: how far it is, and how far it has to go, in decoded bytes.
    Indexing {
        /// Decoded so far.
        done: u64,
        /// In all.
        size: u64,
    },
    /// Decoded whole on first use; the name of the method.
    Slow(&'static str),
    /// Cannot be read; why.
    Corrupt(String),
}

impl fmt::Display for State {
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
    /// Bytes on their way to the kernel. A fresh buffer a read would cost page faults.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Lends a buffer of this thread. Reads do not nest, but a reply that read again would only get a
/// fresh one.
pub(crate) fn with_scratch<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut scratch) => work(&mut scratch),
        Err(_) => work(&mut Vec::new()),
    })
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
        Self { source, size, bytes, read_ahead, copy, verdict, background, begun: Once::default() }
    }

    /// Decoded size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether all of it can be had while its open waits: `most` bytes or fewer, that are stored, or
    /// decoded from as few.
    #[must_use]
    pub fn is_little(&self, most: u64) -> bool {
        let encoded = match &self.bytes {
            Encoding::Stored(_) => self.size,
            Encoding::Deflated(deflated) => deflated.encoded_size(),
            Encoding::Whole(..) => return false,
        };
        self.size.max(encoded) <= most
    }

    /// Whether it has to be compared with its CRC-32 before it is opened, and that takes so long that
    /// [`verify`](Self::verify) should do it in another thread. What takes less is done now.
    #[must_use]
    pub(super) fn must_be_verified(&self) -> bool {
        // Those are compared before they are read in any case.
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

    /// Compares all of it with its CRC-32, in another thread, then tells `reply`, which gets no bytes.
    pub fn verify(&self, reply: Reply) {
        self.pass_to(self.size, self.is_little(verify::SMALL_DEFLATED), reply);
    }

    /// Compares a part more of it, then tells `reply`; says how far that will be.
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

    /// How much of it has been compared, in decoded bytes.
    pub(super) fn verified(&self) -> u64 {
        match &self.bytes {
            _ if self.verdict.is_confirmed() => self.size,
            Encoding::Stored(stored) => stored.passed(),
            Encoding::Deflated(deflated) => deflated.reader().frontier(),
            Encoding::Whole(..) => 0,
        }
    }

    /// Its number among the members of its archive.
    pub(super) fn number(&self) -> u32 {
        self.verdict.number()
    }

    /// Whether to make it again would cost more than to decode a few milliseconds, or would lose what is
    /// known of damage.
    pub(super) fn is_worth_keeping(&self) -> bool {
        let is_known_wrong = self.damage().is_some();
        let is_being_compared = self.begun.is_set() && !self.is_settled();
        let is_large = match &self.bytes {
            Encoding::Stored(_) => false,
            Encoding::Deflated(deflated) => deflated.encoded_size() >= LEAST_ENCODED,
            Encoding::Whole(..) => true,
        };
        is_known_wrong || is_being_compared || is_large
    }

    /// Whether there is nothing more to compare.
    pub(super) fn is_settled(&self) -> bool {
        self.verdict.is_settled()
    }

    /// Whether handles that are open read nothing any more though the member can be read: they may
    /// have read wrong bytes before.
    pub(super) fn is_superseded(&self) -> bool {
        matches!(self.verdict.error(), Some(Error::Refuted))
    }

    /// It is opened as `inode`. Look whether it has [`damage`](Self::damage) after this.
    pub(super) fn watch(&self, inode: u64) {
        self.verdict.watch(inode);
    }

    /// A first read has been served before it was compared: it shall be, in the background.
    fn begin_verifying(self: &Arc<Self>) {
        let is_whole = matches!(self.bytes, Encoding::Whole(..));
        if !is_whole && self.verdict.is_open() && self.begun.first() {
            self.background.finish(self);
        }
    }

    /// Saves its index from now on, if that is worth it.
    pub(super) fn save_index(&self) {
        if let Encoding::Deflated(deflated) = &self.bytes {
            deflated.save_index();
        }
    }

    /// Whether it may have a decoded copy, now or later.
    #[must_use]
    pub(super) fn may_be_copied(&self) -> bool {
        self.copy.is_some()
    }

    /// Its decoded copy, if there is one, for a handle that is being opened.
    #[must_use]
    pub(super) fn open_copy(&self, handle: &CopyHandle) -> Option<Arc<File>> {
        self.copy.as_ref()?.open(handle)
    }

    /// Its decoded copy, if there is one by now, for a read of an open handle.
    #[must_use]
    pub(super) fn copy<'a>(&self, handle: &'a CopyHandle) -> Option<&'a File> {
        self.copy.as_ref()?.of(handle)
    }

    /// The failure of `operation` with `error`, and whether the log has it already.
    #[must_use]
    pub fn failure(&self, operation: &'static str, error: Error) -> Failure {
        self.verdict.failure(operation, self.cause(error))
    }

    /// Why a read failed with `error`: bytes that make no sense since their archive is being
    /// overwritten are no damage.
    fn cause(&self, error: Error) -> Error {
        let is_damage = matches!(error, Error::Damaged(_));
        if is_damage && self.source.check().is_err() { Error::Overwritten } else { error }
    }

    /// Gives `asker` the bytes from `offset`, at most `size` and fewer only at the end: to `reply`, before
    /// this returns if they are at hand, as they are if it has a `copy`, else from another thread.
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
        // What was decoded before it was known to be wrong is not served after.
        let verdict = self.verdict.clone();
        let reply = move |result: Result<&[u8], Error>| reply(verdict.judge(result));
        // What is decoded already would still be right after the file was overwritten; but whether
        // a read finds it is chance, and an error that comes and goes helps nobody. One fstat(2).
        if !matches!(self.bytes, Encoding::Stored(_))
            && let Err(error) = self.source.check()
        {
            return reply(Err(error.into()));
        }
        let reply = match copy {
            None => reply,
            Some(file) => match read_copy(file, &range, reply) {
                None => return,
                // Whatever its disk said, the archive has the bytes as well.
                Some(reply) => reply,
            },
        };
        match &self.bytes {
            Encoding::Stored(stored) => with_scratch(|scratch| {
                let buf = slice_of(scratch, &range);
                reply(stored.read(buf, range.start).map(|()| &*buf));
            }),
            Encoding::Deflated(deflated) => {
                if let Some(copy) = &self.copy
                    && copy.asked(range.end - range.start)
                {
                    copy.make(deflated);
                }
                let later =
                    with_scratch(|scratch| deflated.read_ready(range.clone(), scratch, reply));
                if let Err(reply) = later {
                    deflated.read_later(range, Box::new(reply));
                }
            }
            Encoding::Whole(whole, _) => match whole.decoded() {
                Some(file) => with_scratch(|scratch| {
                    let buf = slice_of(scratch, &range);
                    let read = file.read_exact_at(buf, range.start);
                    reply(read.map(|()| &*buf).map_err(Error::from));
                }),
                None => whole.read_later(range, asker, Box::new(reply) as Reply),
            },
        }
    }

    /// A handle of it was closed: what nobody may want any more is given up.
    pub(super) fn closed(&self) {
        if let Encoding::Deflated(deflated) = &self.bytes {
            deflated.rest();
        }
    }

    /// Whether a handle of it was closed, and nobody has wanted what is not decoded yet since.
    #[cfg(test)]
    pub fn rests(&self) -> bool {
        matches!(&self.bytes, Encoding::Deflated(deflated) if deflated.rests())
    }

    /// The first `len` bytes, or all if there are fewer. Waits for decoding.
    ///
    /// # Errors
    /// As a read.
    pub fn head(self: &Arc<Self>, len: u64) -> Result<Vec<u8>, Error> {
        self.begin_verifying();
        let len = len.min(self.size);
        let mut head = vec![0; len as usize];
        match &self.bytes {
            Encoding::Stored(stored) => stored.read(&mut head, 0)?,
            Encoding::Deflated(deflated) => {
                let read = deflated.reader().read_at(&mut head, 0);
                deflated.judge();
                head.truncate(read?);
            }
            Encoding::Whole(whole, _) => head = whole.head(len)?,
        }
        self.verdict.judge(Ok(head))
    }

    /// What makes the member unfit as a whole, once it is known.
    #[must_use]
    pub(super) fn damage(&self) -> Option<Error> {
        match (self.verdict.error(), &self.bytes) {
            (Some(error), _) => Some(error.clone()),
            (None, Encoding::Stored(_) | Encoding::Deflated(_)) => None,
            (None, Encoding::Whole(whole, _)) => whole.failure(),
        }
    }

    /// How the member is to be read.
    #[must_use]
    pub fn state(&self) -> State {
        let size = self.size;
        match (self.damage(), &self.bytes) {
            (Some(damage), _) => State::Corrupt(damage.to_string()),
            (None, Encoding::Whole(whole, method)) => match whole.decoded() {
                Some(_) => State::Ready,
                None => State::Slow(method),
            },
            (None, _) if self.verdict.is_open() => {
                State::Unverified { done: self.verified(), size }
            }
            (None, Encoding::Stored(_)) => State::Ready,
            (None, Encoding::Deflated(deflated)) => match deflated.reader().stopped() {
                Some(error) => State::Corrupt(Error::from(error).to_string()),
                None => match deflated.reader().frontier() {
                    done if done >= size => State::Ready,
                    done => State::Indexing { done, size },
                },
            },
        }
    }
}

/// Answers from a copy; gives `reply` back if that fails.
fn read_copy<F: FnOnce(Result<&[u8], Error>)>(
    file: &File,
    range: &Range<u64>,
    reply: F,
) -> Option<F> {
    with_scratch(|scratch| {
        let buf = slice_of(scratch, range);
        match file.read_exact_at(buf, range.start) {
            Ok(()) => {
                reply(Ok(buf));
                None
            }
            Err(error) => {
                log::debug!("a decoded copy cannot be read at {}: {error}", range.start);
                Some(reply)
            }
        }
    })
}

fn slice_of<'a>(scratch: &'a mut Vec<u8>, range: &Range<u64>) -> &'a mut [u8] {
    let len = (range.end - range.start) as usize;
    if scratch.len() < len {
        scratch.resize(len, 0);
    }
    &mut scratch[..len]
}

#[cfg(test)]
pub(super) mod tests;
