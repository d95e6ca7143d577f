//! The decoded bytes of one member, however it is encoded.

use std::{
    cell::RefCell,
    fmt,
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex},
};

use super::{
    Error, Once, Pattern, Reply,
    copy::{CopyHandle, MemberCopy},
    deflated::Deflated,
    stored::Stored,
    whole::Whole,
};
use crate::archive::SourceFile;

/// The decoded bytes of one member, for all its handles.
#[derive(Debug)]
pub struct Content {
    /// The file it lies in.
    source: Arc<SourceFile>,
    size: u64,
    bytes: Encoding,
    read_ahead: u64,
    /// Its decoded copy, if it may have one.
    copy: Option<Arc<MemberCopy>>,
    /// Whether it is in the log that the member is damaged, and that its archive was overwritten.
    damage_logged: Once,
    overwrite_logged: Once,
}

#[derive(Debug)]
pub(super) enum Encoding {
    Stored(Stored),
    Deflated(Arc<Deflated>),
    Whole(Arc<Whole>, &'static str),
}

/// How a content is to be read, in words for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Any byte can be had at once.
    Ready,
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
        read_ahead: u64,
        copy: Option<Arc<MemberCopy>>,
    ) -> Self {
        let (damage_logged, overwrite_logged) = (Once::default(), Once::default());
        Self { source, size, bytes, read_ahead, copy, damage_logged, overwrite_logged }
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

    /// Saves its index from now on, if that is worth it.
    pub(super) fn save_index(&self) {
        if let Encoding::Deflated(deflated) = &self.bytes {
            deflated.save_index();
        }
    }

    /// Whether it may have a decoded copy, now or later.
    #[must_use]
    pub fn may_be_copied(&self) -> bool {
        self.copy.is_some()
    }

    /// Its decoded copy, if there is one, for a handle that is being opened.
    #[must_use]
    pub fn open_copy(&self, handle: &CopyHandle) -> Option<Arc<File>> {
        self.copy.as_ref()?.open(handle)
    }

    /// Its decoded copy, if there is one by now, for a read of an open handle.
    #[must_use]
    pub fn copy<'a>(&self, handle: &'a CopyHandle) -> Option<&'a File> {
        self.copy.as_ref()?.of(handle)
    }

    /// Whether `error` is news for the log, which then is said. The kernel tries each page of a
    /// damaged place again, and a reader each row of an archive that was overwritten; what else
    /// fails may be another thing each time.
    #[must_use]
    pub fn is_news(&self, error: &Error) -> bool {
        match error {
            Error::Damaged(_) => self.damage_logged.first(),
            Error::Overwritten => self.overwrite_logged.first(),
            _ => true,
        }
    }

    /// Why a read failed with `error`: bytes that make no sense since their archive is being
    /// overwritten are no damage.
    #[must_use]
    pub fn cause(&self, error: Error) -> Error {
        let is_damage = matches!(error, Error::Damaged(_));
        if is_damage && self.source.check().is_err() { Error::Overwritten } else { error }
    }

    /// Gives the bytes from `offset`, at most `size` and fewer only at the end, to `reply`: before
    /// this returns if they are at hand, as they are if it has a `copy`, else from another thread.
    pub fn read(
        &self,
        copy: Option<&File>,
        offset: u64,
        size: u32,
        reply: impl FnOnce(Result<&[u8], Error>) + Send + 'static,
    ) {
        let range = offset..self.size.min(offset.saturating_add(size.into()));
        if range.is_empty() {
            return reply(Ok(&[]));
        }
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
                    let read = file.and_then(|file| Ok(file.read_exact_at(buf, range.start)?));
                    reply(read.map(|()| &*buf));
                }),
                None => whole.read_later(range, Box::new(reply) as Reply),
            },
        }
    }

    /// As `read`, for a handle whose reads `pattern` follows. Decodes ahead of a sequential one, and
    /// gives up what the kernel has got: the buffers are used again for what comes, and what the
    /// kernel keeps is not kept twice. Fresh pages for 64 MiB took a tenth of a pass over 256 MiB
    /// (cat of labels 1488 MB/s, now 1656).
    pub fn read_along(
        &self,
        pattern: &Mutex<Pattern>,
        copy: Option<&File>,
        offset: u64,
        size: u32,
        reply: impl FnOnce(Result<&[u8], Error>) + Send + 'static,
    ) {
        let (Encoding::Deflated(deflated), None) = (&self.bytes, copy) else {
            return self.read(copy, offset, size, reply);
        };
        let around = {
            let mut pattern = pattern.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            pattern.follow(offset, size.into(), self.read_ahead)
        };
        if let Some(range) = around.behind {
            deflated.reader().give_up(range);
        }
        if let Some(range) = around.ahead {
            let range = range.start..range.end.min(self.size);
            if !range.is_empty() {
                deflated.read_ahead(range);
            }
        }
        self.read(copy, offset, size, reply);
        // Behind what is asked for in the queue of the pool.
        deflated.read_beside(around.strides);
    }

    /// A handle of it was closed: what nobody may want any more is given up.
    pub fn closed(&self) {
        if let Encoding::Deflated(deflated) = &self.bytes {
            deflated.rest();
        }
    }

    /// The first `len` bytes, or all if there are fewer. Waits for decoding.
    ///
    /// # Errors
    /// As a read.
    pub fn head(&self, len: u64) -> Result<Vec<u8>, Error> {
        let len = len.min(self.size);
        let mut head = vec![0; len as usize];
        match &self.bytes {
            Encoding::Stored(stored) => stored.read(&mut head, 0)?,
            Encoding::Deflated(deflated) => {
                let read = deflated.reader().read_at(&mut head, 0)?;
                head.truncate(read);
            }
            Encoding::Whole(whole, _) => head = whole.head(len)?,
        }
        Ok(head)
    }

    /// What makes the member unfit as a whole, once it is known.
    #[must_use]
    pub fn damage(&self) -> Option<Error> {
        match &self.bytes {
            Encoding::Stored(_) => None,
            Encoding::Deflated(deflated) => deflated.reader().damage().map(Error::from),
            Encoding::Whole(whole, _) => whole.decoded()?.err(),
        }
    }

    /// How the member is to be read.
    #[must_use]
    pub fn state(&self) -> State {
        if let Some(damage) = self.damage() {
            return State::Corrupt(damage.to_string());
        }
        match &self.bytes {
            Encoding::Stored(_) => State::Ready,
            Encoding::Deflated(deflated) => match deflated.reader().stopped() {
                Some(error) => State::Corrupt(Error::from(error).to_string()),
                None => match deflated.reader().frontier() {
                    done if done >= self.size => State::Ready,
                    done => State::Indexing { done, size: self.size },
                },
            },
            Encoding::Whole(whole, method) => match whole.decoded() {
                Some(_) => State::Ready,
                None => State::Slow(method),
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
mod tests {
    use std::{
        sync::mpsc::{self, Receiver},
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{
        archive::{Entry, testing},
        serve::{Limits, OpenArchive, Server},
    };

    const STRIDE: u64 = 2 << 20;
    const WAIT: Duration = Duration::from_secs(60);

    /// A member of eight strides that has been decoded once, with none at hand but the last.
    fn member(threads: usize) -> (Server, OpenArchive, Arc<Content>) {
        let limits = Limits {
            memory: 8 << 20,
            threads,
            temporary: std::env::temp_dir(),
            indexes: None,
            copies: None,
        };
        let server = Server::new(limits).unwrap();
        let plain: Vec<u8> = (0..8 * STRIDE / 8).flat_map(u64::to_le_bytes).collect();
        let archive = testing::open(&testing::zip(&[("x", &plain, true)])).unwrap();
        let Some((_, Entry::Member(id))) = testing::paths(&archive).pop() else { unreachable!() };
        let open = OpenArchive::new(archive, &server);
        let content = open.content(id).unwrap();
        let (sender, receiver) = mpsc::channel();
        let last = content.size() - 8;
        content.read(None, last, 8, move |bytes| sender.send(bytes.unwrap().to_vec()).unwrap());
        assert_eq!(receiver.recv_timeout(WAIT).unwrap(), (last / 8).to_le_bytes());
        (server, open, content)
    }

    /// Reads a row along a pattern; says its number when it is there.
    fn read(content: &Content, pattern: &Mutex<Pattern>, row: u64) -> Receiver<u64> {
        let (sender, receiver) = mpsc::channel();
        content.read_along(pattern, None, row * STRIDE, 8, move |bytes| {
            let number = u64::from_le_bytes(bytes.unwrap().try_into().unwrap());
            sender.send(number * 8 / STRIDE).unwrap();
        });
        receiver
    }

    fn is_at_hand(content: &Content, row: u64) -> bool {
        let Encoding::Deflated(deflated) = &content.bytes else { unreachable!() };
        deflated.reader().cached_span_at(row * STRIDE).is_some()
    }

    #[test]
    fn rows_that_even_strides_lead_to_are_decoded_before_they_are_asked_for() {
        let (_server, _open, content) = member(4);
        let pattern = Mutex::default();
        for row in 0..4 {
            assert!(!is_at_hand(&content, row), "{row}");
            assert_eq!(read(&content, &pattern, row).recv_timeout(WAIT), Ok(row));
        }
        let start = Instant::now();
        while !(is_at_hand(&content, 4) && is_at_hand(&content, 5)) {
            assert!(start.elapsed() < WAIT);
            std::thread::yield_now();
        }
        assert!(!is_at_hand(&content, 6));
    }

    #[test]
    fn what_is_asked_for_does_not_wait_for_what_strides_lead_to() {
        let (server, _open, content) = member(1);
        let pattern = Mutex::default();
        for row in 0..3 {
            assert_eq!(read(&content, &pattern, row).recv_timeout(WAIT), Ok(row));
        }
        let (release, released) = mpsc::channel::<()>();
        let (end, ended) = mpsc::channel();
        server.spawn(move || released.recv().unwrap());
        server.spawn(|| ());
        let row = read(&content, &pattern, 3);
        server.spawn(move || end.send(()).unwrap());
        release.send(()).unwrap();
        assert_eq!(row.recv_timeout(WAIT), Ok(3));
        ended.recv_timeout(WAIT).unwrap();
        assert!(!is_at_hand(&content, 4) && !is_at_hand(&content, 5), "others waited");
    }
}
